"""What an operator does to tables while they serve."""

import os

import grpc
import numpy as np

from peer import (
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
