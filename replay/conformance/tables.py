"""What an operator does to tables while they serve."""

import os
import pathlib
import tempfile

import grpc
import numpy as np

from peer import (
    DEADLINE_S,
    IDS,
    Stream,
    column,
    demand,
    ids,
    info,
    insert,
    open_sampler,
    open_writer,
    pb,
    read_batch,
    refusal,
    sample,
    steps,
    stub,
)
from server import Server


def check_bounds_that_change_let_a_writer_go(binary):
    with Server(binary) as server:
        client = stub(server)
        writer = Stream(client.Insert, open_writer("limited"), ids(0, 20))
        writer.acknowledged(0)
        bad = pb.ConfigureTableRequest(table="limited", max_size=5)
        code = grpc.StatusCode.INVALID_ARGUMENT
        assert refusal(client.ConfigureTable, bad) == (code, "TABLE_CONFIG", None)
        good = pb.ConfigureTableRequest(table="limited", error_buffer=40, max_size=12)
        config = client.ConfigureTable(good).table.config
        assert (config.max_size, config.error_buffer) == (12, 40)
        writer.acknowledged(20)
        writer.cancel()
        counters = info(client, "limited").counters
        assert (counters.size, counters.inserts) == (12, 20)


def check_writers_are_listed_with_their_numbers(binary):
    with Server(binary) as server:
        client = stub(server)
        writers = {bytes([i]) * 16: 10 * (i + 1) for i in range(3)}
        for writer, count in writers.items():
            insert(client, open_writer("plain", writer), ids(0, count))
        answer = client.ListWriters(pb.ListWritersRequest(table="plain"))
        assert {w.writer_id: w.next_sequence for w in answer.writers} == writers
        assert answer.inserts == sum(writers.values())


def check_items_are_deleted_by_their_keys(binary):
    with Server(binary) as server:
        client = stub(server)
        insert(client, open_writer("plain"), ids(0, 100))
        (batch,) = sample(client, "plain", 10)
        keys, gone = set(batch.keys), set(batch.columns["id"].tolist())
        request = pb.DeleteItemsRequest(table="plain", keys=[*batch.keys, (1 << 64) - 1])
        answer = client.DeleteItems(request)
        assert (answer.deleted, answer.missing) == (len(keys), 11 - len(keys))
        answer = client.DeleteItems(request)
        assert (answer.deleted, answer.missing) == (0, 11)
        assert info(client, "plain").counters.size == 100 - len(gone)
        batches = sample(client, "plain", 1000, batches=4)
        assert not gone & {int(i) for batch in batches for i in batch.columns["id"]}


def check_a_table_that_is_reset_takes_another_signature(binary):
    other = pb.Signature(columns=[column("x", pb.D_TYPE_U8, 2)])
    writer = os.urandom(16)
    with Server(binary) as server:
        client = stub(server)
        stream = Stream(client.Insert, open_writer("plain", writer), ids(0, 10))
        stream.acknowledged(10)
        sampler = Stream(client.Sample, open_sampler("plain", 4), demand(1))
        read_batch(sampler.responses)
        refused = refusal(client.Insert, iter([open_writer("plain", signature=other)]))
        assert refused[1] == "SIGNATURE_MISMATCH"
        table = client.ResetTable(pb.ResetTableRequest(table="plain")).table
        assert table.counters.size == 0 and not table.HasField("signature")
        stream.send(ids(10, 12))
        expected = (grpc.StatusCode.ABORTED, "WRITER_REPLACED", None)
        assert refusal(lambda: list(stream.responses)) == expected
        values = np.array([[1, 2], [3, 4]], np.uint8)
        requests = open_writer("plain", writer, other), steps(10, [values], other)
        assert insert(client, *requests) == 12, "its number stays"
        (batch,) = sample(client, "plain", 50, other)
        assert {tuple(row) for row in batch.columns["x"].tolist()} == {(1, 2), (3, 4)}
        # The sampler that was there before is told when it asks again.
        sampler.send(demand(1))
        expected = (grpc.StatusCode.FAILED_PRECONDITION, "SIGNATURE_MISMATCH", None)
        assert refusal(lambda: list(sampler.responses)) == expected


def check_opening_binds_nobody_and_the_first_step_does(binary):
    other = pb.Signature(columns=[column("x", pb.D_TYPE_U8)])
    with Server(binary) as server:
        client = stub(server)
        wrong = Stream(client.Insert, open_writer("plain", signature=other))
        assert wrong.next().next_sequence == 0
        assert not info(client, "plain").HasField("signature")
        insert(client, open_writer("plain"), ids(0, 3))
        assert info(client, "plain").signature == IDS
        wrong.send(steps(0, [np.zeros(1, np.uint8)], other))
        expected = (grpc.StatusCode.FAILED_PRECONDITION, "SIGNATURE_MISMATCH", None)
        assert refusal(lambda: list(wrong.responses)) == expected


def created(name, **fields):
    """A table of which each item leaves with its first draw, the oldest first."""
    fields.setdefault("max_times_sampled", 1)
    config = pb.TableConfig(
        name=name, limiter=pb.LIMITER_NONE, sampler=pb.SELECTOR_FIFO, **fields
    )
    return pb.CreateTableRequest(config=config)


