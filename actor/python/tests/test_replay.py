"""`pmpo.replay`: real servers, real clients, and what goes wrong between them."""

import multiprocessing
import os
import pathlib
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import pmpo

from pmpo import replay
from pmpo.replay import Blocked, Client, Column, Forked, Refused, ReplayError, Server, Table, Unavailable

ANY = {"limiter": "none"}
STEP = {"x": np.arange(3, dtype=np.float32), "n": np.int64(0)}


def steps(numbers):
    """Steps that are told apart by `n`."""
    return [{"x": np.full(3, n, np.float32), "n": np.int64(n)} for n in numbers]


def write(client, table, numbers, **options):
    with client.writer(table, **options) as writer:
        for step in steps(numbers):
            writer.append(step)


@pytest.fixture
def client():
    """Of a server with a table of single steps that makes nobody wait."""
    with Server([Table("replay", **ANY)]) as server:
        yield Client(server.address)


def free_port():
    with socket.socket() as socket_:
        socket_.bind(("127.0.0.1", 0))
        return socket_.getsockname()[1]


def test_columns_of_every_dtype_come_back_as_they_went(client):
    generator = np.random.default_rng(1)
    names = ["uint8", "int8", "int16", "int32", "int64", "uint32", "float16", "float32", "float64"]
    written = [{name: generator.integers(0, 100, (2, 3)).astype(name) for name in names} for _ in range(20)]
    for i, step in enumerate(written):
        step.update(bool=generator.random(5) < 0.5, n=np.int64(i), deep=np.full((2, 1, 2), i, np.float32))
    with client.writer("replay") as writer:
        for step in written:
            writer.append(step)
    assert writer.acknowledged_items == 20 and writer.in_flight_steps == 0
    batch = client.sampler("replay", 50).next(timeout=5)
    assert set(batch.data) == set(written[0])
    assert batch.data["deep"].shape == (50, 2, 1, 2) and batch.data["n"].shape == (50,)
    for i, n in enumerate(batch.data["n"]):
        for name, column in batch.data.items():
            assert column.dtype == written[n][name].dtype, name
            np.testing.assert_array_equal(column[i], written[n][name], name)
    assert batch.keys.dtype == np.uint64 and batch.times_sampled.min() >= 1
    np.testing.assert_allclose(batch.probabilities, 1 / 20)
    assert batch.priorities is None and (batch.size, batch.inserts) == (20, 20) and batch.samples >= 50


def test_arrays_are_the_readers_own_memory_and_outlive_the_batch(client):
    # Of one message, and of several: 20 MB.
    with client.writer("replay") as writer:
        for n in range(4):
            writer.append({"small": np.float32(n), "large": np.full((1000, 100), n, np.float32)})
    sampler = client.sampler("replay", 50)
    data = sampler.next().data
    sampler.close()
    for name, column in data.items():
        assert column.flags.writeable and column.flags.aligned and column.flags.c_contiguous, name
        # Nobody's copy: what owns the memory is Rust's, and DLPack hands the same memory on.
        assert type(column.base).__name__ == "Buffer"
        assert np.shares_memory(column, np.from_dlpack(column))
    np.testing.assert_array_equal(data["large"][:, 7, 7], data["small"])
    data["small"][:] = -1


def write_items_of_their_own_lengths(client):
    with client.writer("episodes") as writer:
        for step in steps(range(3)):
            writer.append(step)
        writer.create_item()  # the episode
        writer.end_episode()
        for step in steps(range(10, 16)):
            writer.append(step)
        writer.create_item()  # as much of it as fits
        for step in steps(range(16, 18)):
            writer.append(step)
        writer.create_item(slice(-2, None))
        writer.append(steps([18])[0])
        writer.create_item(1)
        for bad in (0, 5, slice(-5, None), slice(0, 2)):
            with pytest.raises(ValueError, match="expected 1 to 4 steps that end with the newest"):
                writer.create_item(bad)


