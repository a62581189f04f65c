//! The bytes of a writer's stream, read message by message: each is read on only once its table has the
//! memory for all of it, which its first five bytes say.
//!
//! What HTTP/2 lets the peer send ahead, and the frame at hand, are not held back; a stream takes memory
//! for those when it opens ([`STREAM_BYTES`](crate::budget::STREAM_BYTES)).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body as HttpBody, Frame};
use pmpo_proto::WireError;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use crate::budget::{Pool, Share};
use crate::streams::{TAKING_TIMEOUT, too_slow};

/// The largest message before a table is named.
const MAX_OPEN_BYTES: u64 = 64 << 10;

/// What precedes a message in gRPC: whether it is compressed, and its length.
const HEADER_BYTES: usize = 5;

/// What a stream's bytes and who reads its messages share; an extension of its request.
#[derive(Clone, Default)]
pub(crate) struct Account(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    pool: Option<Pool>,
    shares: VecDeque<Share>,
}

impl Account {
    /// Messages from here on take their memory there.
    pub(crate) fn open(&self, pool: Pool) {
        self.state().pool = Some(pool);
    }

    /// The memory of the next message, in the order in which they come.
    pub(crate) fn share(&self) -> Option<Share> {
        self.state().shares.pop_front()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("holders of the lock do not panic")
    }
}

type Taking = Pin<Box<dyn Future<Output = Option<Share>> + Send>>;

/// A request's body that is read as there is memory for its messages.
pub(crate) struct Metered {
    inner: Body,
    account: Account,
    /// Read and not passed on.
    pending: Bytes,
    header: [u8; HEADER_BYTES],
    /// Of the header at hand.
    known: usize,
    /// Bytes of the message at hand that have not been passed on.
    left: u64,
    taking: Option<Taking>,
    /// Runs while a message that has begun is waited for.
    late: Option<Pin<Box<Sleep>>>,
    /// How long that may take.
    patience: Duration,
}

impl Metered {
    pub(crate) fn new(inner: Body, account: Account) -> Self {
        Self {
            inner,
            account,
            pending: Bytes::new(),
            header: [0; HEADER_BYTES],
            known: 0,
            left: 0,
            taking: None,
            late: None,
            patience: TAKING_TIMEOUT,
        }
    }

    /// The next bytes of `pending` that may be passed on: up to the end of a header or of a message.
    fn pass(&mut self) -> Option<Result<Bytes, Status>> {
        if self.pending.is_empty() || self.taking.is_some() {
            return None;
        }
        if self.left > 0 {
            let len = self.left.min(self.pending.len() as u64) as usize;
            self.left -= len as u64;
            if self.left == 0 {
                self.late = None;
            }
            return Some(Ok(self.pending.split_to(len)));
        }
        let len = (HEADER_BYTES - self.known).min(self.pending.len());
        let bytes = self.pending.split_to(len);
        self.header[self.known..][..len].copy_from_slice(&bytes);
        self.known += len;
        if self.known == HEADER_BYTES {
            self.known = 0;
            let [_, length @ ..] = self.header;
            self.left = u32::from_be_bytes(length).into();
            if let Err(status) = self.begin() {
                return Some(Err(status));
            }
        }
        Some(Ok(bytes))
    }

    /// A message of `left` bytes comes next.
    fn begin(&mut self) -> Result<(), Status> {
        let mut state = self.account.state();
        let State { pool, shares } = &mut *state;
        match pool {
            // It is whole already, and is none that a stream takes.
            _ if self.left == 0 => {}
            Some(pool) => match pool.try_take(self.left) {
                Some(share) => shares.push_back(share),
                None => self.taking = Some(Box::pin(pool.clone().take(self.left))),
            },
            None if self.left > MAX_OPEN_BYTES => {
                let left = self.left;
                let expected = format!("`open` of at most {MAX_OPEN_BYTES} bytes");
                return Err(WireError::field("request", expected, left).into());
            }
            None => {}
        }
        Ok(())
    }

    /// Waits for the memory of the message at hand.
    fn poll_taking(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(taking) = &mut self.taking else {
            return Poll::Ready(Ok(()));
        };
        let share = ready!(taking.as_mut().poll(context));
        self.taking = None;
        let Some(share) = share else {
            let expected = "a message that fits its part of the table's table_budget_bytes";
            let refused = WireError::field("request", expected, format!("{} bytes", self.left));
            return Poll::Ready(Err(refused.into()));
        };
        self.account.state().shares.push_back(share);
        Poll::Ready(Ok(()))
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            ready!(this.poll_taking(context))?;
            if let Some(passed) = this.pass() {
                return Poll::Ready(Some(passed.map(Frame::data)));
            }
            if this.left > 0 {
                let patience = this.patience;
                let late = this.late.get_or_insert_with(|| Box::pin(sleep(patience)));
                if late.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Some(Err(too_slow("a message did not arrive"))));
                }
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.pending = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.taking.is_none() && self.inner.is_end_stream()
    }
}

