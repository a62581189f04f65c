//! A learner of a language model and its generators, over gRPC.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pmpo_proto::replay::v1::replay_client::ReplayClient;
use pmpo_proto::replay::v1::{ListTablesRequest, TableCounters};

use crate::common::{Process, wait_for};
use crate::{SETTINGS, train, works};

/// A reward server in OpenRLHF's shape, in Python, and where it listens.
struct RewardServer {
    child: Child,
    url: String,
}

impl RewardServer {
    fn start(folder: &Path) -> Self {
        let server = "import http.server, json\n\
                      class Judge(http.server.BaseHTTPRequestHandler):\n    \
                          def do_POST(self):\n        \
                              asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))\n        \
                              body = json.dumps({'rewards': [len(q) / 100 for q in asked['query']]}).encode()\n        \
                              self.send_response(200)\n        \
                              self.send_header('Content-Length', str(len(body)))\n        \
                              self.end_headers()\n        \
                              self.wfile.write(body)\n    \
                          def log_message(self, *_): pass\n\
                      server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Judge)\n\
                      open('port.new', 'w').write(str(server.server_port))\n\
                      import os; os.rename('port.new', 'port')\n\
                      server.serve_forever()\n";
        let mut command = Command::new("python3");
        command.current_dir(folder).args(["-c", server]);
        let child = command.stdin(Stdio::null()).spawn().expect("python3");
        let port = wait_for("the reward server's port", || {
            std::fs::read_to_string(folder.join("port")).ok()
        });
        Self {
            child,
            url: format!("http://127.0.0.1:{port}/get_reward"),
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.expect("kill").success());
    }
}

impl Drop for RewardServer {
    fn drop(&mut self) {
        // A frozen one is killed all the same; it may be over.
        let ended = self.child.kill().and_then(|()| self.child.wait());
        ended.expect("the reward server's end");
    }
}

/// What the queue has been given and has given.
fn queue(replay: SocketAddr) -> TableCounters {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(async {
        let mut client = ReplayClient::connect(format!("http://{replay}"))
            .await
            .unwrap();
        client.list_tables(ListTablesRequest {}).await.unwrap()
    });
    let tables = answer.into_inner().tables;
    let name = |table: &pmpo_proto::replay::v1::TableInfo| table.config.clone().unwrap().name;
    let table = tables.iter().find(|table| name(table) == "language");
    table.expect("the queue").counters.unwrap()
}

/// Two generators and a learner over gRPC: one generator is killed and comes back, the other's reward server, the
/// learner's too, stalls and goes on. The learner learns meanwhile from whoever is left, and every group is learnt from once, whole.
#[test]
fn a_killed_generator_and_a_stalled_reward_lose_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    works(folder, &["lm", "grammar", "model", "--steps", "60"]);
    let reward = RewardServer::start(folder);
    let role = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pmpo"));
        command.current_dir(folder).args(arguments);
        Process::start(command, folder, name)
    };
    let replay = role("replay", &["replay", "--listen", "127.0.0.1:0"]);
    let table = replay.address().to_string();
    let mut arguments = train("run", &["--model", "model", "--prompts", "grammar"]);
    arguments.extend([
        "--replay",
        &table,
        "--listen",
        "127.0.0.1:0",
        "--max-steps",
        "1000000",
    ]);
    arguments.extend(SETTINGS);
    let url = format!(
        "lm.reward={{kind=\"http\", url=\"{}\", timeout_s=0.3, tries=1}}",
        reward.url
    );
    arguments.extend(["--set", &url, "--set", "lm.eval_steps=10"]);
    arguments.extend(["--set", "lm.weights_dtype=bf16"]);
    let learner = role("learner", &arguments);
    let served = learner.address().to_string();
    let generator = |name: &str, index: &str, more: &[&str]| {
        let mut arguments = vec!["lm", "generator", "--replay", &table, "--learner", &served];
        arguments.extend(["--index", index]);
        arguments.extend(more);
        role(name, &arguments)
    };
    let vader = ["--set", "lm.reward.kind=vader"];
    let first = generator("first", "0", &vader);
    let second = generator("second", "1", &[]);
    let groups = |of: &Process| of.metric("pmpo_generator_groups_total", "");
    let steps = || learner.metric("pmpo_language_steps", "");
    let go_on = |what: &str| {
        let before = steps();
        wait_for(what, || (steps() >= before + 3.0).then_some(()));
    };
    go_on("steps with two generators");
    wait_for("groups of both", || {
        (groups(&first) > 0.0 && groups(&second) > 0.0).then_some(())
    });

    let left_out = || learner.log().matches("is left out").count();
    let before = left_out();
    reward.signal("-STOP");
    second.wait_metric("pmpo_generator_reward_failures_total", "", |failures| {
        failures >= 2.0
    });
    let held = groups(&second);
    go_on("steps while a reward server stalls");
    first.kill();
    // Whoever starts in its place has its number; what it writes are other groups.
    let again = generator("again", "0", &vader);
    go_on("steps after a generator was replaced");
    wait_for("an evaluation that is left out", || {
        (left_out() > before).then_some(())
    });
    go_on("steps after such an evaluation");
    assert_eq!(groups(&second), held, "nothing that was not judged");
    assert!(
        second.log().contains("held back until they can be judged"),
        "{}",
        second.log()
    );

    reward.signal("-CONT");
    second.wait_metric("pmpo_generator_groups_total", "", |groups| groups > held);
    // Weights have come all along.
    let newest = steps();
    second.wait_metric("pmpo_generator_policy_version", "", |version| {
        version >= newest
    });

    assert_eq!(again.stop(), Some(0));
    assert_eq!(second.stop(), Some(0));
    let dropped = |why: &str| learner.metric(&format!("pmpo_language_{why}_groups_total"), "");
    wait_for(
        "all that was written is read once, and learnt from or dropped",
        || {
            let TableCounters {
                size,
                inserts,
                samples,
            } = queue(replay.address());
            let taken = steps() * 4.0 + dropped("stale");
            // One is drawn ahead of its use, and fewer than a step's are kept for the next.
            let ahead = samples as f64 - taken;
            (inserts == size + samples && (0.0..=4.0).contains(&ahead)).then_some(())
        },
    );
    assert_eq!(dropped("refused"), 0.0, "none was torn");
    assert_eq!(learner.stop(), Some(0));
    assert_eq!(replay.stop(), Some(0));
    assert!(folder.join("run/checkpoints").read_dir().unwrap().count() > 0);
}
