//! Roles as processes, and waiting for what they do.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pmpo_service::announce::Announcement;

pub const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

pub fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(
            start.elapsed() < LIMIT,
            "{what} did not happen within {LIMIT:?}"
        );
        std::thread::sleep(POLL);
    }
}

/// What `/metrics` at `address` says.
pub fn metrics(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).expect("the metrics' port");
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request).expect("a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}

/// A role as a process, its log in a file; killed when dropped.
pub struct Process {
    pub name: String,
    announcement: Announcement,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`, a role with its flags, and waits until it has told its addresses; its log,
    /// appended to, and its announcement are in `folder` under `name`.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let [announce, log] = ["json", "log"].map(|kind| folder.join(format!("{name}.{kind}")));
        if announce.exists() {
            std::fs::remove_file(&announce).expect("a former process's announcement");
        }
        let stderr = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log);
        command.arg("--announce").arg(&announce);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command
            .stderr(stderr.expect("a log"))
            .spawn()
            .expect("pmpo");
        let announcement = wait_for(name, || {
            let ended = child.try_wait().expect("wait");
            let log = || std::fs::read_to_string(&log).expect("the log");
            assert!(ended.is_none(), "{ended:?}: {}", log());
            Announcement::read(&announce).expect("an announcement")
        });
        Self {
            name: name.to_owned(),
            announcement,
            log,
            child,
        }
    }

    pub fn pid(&self) -> u32 {
        self.announcement.pid
    }

    /// Where it serves gRPC.
    pub fn address(&self) -> SocketAddr {
        self.announcement.listen.expect("it serves")
    }

    /// Where its `/metrics` is.
    pub fn metrics(&self) -> SocketAddr {
        self.announcement.metrics.expect("it has metrics")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// The sum of a metric's series whose labels hold `label`; 0 where there is none.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = metrics(self.metrics());
        let series = text.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let whole = labels.is_empty() || labels.starts_with('{');
            (whole && labels.contains(label)).then(|| value.parse::<f64>().expect("a number"))
        });
        series.sum()
    }

    pub fn wait_metric(&self, name: &str, label: &str, holds: impl Fn(f64) -> bool) -> f64 {
        wait_for(&format!("{name} of {}", self.name), || {
            Some(self.metric(name, label)).filter(|&value| holds(value))
        })
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(status.expect("kill").success());
    }

    /// Its exit code after SIGTERM.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        wait_for("the end", || self.child.try_wait().expect("wait")).code()
    }

    pub fn kill(mut self) {
        self.child.kill().expect("it is alive");
        self.child.wait().expect("its end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be over; a frozen one is killed all the same.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("{} could not be ended: {error}", self.name);
        }
    }
}