/// The service, the bodies of whose streams are metered.
#[derive(Clone)]
pub(crate) struct MeteredStreams<S>(pub(crate) S);

impl<S: NamedService> NamedService for MeteredStreams<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for MeteredStreams<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let path = request.uri().path();
        if !path.ends_with("/Insert") && !path.ends_with("/Sample") {
            return self.0.call(request);
        }
        let (mut parts, body) = request.into_parts();
        let account = Account::default();
        parts.extensions.insert(account.clone());
        let metered = Body::new(Metered::new(body, account));
        self.0.call(Request::from_parts(parts, metered))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::mpsc;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::budget::Budget;

    /// A message as gRPC frames it.
    fn message(bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[0][..], &length, &vec![7; bytes]].concat()
    }

    /// A body of frames as they are sent.
    fn body() -> (mpsc::Sender<Vec<u8>>, Metered, Account) {
        let (frames, queue) = mpsc::channel(64);
        let account = Account::default();
        let frames_in = ReceiverStream::new(queue)
            .map(|bytes: Vec<u8>| Ok::<_, Status>(Frame::data(Bytes::from(bytes))));
        let inner = Body::new(StreamBody(Box::pin(frames_in)));
        let metered = Metered::new(inner, account.clone());
        (frames, metered, account)
    }

    struct StreamBody(
        Pin<Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, Status>> + Send>>,
    );

    impl HttpBody for StreamBody {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.as_mut().poll_next(context)
        }
    }

    /// What can be read now.
    async fn read(metered: &mut Metered) -> Result<Vec<u8>, Status> {
        let mut all = Vec::new();
        loop {
            let next = poll_fn(|context| {
                Poll::Ready(match Pin::new(&mut *metered).poll_frame(context) {
                    Poll::Ready(Some(frame)) => Some(frame),
                    Poll::Ready(None) | Poll::Pending => None,
                })
            });
            match next.await {
                Some(frame) => all.extend_from_slice(&frame?.into_data().unwrap()),
                None => return Ok(all),
            }
        }
    }

    #[tokio::test]
    async fn messages_pass_unchanged_however_they_are_cut() {
        let sizes = [10, 0, 1, 70_000, 3];
        let sent: Vec<u8> = sizes.iter().flat_map(|&size| message(size)).collect();
        for cut in [1, 3, 5, 6, 1000, usize::MAX] {
            let (frames, mut metered, account) = body();
            let pool = Budget::new(8 << 20).samples;
            account.open(pool.clone());
            let mut received = Vec::new();
            for frame in sent.chunks(cut.min(sent.len())) {
                frames.send(frame.to_vec()).await.unwrap();
                received.extend(read(&mut metered).await.unwrap());
            }
            assert!(received == sent, "cut at {cut}");
            let shares: Vec<_> = std::iter::from_fn(|| account.share()).collect();
            assert_eq!(shares.len(), sizes.len() - 1, "an empty one takes nothing");
            drop(shares);
            assert_eq!(pool.used(), 0);
        }
    }

    #[tokio::test]
    async fn a_message_waits_for_its_memory_and_takes_it_all() {
        let (frames, mut metered, account) = body();
        let pool = Budget::new(8 << 20).samples;
        account.open(pool.clone());
        let held = pool.try_take(pool.bytes() - 1024).unwrap();
        frames.send(message(5_000)).await.unwrap();
        assert_eq!(read(&mut metered).await.unwrap().len(), HEADER_BYTES);
        assert!(account.share().is_none());
        drop(held);
        assert_eq!(read(&mut metered).await.unwrap().len(), 5_000);
        assert_eq!(pool.used(), 5 << 10);
        drop(account.share());
        assert_eq!(pool.used(), 0);
    }

    #[tokio::test]
    async fn what_never_has_room_is_refused() {
        let (frames, mut metered, account) = body();
        frames.send(message(100_000)).await.unwrap();
        let status = read(&mut metered).await.unwrap_err();
        assert!(status.message().contains("expected `open`"), "{status}");

        drop(account);
        let (frames, mut metered, account) = body();
        account.open(Budget::new(1 << 20).samples);
        frames.send(message(1 << 20)).await.unwrap();
        let status = read(&mut metered).await.unwrap_err();
        assert!(status.message().contains("table_budget_bytes"), "{status}");
    }

    /// A peer that is given memory and does not use it gives it back.
    #[tokio::test]
    async fn a_message_that_does_not_arrive_ends_its_stream() {
        let (frames, mut metered, account) = body();
        metered.patience = Duration::from_millis(50);
        let pool = Budget::new(8 << 20).samples;
        account.open(pool.clone());
        frames.send(message(5_000)[..100].to_vec()).await.unwrap();
        assert_eq!(read(&mut metered).await.unwrap().len(), 100);
        assert_eq!(pool.used(), 5 << 10);
        tokio::time::sleep(2 * metered.patience).await;
        let status = read(&mut metered).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        drop((metered, account));
        assert_eq!(pool.used(), 0);
    }
}
