"""Replay servers for the checks: `pmpo replay` as a process of its own, on a port the system chooses."""

import json
import pathlib
import signal
import subprocess
import tempfile
import time

PATIENCE_S = 60

# One for each kind of check. `pmpo replay` gives the table `replay` the length that its own learner needs.
CONFIG = """
# Small, so that many segments of the log begin and go.
[replay.disk]
segment_bytes = 262144

[replay.table]
name = "plain"
limiter = "none"

[[replay.tables]]
name = "dtypes"
limiter = "none"

[[replay.tables]]
name = "images"
limiter = "none"

[[replay.tables]]
name = "large"
limiter = "none"

# Ten items before the first sample; then at most fourteen inserts and eight samples ahead.
[[replay.tables]]
name = "limited"
samples_per_insert = 2.0
min_size_to_sample = 10
error_buffer = 8.0

[[replay.tables]]
name = "sequences"
sequence_length = 3
limiter = "min_size"
min_size_to_sample = 1
sampler = "max_heap"

[[replay.tables]]
name = "ragged"
sequence_length = 4
min_sequence_length = 1
limiter = "min_size"
min_size_to_sample = 1
sampler = "fifo"
max_times_sampled = 1

[[replay.tables]]
name = "queue"
limiter = "queue"
sampler = "fifo"
max_size = 1000
max_times_sampled = 1
"""


class Server:
    """A server that is running; stops with the `with` block."""

    def __init__(self, binary, data_dir=None, address="127.0.0.1:0"):
        self.folder = tempfile.TemporaryDirectory(prefix="conformance-")
        folder = pathlib.Path(self.folder.name)
        config = folder / "config.toml"
        config.write_text(CONFIG)
        announcement = folder / "replay.json"
        command = [binary, "replay", "--config", config, "--listen", address]
        command += ["--metrics", "127.0.0.1:0", "--announce", announcement]
        if data_dir is not None:
            command += ["--data-dir", data_dir]
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + PATIENCE_S
        while not announcement.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError(f"the server does not start:\n{self.log.read()}")
            time.sleep(0.02)
        self.address = json.loads(announcement.read_text())["listen"]

    def kill(self):
        """Ends it without any chance to say so."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()
        self.folder.cleanup()
