"""The replay's client in Python: inserts and samples a second, of one process each, the server a third.

    python benches/replay.py [--seconds S] [--rounds N] [--reverb PYTHON]

Items are transitions of 224 bytes: observation 24, action 6, reward, discount, next observation 24, all float32.
PYTHON is an interpreter with dm-reverb; its client is measured in the same rounds, so that what else the machine does
meets both. CPU is the client's alone, in microseconds an item.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

OBSERVATION, ACTION = 24, 6
BATCH_SIZE = 256
MAX_SIZE = 200_000
SHAPES = {
    "observation": (OBSERVATION,),
    "action": (ACTION,),
    "reward": (),
    "discount": (),
    "next_observation": (OBSERVATION,),
}


def steps(count=4096):
    generator = np.random.default_rng(1)
    columns = {name: generator.standard_normal((count, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


class Pmpo:
    def __init__(self):
        from pmpo import replay

        self.replay = replay

    def serve(self):
        table = self.replay.Table("replay", limiter="min_size", min_size_to_sample=1, max_size=MAX_SIZE)
        server = self.replay.Server([table])
        print(server.address, flush=True)
        server.wait()

    def write(self, address, items):
        """Writes all of `items`, and waits until they are stored."""
        with self.replay.Client(address).writer("replay") as writer:
            for step in items:
                writer.append(step)

    def batches(self, address):
        return self.replay.Client(address).sampler("replay", BATCH_SIZE)


class Reverb:
    def __init__(self):
        os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
        import reverb
        import tensorflow

        self.reverb, self.tensorflow = reverb, tensorflow

    def serve(self):
        spec = self.tensorflow.TensorSpec
        signature = {name: spec((1, *shape), self.tensorflow.float32) for name, shape in SHAPES.items()}
        table = self.reverb.Table(
            "replay",
            self.reverb.selectors.Uniform(),
            self.reverb.selectors.Fifo(),
            MAX_SIZE,
            self.reverb.rate_limiters.MinSize(1),
            signature=signature,
        )
        server = self.reverb.Server([table])
        print(f"localhost:{server.port}", flush=True)
        server.wait()

    def write(self, address, items):
        with self.reverb.Client(address).trajectory_writer(num_keep_alive_refs=1) as writer:
            for i, step in enumerate(items):
                writer.append(step)
                writer.create_item("replay", 1.0, {name: column[-1:] for name, column in writer.history.items()})
                if i % 20 == 0:
                    # At most so many are not confirmed.
                    writer.flush(20)
            writer.flush()

    def batches(self, address):
        client = self.reverb.Client(address)
        while True:
            drawn = [sample.data for sample in client.sample("replay", BATCH_SIZE, emit_timesteps=False)]
            yield [np.stack(column) for column in zip(*drawn)]


    def dataset(self, address):
        """By TensorFlow's pipeline, in C++."""
        of = self.reverb.TrajectoryDataset.from_table_signature
        dataset = of(address, "replay", max_in_flight_samples_per_worker=512)
        return iter(dataset.batch(BATCH_SIZE).prefetch(2))


PEERS = {"pmpo": Pmpo, "reverb": Reverb}


def measure(peer, what, address, seconds):
    """Items a second, and microseconds of this process's CPU an item."""
    peer, made, count = PEERS[peer](), steps(), 0
    if what != "insert":
        batches = peer.batches(address) if what == "sample" else peer.dataset(address)
        next(batches)
    begun, cpu = time.monotonic(), time.process_time()
    end = begun + seconds

    def timed():
        nonlocal count
        # The clock is asked for now and then: for `Pmpo` it would be a tenth of the work.
        while count % 64 or time.monotonic() < end:
            yield made[count % len(made)]
            count += 1

    if what == "insert":
        peer.write(address, timed())
    else:
        while time.monotonic() < end:
            next(batches)
            count += BATCH_SIZE
    print(count / (time.monotonic() - begun), 1e6 * (time.process_time() - cpu) / count, flush=True)
    # Without the ends of threads that are of nobody's concern here.
    os._exit(0)


def run(python, *arguments):
    command = [python, str(pathlib.Path(__file__).resolve()), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reverb", metavar="PYTHON")
    parser.add_argument("role", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role[:1] == ["serve"]:
        return PEERS[arguments.role[1]]().serve()
    if arguments.role:
        return measure(arguments.role[1], arguments.role[0], arguments.role[2], arguments.seconds)
    peers = {"pmpo": (sys.executable, ["insert", "sample"])}
    if arguments.reverb:
        peers["reverb"] = (arguments.reverb, ["insert", "sample", "dataset"])
    found = {}
    for _ in range(arguments.rounds):
        for peer, (python, calls) in peers.items():
            server = run(python, "serve", peer)
            address = server.stdout.readline().strip()
            for what in calls:
                said, _ = run(python, what, peer, address, "--seconds", arguments.seconds).communicate()
                found.setdefault((peer, what), []).append(tuple(map(float, said.split())))
            server.kill()
            server.wait()
    print(f"{'client':8} {'':8} {'items/s':>10} {'least':>10} {'most':>10} {'CPU us/item':>12}")
    for (peer, what), rounds in found.items():
        rates, cpu = zip(*rounds)
        middle = statistics.median
        print(f"{peer:8} {what:8} {middle(rates):10.0f} {min(rates):10.0f} {max(rates):10.0f} {middle(cpu):12.2f}")


if __name__ == "__main__":
    main()