def test_items_have_lengths_of_their_own():
    table = Table("episodes", sequence_length=4, min_sequence_length=1, sampler="fifo", max_times_sampled=1, **ANY)
    with Server([table]) as server:
        client = Client(server.address)
        write_items_of_their_own_lengths(client)
        with client.sampler("episodes", 4, prefetch=1) as sampler:
            batch = sampler.next(timeout=5)
        expected = [[0, 1, 2, 0], [12, 13, 14, 15], [16, 17, 0, 0], [18, 0, 0, 0]]
        np.testing.assert_array_equal(batch.data["n"], expected)
        assert batch.data["x"].shape == (4, 4, 3) and batch.lengths.dtype == np.uint32
        np.testing.assert_array_equal(batch.lengths, [3, 4, 2, 1])
        np.testing.assert_array_equal(batch.mask, np.arange(4) < batch.lengths[:, None])
        np.testing.assert_array_equal(batch.data["x"].sum((1, 2)), 3 * np.sum(expected, 1))
        write_items_of_their_own_lengths(client)
        batch = client.sampler("episodes", 4, padded=False).next(timeout=5)
        np.testing.assert_array_equal(batch.data["n"], [0, 1, 2, 12, 13, 14, 15, 16, 17, 18])
        np.testing.assert_array_equal(batch.lengths, [3, 4, 2, 1])
        assert batch.mask is None
        assert client.tables()["episodes"].config.min_sequence_length == 1


def test_tables_are_made_and_copied_while_a_server_serves(tmp_path):
    with Server([Table("replay", **ANY)], data_dir=tmp_path / "data") as server:
        client = Client(server.address)
        table = Table("more", sequence_length=2, sampler="lifo", **ANY)
        made = client.create_table(table)
        assert (made.config.name, made.config.sampler, made.durable) == ("more", "lifo", True)
        assert client.create_table(table) == made
        with pytest.raises(Refused, match="expected that of the table `more`"):
            client.create_table(Table("more", **ANY))
        with pytest.raises(Refused, match="config.sequence_length: expected 1 to 65536, got 0"):
            client.create_table(Table("none", sequence_length=0))
        with pytest.raises(TypeError, match="table: expected pmpo.replay.Table, got str"):
            client.create_table("more")
        write(client, "replay", range(5))
        paths = [pathlib.Path(client.checkpoint(keep)) for keep in (None, None, 2)]
        assert [path.is_dir() for path in paths] == [False, True, True]
        with pytest.raises(ValueError):
            client.checkpoint(0)
    with Server([Table("replay", **ANY)], data_dir=paths[2]) as server:
        tables = Client(server.address).tables()
        assert tables["replay"].size == 5 and tables["more"].config == made.config


def test_numbers_other_dtypes_and_a_given_signature(client):
    signature = {"reward": Column("float32"), "action": Column("uint8"), "maybe": Column("float64", (2,), True)}
    with client.writer("replay", signature) as writer:
        writer.append({"reward": 1, "action": 200, "maybe": [np.nan, 1.0]})
        writer.append({"reward": np.float64(0.5), "action": np.uint8(3), "maybe": np.array([1, 2])[::-1]})
        for bad, complaint in [
            ({"reward": np.array([1.0]), "action": 0, "maybe": [0, 0]}, "`reward`: expected the shape (), got (1,)"),
            ({"reward": 0.0, "action": 0.5, "maybe": [0, 0]}, "`action`: expected uint8, got float64"),
            ({"reward": 0.0, "action": 256, "maybe": [0, 0]}, "`action`: expected uint8, got int64"),
            ({"reward": float("nan"), "action": 0, "maybe": [0, 0]}, "`reward`: expected finite values, got NaN"),
            ({"reward": 1e300, "action": 0, "maybe": [0, 0]}, "`reward`: expected finite values, got inf"),
            ({"reward": 0.0, "action": 0}, "expected the columns"),
            ({"reward": 0.0, "action": 0, "maybe": [0, 0], "more": 0}, "expected the columns"),
        ]:
            with pytest.raises(ValueError) as refused:
                writer.append(bad)
            assert complaint in str(refused.value)
    # What was refused has left nothing behind.
    info = client.tables()["replay"]
    assert (info.size, info.inserts) == (2, 2) and info.signature == signature
    data = client.sampler("replay", 8).next(timeout=5).data
    assert set(data["reward"]) <= {1.0, 0.5} and set(data["action"]) <= {200, 3}
    assert np.isnan(data["maybe"]).any() or (data["maybe"] == [2, 1]).all()


