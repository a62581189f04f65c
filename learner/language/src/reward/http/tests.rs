use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

/// Answers by path. Ends with its standard input, so that no failing test leaves it behind.
const SERVER: &str = r#"
import http.server, json, os, sys, threading, time

class Handler(http.server.BaseHTTPRequestHandler):
    flaky = 0

    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        queries, prompts = ask["query"], ask["prompts"]
        as_agreed = (list(ask) == ["query", "prompts", "labels"] and ask["labels"] == []
                     and self.headers["Content-Type"] == "application/json"
                     and all(q.startswith(p) for q, p in zip(queries, prompts, strict=True)))
        fine = json.dumps({"rewards": [len(q) for q in queries], "scores": [None], "extra_logs": {}})
        where = self.path[1:]
        if where == "flaky":
            Handler.flaky += 1
            if Handler.flaky == 3:
                return
            status = {1: 503, 2: 429}.get(Handler.flaky, 200)
            return self.say(status, fine)
        if where == "silent":
            time.sleep(5)
        if where == "drip":
            self.say(200, "", 1000)
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)
            return
        if where == "cut":
            return self.say(200, fine, 1000)
        if where == "huge":
            return self.say(200, " " * (4 << 20) + fine)
        if where.isdigit():
            return self.say(int(where), "so\nit is")
        if where == "fine":
            return self.say(200 if as_agreed else 400, fine)
        self.say(200, {
            "nested": '{"rewards": [[0.5], [[-1]]]}',
            "single": '{"rewards": 0.25}',
            "short": '{"rewards": [1]}',
            "nan": '{"rewards": [1, NaN]}',
            "null": '{"rewards": [1, null]}',
            "large": '{"rewards": [1, 1e39]}',
            "pair": '{"rewards": [1, [2, 3]]}',
            "words": '{"rewards": [1, "2"]}',
            "other": '{"scores": [1, 2]}',
            "bare": '[[1, 2]]',
            "text": 'good\nand bad',
            "deep": '[' * 100000,
        }[where])

    def say(self, status, text, length=None):
        self.send_response(status)
        self.send_header("Content-Length", length or len(text))
        if status == 302:
            self.send_header("Location", "/fine")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that has given up is no news."""

server = Server(("127.0.0.1", 0), Handler)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
print(server.server_port, flush=True)
server.serve_forever()
"#;

const SAMPLES: [Sample<'_>; 2] = [
    Sample {
        prompt: "The film",
        completion: " was \"good\"\n",
    },
    Sample {
        prompt: "",
        completion: "\u{e9}",
    },
];

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-IS", "-c", SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut port).unwrap();
        let port = port.trim().parse().unwrap();
        Self { child, port }
    }

    fn ask(&self, path: &str, samples: &[Sample<'_>], tries: u32) -> Result<Vec<f32>, RewardError> {
        let url = format!("http://127.0.0.1:{}/{path}", self.port);
        let slow = matches!(path, "silent" | "drip");
        let timeout = Duration::from_millis(if slow { 200 } else { 20_000 });
        let mut scorer = HttpScorer::new(&url, timeout, tries);
        scorer.first_wait = Duration::from_millis(1);
        scorer.score(samples)
    }

    /// The error of asking, after the URL.
    fn refusal(&self, path: &str) -> String {
        let error = self.ask(path, &SAMPLES, 2).unwrap_err().to_string();
        let url = format!("reward server http://127.0.0.1:{}/{path}: ", self.port);
        assert!(!error.contains('\n'), "{error}");
        error.strip_prefix(&url).unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_is_asked_in_openrlhfs_shape_and_again_while_that_may_help() {
    let server = Server::start();
    assert_eq!(server.ask("fine", &SAMPLES, 1).unwrap(), [20.0, 1.0]);
    assert_eq!(server.ask("nested", &SAMPLES, 1).unwrap(), [0.5, -1.0]);
    assert_eq!(server.ask("single", &SAMPLES[..1], 1).unwrap(), [0.25]);
    assert!(server.ask("404", &[], 1).unwrap().is_empty());
    // A 503, a 429, and a connection closed without an answer.
    assert_eq!(server.ask("flaky", &SAMPLES, 4).unwrap(), [20.0, 1.0]);
}

#[test]
fn an_error_is_one_line_with_what_came_and_what_was_expected() {
    let server = Server::start();
    let shape = format!("expected {SHAPE}");
    for (path, got) in [
        (
            "500",
            r"status 500 Internal Server Error: so\nit is (try 2 of 2)",
        ),
        ("404", r"status 404 Not Found: so\nit is (try 1 of 2)"),
        ("302", r"status 302 Found: so\nit is (try 1 of 2)"),
        ("silent", "no whole answer within 0.2 s (try 2 of 2)"),
        ("drip", "no whole answer within 0.2 s (try 2 of 2)"),
        ("huge", "an answer of more than 4194304 bytes (try 1 of 2)"),
        ("null", "rewards[1] is null (try 1 of 2)"),
        ("large", "rewards[1] is 1e+39 (try 1 of 2)"),
        ("pair", "rewards[1] is [2,3] (try 1 of 2)"),
        ("words", "rewards[1] is \"2\" (try 1 of 2)"),
        (
            "other",
            "no list of rewards in {\"scores\": [1, 2]} (try 1 of 2)",
        ),
        ("bare", "no list of rewards in [[1, 2]] (try 1 of 2)"),
    ] {
        assert_eq!(server.refusal(path), format!("{got}; {shape}"), "{path}");
    }
    assert_eq!(
        server.refusal("short"),
        "1 rewards (try 1 of 2); expected 2 rewards"
    );
    for (path, got) in [
        ("nan", ": {\"rewards\": [1, NaN]} "),
        ("text", ": good "),
        ("deep", ": [["),
    ] {
        let refusal = server.refusal(path);
        assert!(
            refusal.starts_with("not JSON (") && refusal.contains(got),
            "{refusal}"
        );
    }
    let cut = server.refusal("cut");
    assert!(
        cut.contains("(try 2 of 2)") && cut.ends_with(&shape),
        "{cut}"
    );
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let mut server = Server::start();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let refusal = server.refusal("fine");
    assert!(
        refusal.contains("refused (os error 111) (try 2 of 2)"),
        "{refusal}"
    );
}

#[test]
fn waits_double_up_to_half_a_minute_and_differ() {
    let waits: Vec<u64> = (1..8)
        .map(|tried| wait(FIRST_WAIT, tried, 0.0).as_secs())
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(wait(FIRST_WAIT, u32::MAX, 0.5), LONGEST_WAIT.mul_f64(1.25));
    let jitters = [jitter(), jitter()];
    assert!(jitters.iter().all(|jitter| (0.0..1.0).contains(jitter)));
    assert_ne!(jitters[0], jitters[1]);
}

#[test]
fn urls_that_cannot_be_asked_are_refused() {
    for url in ["http://a", "http://[::1]:5000/x?y=z"] {
        check_url(url).unwrap();
    }
    for url in [
        "",
        "a",
        "/a",
        "a:80",
        "https://a",
        "http://",
        "http:///a",
        "http://u:secret@a",
        "http://a b",
    ] {
        let refusal = check_url(url).unwrap_err().to_string();
        assert!(
            refusal.starts_with("url: expected http://host:port/path, got "),
            "{url}"
        );
        assert!(!refusal.contains("secret"), "{refusal}");
    }
}