def drained(client, table):
    """All items of such a table."""
    drawn = []
    while size := info(client, table).counters.size:
        (batch,) = sample(client, table, min(size, 4096))
        drawn += batch.columns["id"].tolist()
    return drawn


def check_a_created_table_is_there_again_after_a_kill(binary):
    writer = os.urandom(16)
    with tempfile.TemporaryDirectory() as data_dir:
        with Server(binary, data_dir) as server:
            client = stub(server)
            table = client.CreateTable(created("mine")).table
            assert table.durable and table.config.max_size == 1_000_000, table
            insert(client, open_writer("mine", writer), ids(0, 50))
            (batch,) = sample(client, "mine", 20)
            assert batch.columns["id"].tolist() == list(range(20))
            server.kill()
        with Server(binary, data_dir) as server:
            client = stub(server)
            again = client.CreateTable(created("mine")).table
            assert again.config == table.config and again.counters.size == 30, again
            requests = open_writer("mine", writer), ids(40, 60)
            assert insert(client, *requests) == 60, "its numbers go on"
            assert drained(client, "mine") == list(range(20, 60))


def check_tables_are_created_once_and_as_they_may_be(binary):
    with Server(binary) as server:
        client = stub(server)
        before = len(client.ListTables(pb.ListTablesRequest()).tables)
        assert not client.CreateTable(created("mine")).table.durable
        other = refusal(client.CreateTable, created("mine", max_size=5))
        assert other == (grpc.StatusCode.ALREADY_EXISTS, "TABLE_EXISTS", None)
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        for bad in (created("../up"), created("a" * 129), created("b", age_decay=float("nan"))):
            assert refusal(client.CreateTable, bad) == (invalid, "TABLE_CONFIG", None)
        bad = created("b")
        bad.config.remover = 99
        expected = (invalid, "INVALID_FIELD", "config.remover")
        assert refusal(client.CreateTable, bad) == expected
        expected = (invalid, "INVALID_FIELD", "config")
        assert refusal(client.CreateTable, pb.CreateTableRequest()) == expected
        assert len(client.ListTables(pb.ListTablesRequest()).tables) == before + 1
        most = 64
        for i in range(before + 1, most):
            client.CreateTable(created(f"mine{i}"))
        expected = (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_TABLES", None)
        assert refusal(client.CreateTable, created("more")) == expected
        expected = (grpc.StatusCode.FAILED_PRECONDITION, "NO_DATA_DIR", None)
        assert refusal(client.Checkpoint, pb.CheckpointRequest()) == expected
        insert(client, open_writer("mine63"), ids(0, 3))
        assert drained(client, "mine63") == [0, 1, 2]


def check_checkpoints_hold_what_was_acknowledged_and_nothing_twice(binary):
    """While a writer writes, so that segments of the log begin and go as well."""
    with tempfile.TemporaryDirectory() as data_dir:
        with Server(binary, data_dir) as server:
            client = stub(server)
            client.CreateTable(created("mine", max_size=20_000))
            writer = Stream(client.Insert, open_writer("mine"))
            acknowledged, copies = writer.next().next_sequence, []
            for sent in range(40_000, 240_000, 40_000):
                for first in range(sent - 40_000, sent, 1000):
                    writer.send(ids(first, first + 1000))
                while acknowledged < sent - 20_000:
                    acknowledged = writer.next().next_sequence
                answer = client.Checkpoint(pb.CheckpointRequest(), timeout=DEADLINE_S)
                copies.append((acknowledged, answer, sent))
            writer.acknowledged(sent)
            writer.cancel()
        assert len({answer.path for _, answer, _ in copies}) == len(copies)
        for acknowledged, answer, sent in copies:
            (copied,) = [table for table in answer.tables if table.table == "mine"]
            counters = copied.counters
            assert acknowledged <= counters.inserts <= sent, (acknowledged, counters, sent)
            size = sum(file.stat().st_size for file in pathlib.Path(answer.path, "mine").iterdir())
            assert size == copied.bytes, (size, copied)
            with Server(binary, answer.path) as server:
                client = stub(server)
                assert info(client, "mine").counters == counters
                expected = range(counters.inserts - counters.size, counters.inserts)
                assert drained(client, "mine") == list(expected)


def check_a_checkpoint_leaves_as_many_as_are_to_be_kept(binary):
    with tempfile.TemporaryDirectory() as data_dir:
        with Server(binary, data_dir) as server:
            client = stub(server)
            insert(client, open_writer("plain"), ids(0, 10))
            made = [
                client.Checkpoint(pb.CheckpointRequest(keep=keep), timeout=DEADLINE_S).path
                for keep in (0, 0, 0, 2, 0, 1)
            ]
            there = [pathlib.Path(path).is_dir() for path in made]
            assert there == [False] * 5 + [True], there
            with Server(binary, made[-1]) as copy:
                assert info(stub(copy), "plain").counters.size == 10