def test_columns_that_no_table_can_hold_are_refused(client):
    for step, complaint in [
        ({"c": np.complex64(1)}, "column `c`: expected a dtype of"),
        ({"s": {"nested": np.float32(1)}}, "column `s`: expected an array, got a mapping"),
        ({"u": np.uint64(1)}, "got uint64"),
        ({}, "columns"),
        ({"e": np.zeros((0, 2))}, "at least one byte"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            client.writer("replay").append(step)
    with pytest.raises(TypeError, match="name: array"):
        client.writer("replay").append(3)
    assert client.tables()["replay"].signature is None


def test_items_are_the_newest_steps_and_no_others():
    with Server([Table("replay", sequence_length=3, sampler="prioritized", **ANY)]) as server:
        client = Client(server.address)
        with client.writer("replay") as writer:
            def refused(complaint, *arguments, **keywords):
                with pytest.raises(ValueError, match=complaint):
                    writer.create_item(*arguments, **keywords)

            refused("expected 3 steps, got 0")
            for n, step in enumerate(steps(range(10))):
                writer.append(step)
                if n == 1:
                    refused("expected 3 steps since the episode began, got 2")
                if n == 2:
                    refused("the 3 steps that end with the newest", 2)
                    refused("the 3 steps that end with the newest", slice(-3, -1))
                    refused("priority: expected 0 to 1e30, got -1", priority=-1.0)
                    writer.create_item(slice(-3, None))
                    refused("the newest step ends one already", 3)
                if n == 5:
                    writer.end_episode()
                if n in (4, 9):
                    # With and without a priority: they cannot share a message.
                    writer.create_item(3, priority=2.0)
                if n == 7:
                    refused("since the episode began, got 2")
            with pytest.raises(ValueError, match="give its priority to create_item"):
                writer.append(steps([10])[0], priority=1.0)
            writer.append(steps([10])[0])
            writer.flush(timeout=5)
            refused("flush after create_item")
        assert writer.acknowledged_items == 3
        batch = client.sampler("replay", 60).next(timeout=5)
        assert batch.data["x"].shape == (60, 3, 3) and batch.data["n"].shape == (60, 3)
        found = {tuple(map(int, item)): priority for item, priority in zip(batch.data["n"], batch.priorities)}
        assert found == {(0, 1, 2): 1.0, (2, 3, 4): 2.0, (7, 8, 9): 2.0}


def test_where_a_step_is_an_item_there_is_nothing_to_create(client):
    writer = client.writer("replay")
    writer.append(STEP)
    with pytest.raises(ValueError, match="each step is one by itself .* give its priority to append"):
        writer.create_item(1)
    # Sent without another call, for a sampler may wait for it.
    assert client.sampler("replay", 1).next(timeout=5).data["n"] == [0]


def test_priorities_order_draws_and_are_updated():
    table = Table("replay", sampler="max_heap", **ANY)
    with Server([table]) as server:
        client = Client(server.address)
        with client.writer("replay") as writer:
            for n, priority in enumerate([1.0, 5.0, None, 3.0]):
                writer.append(steps([n])[0], priority=priority)
        sampler = client.sampler("replay", 1, prefetch=1)
        first = sampler.next(timeout=5)
        # The one without took the largest so far, and is younger.
        assert first.data["n"] == [1] and first.priorities == [5.0]
        assert client.update_priorities("replay", first.keys, [0.5]) == (1, 0)
        # What was drawn ahead may still be the former.
        drawn = [int(sampler.next(timeout=5).data["n"][0]) for _ in range(4)]
        assert drawn[-1] == 2, drawn
        sampler.update_priorities(first.keys, np.array([9], np.float32))
        deadline = time.monotonic() + 5
        while int(sampler.next(timeout=5).data["n"][0]) != 1:
            assert time.monotonic() < deadline
        assert client.delete_items("replay", first.keys) == (1, 0)
        assert client.update_priorities("replay", first.keys, [1]) == (0, 1)
        for keys, priorities, complaint in [
            (first.keys, [-1.0], "priorities"),
            (first.keys, [1.0, 2.0], "priorities"),
            ([0.5], [1.0], r"keys: expected uint64 \[items\], got float64"),
        ]:
            with pytest.raises((ValueError, Refused), match=complaint):
                client.update_priorities("replay", keys, priorities)


def test_tables_are_listed_changed_and_emptied(client):
    write(client, "replay", range(10))
    write(client, "replay", range(7))
    info = client.tables()["replay"]
    assert (info.size, info.inserts, info.samples, info.durable, info.blocked) == (10 + 7, 17, 0, False, ())
    assert info.bytes >= 17 * 20 and info.signature == {"x": Column("float32", (3,)), "n": Column("int64")}
    assert info.config.limiter == "none" and info.config.sampler == "uniform" and info.config.max_size == 1_000_000
    assert sorted(client.list_writers("replay").values()) == [7, 10]
    assert client.configure("replay", max_size=5).config.max_size == 5
    assert client.tables()["replay"].size == 5
    with pytest.raises(Refused, match="max_size") as refused:
        client.configure("replay", max_size=0)
    assert refused.value.code == "invalid_argument"
    emptied = client.reset("replay")
    assert (emptied.size, emptied.inserts, emptied.bytes, emptied.signature) == (0, 17, 0, None)
    # And takes another signature.
    with client.writer("replay") as writer:
        writer.append({"other": np.zeros(2)})
    assert list(client.tables()["replay"].signature) == ["other"]


def test_who_is_blocked_for_too_long_is_told_by_what():
    tables = [
        Table("ratio", samples_per_insert=1.0, min_size_to_sample=4, error_buffer=4.0, max_batch_size=4),
        Table("queue", limiter="queue", max_size=3, max_times_sampled=1, sampler="fifo", remover="fifo"),
    ]
    with Server(tables) as server:
        client = Client(server.address)
        sampler = client.sampler("ratio", 4, prefetch=1, timeout=0.1)
        for size in (0, 3):
            with pytest.raises(Blocked, match="sampler of table `ratio`") as blocked:
                next(sampler)
            error = blocked.value
            assert (error.reason, error.counter, error.value, error.bound) == ("min_size", "size", size, 4)
            write(client, "ratio", range(3))
        next(sampler)
        with pytest.raises(Blocked) as blocked:
            for _ in range(10):
                sampler.next(timeout=0.1)
        assert blocked.value.reason == "inserts" and blocked.value.value < blocked.value.bound
        assert isinstance(blocked.value, TimeoutError) and blocked.value.seconds > 0
        assert client.tables()["ratio"].blocked[0].reason == "inserts"

        writer = client.writer("queue", max_in_flight_steps=4, timeout=0.1)
        with pytest.raises(Blocked, match="writer of table `queue`") as blocked:
            for n, step in enumerate(steps(range(100))):
                writer.append(step)
        assert (blocked.value.reason, blocked.value.counter, blocked.value.bound) == ("samples", "size", 2) and n <= 8
        with pytest.raises(Blocked):
            writer.flush(timeout=0.1)
        # What waited is still there, in order, and what was refused is not.
        with client.sampler("queue", 1, timeout=5) as sampler:
            assert [int(next(sampler).data["n"][0]) for _ in range(n)] == list(range(n))
        writer.close(timeout=5)
        assert writer.acknowledged_items == n


def test_what_cannot_be_is_refused_in_one_line(client):
    for call in (client.writer, lambda table: client.sampler(table, 1)):
        with pytest.raises(Refused, match=r"table: expected one of \[\"replay\"\], got `other`") as refused:
            call("other")
        assert refused.value.code == "not_found" and isinstance(refused.value, ReplayError)
    write(client, "replay", range(3))
    with pytest.raises(Refused, match="signature") as refused:
        with client.writer("replay") as writer:
            writer.append({"x": np.zeros(4, np.float32), "n": 0})
    assert refused.value.code == "failed_precondition"
    with pytest.raises(Refused, match="no priorities|NO_PRIORITIES|priorit"):
        client.update_priorities("replay", [1], [1.0])
    with pytest.raises(Refused, match="batch"):
        client.sampler("replay", 1_000_000).next(timeout=5)
    for make, complaint in [
        (lambda: Client("nowhere"), "address `nowhere`: expected host:port"),
        (lambda: Client("a:1", timeout=-1.0), "timeout: expected seconds"),
        (lambda: Client("a:1", role="king"), "role: expected"),
        (lambda: client.sampler("replay", 0), "batch_size: expected at least 1, got 0"),
        (lambda: client.sampler("replay", 1, compression="zip"), "compression: expected none, lz4 or zstd"),
        (lambda: client.sampler("replay", 1).next(timeout=float("nan")), "timeout"),
        (lambda: Server([]), "tables: expected at least one, got none"),
        (lambda: Server([Table("a"), Table("a")]), r"tables\[0\].name: expected another than `a`"),
        (lambda: Server([Table("a", max_size=0)]), "table.max_size: expected"),
        (lambda: Server([Table("a", sampler="best")]), "unknown variant `best`"),
        (lambda: Server([Table("a")], config={"speed": 1}), "unknown field `speed`"),
        (lambda: Server([Table("a")], host="here"), "host: expected an address of IP"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            make()
    with pytest.raises(TypeError, match="tables: expected pmpo.replay.Table, got str"):
        Server(["replay"])
    with pytest.raises(ReplayError, match="cannot listen on 0.0.0.0:0 without mutual TLS or tokens"):
        Server([Table("a")], host="0.0.0.0")
    with pytest.raises(ReplayError, match="cannot listen on"):
        Server([Table("a")], port=int(client.address.rpartition(":")[2]))
    with pytest.raises(ReplayError, match="data directory /proc/none"):
        Server([Table("a")], data_dir="/proc/none")
    closed = client.sampler("replay", 1)
    closed.close()
    assert list(closed) == []
    with pytest.raises(ReplayError, match="this Sampler was closed"):
        closed.next()


def test_a_server_that_is_away_is_named():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=f"no answer of the replay at {address}: .*refused") as away:
        Client(address, timeout=0.3).tables()
    assert isinstance(away.value, ConnectionError)


def test_waiting_lets_other_threads_run(client):
    sampler, drawn = client.sampler("replay", 2), []
    thread = threading.Thread(target=lambda: drawn.append(sampler.next(timeout=20)))
    thread.start()
    begun, turns = time.monotonic(), 0
    while time.monotonic() - begun < 0.3:
        turns += 1
    assert thread.is_alive() and turns > 1000
    write(client, "replay", range(3))
    thread.join(10)
    assert len(drawn) == 1


WAITS = {
    "sampler": "client.sampler('replay', 1).next()",
    "writer": "writer = client.writer('replay', max_in_flight_steps=4)\nwhile True: writer.append({'x': 1.0})",
    "server": "server.wait()",
}


@pytest.mark.parametrize("who", WAITS)
def test_an_interrupt_ends_every_wait(who):
    table = "Table('replay', limiter='queue', max_size=4, max_times_sampled=1)"
    script = f"""
from pmpo.replay import Client, Server, Table
server = Server([{table}])
client = Client(server.address)
print("waits", flush=True)
{WAITS[who]}
"""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "waits\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert said.strip().endswith("KeyboardInterrupt") and process.returncode != 0


def in_a_fork(server, client, writer, sampler, answers):
    for call in (
        lambda: server.address,
        client.tables,
        lambda: writer.append(STEP),
        lambda: writer.flush(1),
        lambda: sampler.next(1),
        lambda: next(sampler),
    ):
        try:
            answers.put(f"worked: {call()}")
        except Forked as error:
            answers.put(str(error))
    # What is made here is this process's own; what came along goes without a lock.
    del writer, sampler, server
    own = Client(client.address)
    write(own, "replay", [100])
    answers.put(int(own.sampler("replay", 1).next(timeout=10).size))


def test_a_process_that_was_forked_is_told_so_and_may_begin_anew():
    with Server([Table("replay", **ANY)]) as server:
        client = Client(server.address)
        writer, sampler = client.writer("replay"), client.sampler("replay", 1)
        for step in steps(range(5)):
            writer.append(step)
        sampler.next(timeout=5)
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        child = context.Process(target=in_a_fork, args=(server, client, writer, sampler, answers))
        child.start()
        got = [answers.get(timeout=20) for _ in range(7)]
        child.join(20)
        assert child.exitcode == 0
        names = ["Server", "Client", "Writer", "Writer", "Sampler", "Sampler"]
        for name, answer in zip(names, got):
            assert answer.startswith(f"this {name} was made in process {os.getpid()}"), answer
        assert got[6] == 6
        # The parent's own go on.
        writer.append(STEP)
        writer.close(timeout=5)
        assert sampler.next(timeout=5) and client.tables()["replay"].inserts == 7


def sizes(client, answers):
    answers.put(client.tables()["replay"].size)


def test_a_client_is_pickled_for_processes_of_their_own(client):
    write(client, "replay", range(4))
    again = pickle.loads(pickle.dumps(Client(client.address, timeout=3.0, role="sampler")))
    assert again.address == client.address and again.tables()["replay"].size == 4
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    child = context.Process(target=sizes, args=(client, answers))
    child.start()
    assert answers.get(timeout=30) == 4
    child.join(20)
    assert child.exitcode == 0


SERVE = """
import sys
from pmpo.replay import Server, Table
server = Server([Table("replay", limiter="none")], port=int(sys.argv[1]), data_dir=sys.argv[2])
print("serves", flush=True)
server.wait()
"""


def serve(port, folder):
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(port), str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "serves\n"
    return process


def test_a_killed_server_loses_and_doubles_nothing(tmp_path):
    port = free_port()
    server = serve(port, tmp_path)
    client = Client(f"127.0.0.1:{port}")
    writer = client.writer("replay", max_in_flight_steps=64)
    sampler = client.sampler("replay", 4, prefetch=1)

    def write_all():
        for step in steps(range(3000)):
            writer.append(step)
        writer.flush(timeout=20)

    thread = threading.Thread(target=write_all)
    thread.start()
    while writer.acknowledged_items < 500:
        time.sleep(0.001)
    sampler.next(timeout=5)
    server.kill()
    server.wait()
    with pytest.raises(Unavailable):
        Client(client.address, timeout=0.2).tables()
    server = serve(port, tmp_path)
    thread.join(30)
    assert writer.acknowledged_items == 3000
    info = client.tables()["replay"]
    assert (info.size, info.inserts, info.durable) == (3000, 3000, True)
    assert list(client.list_writers("replay").values()) == [3000]
    seen = set()
    for _ in range(10):
        seen.update(sampler.next(timeout=20).data["n"].tolist())
    assert len(seen) > 20
    writer.close()
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=10) != 0


def test_tls_and_tokens_decide_who_may_do_what(tmp_path):
    pmpo("certs", "--out", tmp_path, "--host", "localhost")
    files = {"tls_ca": tmp_path / "ca.pem", "token_file": tmp_path / "tokens"}

    def of(role):
        return {
            "tls_ca": tmp_path / "ca.pem",
            "tls_cert": tmp_path / f"{role}.pem",
            "tls_key": tmp_path / f"{role}-key.pem",
            "token_file": tmp_path / f"{role}.token",
        }

    own = {"tls_cert": tmp_path / "replay.pem", "tls_key": tmp_path / "replay-key.pem"}
    with Server([Table("replay", **ANY)], **files, **own) as server:
        address = f"localhost:{server.port}"
        admin = Client(address, **of("admin"))
        writer = Client(address, role="writer", **of("writer"))
        sampler = Client(address, role="sampler", **of("sampler"))
        write(writer, "replay", range(3))
        assert sampler.sampler("replay", 2).next(timeout=5).size == 3
        with pytest.raises(Refused) as refused:
            writer.reset("replay")
        assert refused.value.code == "permission_denied"
        with pytest.raises(Refused) as refused:
            writer.sampler("replay", 2).next(timeout=5)
        assert refused.value.code == "permission_denied"
        assert admin.reset("replay").size == 0
        with pytest.raises(Unavailable):
            Client(server.address, timeout=0.5).tables()


def test_the_documents_name_what_there_is():
    for name in replay.__all__:
        assert getattr(replay, name).__doc__, name
    for of in (Server, Client, replay.Writer, replay.Sampler):
        public = [name for name in vars(of) if not name.startswith("_")]
        missing = [name for name in public if not getattr(of, name).__doc__]
        assert not missing, (of, missing)
    stubs = pathlib.Path(replay.__file__).with_suffix(".pyi").read_text()
    for of in (Server, Client, replay.Writer, replay.Sampler, replay.Batch):
        section = stubs.partition(f"class {of.__name__}:")[2].partition("\nclass ")[0]
        for name in vars(of):
            assert name.startswith("_") or f"def {name}(" in section, (of, name)
