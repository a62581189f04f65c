//! One question to one of our own processes over HTTP.

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What was answered.
pub(crate) struct Answer {
    /// The first line, for example `HTTP/1.0 200 OK`.
    pub(crate) status: String,
    pub(crate) body: String,
}

impl Answer {
    /// Whether the status is 200.
    pub(crate) fn is_ok(&self) -> bool {
        self.status.split(' ').nth(1) == Some("200")
    }
}

/// `GET path` of `address`, at most `limit` bytes of the answer.
///
/// # Errors
/// Nobody answers, or not in HTTP.
pub(crate) async fn get(address: &str, path: &str, limit: u64) -> Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    // 1.0 has no chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(limit).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer in HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    Ok(Answer {
        status: status.to_owned(),
        body: body.to_owned(),
    })
}
