"""Sampling: demand, waiting, half-closing, parts, priorities, windows."""

import numpy as np

from peer import (
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
    sample,
    steps,
    stub,
)
from server import Server


def check_a_sampler_gets_what_it_demands_and_no_more(binary):
    with Server(binary) as server:
        client = stub(server)
        insert(client, open_writer("plain"), ids(0, 100))
        sampler = Stream(client.Sample, open_sampler("plain", 10), demand(1))
        batch = read_batch(sampler.responses)
        assert (batch.counters.size, batch.counters.inserts) == (100, 100)
        assert (batch.counters.samples, len(batch.keys)) == (10, 10)
        assert np.allclose(batch.probabilities, 0.01) and not batch.priorities
        assert min(batch.times_sampled) >= 1 and len(set(batch.keys)) == len(
            set(batch.columns["id"])
        )
        assert info(client, "plain").counters.samples == 10, "nothing was drawn ahead"
        sampler.send(demand(2))
        read_batch(sampler.responses)
        # Half-closing ends nothing that was demanded.
        sampler.half_close()
        assert read_batch(sampler.responses).counters.samples == 30
        assert next(sampler.responses, None) is None


def check_a_sampler_that_waits_is_told_so_and_keeps_its_stream(binary):
    with Server(binary) as server:
        client = stub(server)
        opening = open_sampler("limited", 4, blocked_after_ms=50)
        sampler = Stream(client.Sample, opening, demand(2))
        for _ in range(2):
            blocked = sampler.next().blocked
            assert blocked.reason == pb.BLOCKED_REASON_MIN_SIZE, blocked
            assert (blocked.counter, blocked.value, blocked.bound) == ("size", 0, 10), blocked
        sampler.half_close()
        insert(client, open_writer("limited"), ids(0, 12))
        batches = 0
        for response in sampler.responses:
            batches += response.WhichOneof("response") == "part"
        assert batches == 2


def check_no_part_is_larger_than_the_client_says(binary):
    signature = pb.Signature(columns=[column("id", pb.D_TYPE_I64), column("x", pb.D_TYPE_U8, 1000)])
    with Server(binary) as server:
        client = stub(server)
        values = np.arange(200, dtype=np.uint8)[:, None].repeat(1000, 1)
        request = steps(0, [np.arange(200), values], signature)
        insert(client, open_writer("plain", signature=signature), request)
        for limit in (1 << 14, 1 << 16, 1 << 20):
            (batch,) = sample(client, "plain", 300, signature, max_part_bytes=limit)
            sizes = [pb.SampleResponse(part=part).ByteSize() for part in batch.parts]
            assert max(sizes) <= limit, sizes
            # No more parts than it takes: all but the last are nearly full.
            assert all(size > limit * 0.9 for size in sizes[:-1]), sizes
            assert (batch.columns["x"][:, 0] == batch.columns["id"]).all()


def check_compressed_columns_are_smaller(binary):
    with Server(binary) as server:
        client = stub(server)
        insert(client, open_writer("plain"), ids(0, 100))
        for compression in (pb.COMPRESSION_LZ4, pb.COMPRESSION_ZSTD):
            requests = [open_sampler("plain", 1000, compression=compression), demand(1)]
            (response,) = client.Sample(iter(requests))
            (tensor,) = response.part.columns
            assert tensor.compression == compression and len(tensor.data) < 8000


def check_windows_share_their_steps_and_priorities_choose(binary):
    with Server(binary) as server:
        client = stub(server)
        # Items of three steps that end at steps 2, 3, 4 and, of the next message, 5.
        opening = open_writer("sequences", sequence_length=3)
        first = steps(0, [np.arange(5)], ends=[2, 3, 4], priorities=[1, 5, 2])
        second = steps(5, [np.arange(5, 10)], ends=[0], priorities=[3])
        assert insert(client, opening, first, second) == 10
        assert info(client, "sequences").counters.inserts == 4
        (batch,) = sample(client, "sequences", 2, sequence_length=3)
        assert batch.columns["id"].tolist() == [1, 2, 3, 1, 2, 3]
        assert batch.priorities == [5, 5] and batch.times_sampled == [1, 2]
        request = pb.UpdatePrioritiesRequest(
            table="sequences", keys=[batch.keys[0], (1 << 64) - 1], priorities=[0.5, 9]
        )
        answer = client.UpdatePriorities(request)
        assert (answer.updated, answer.missing) == (1, 1)
        (batch,) = sample(client, "sequences", 1, sequence_length=3)
        assert batch.columns["id"].tolist() == [3, 4, 5] and batch.priorities == [3]


def check_items_have_their_own_lengths(binary):
    with Server(binary) as server:
        client = stub(server)
        opening = open_writer("ragged", sequence_length=4)
        first = steps(0, [np.arange(6)], ends=[0, 3, 5], lengths=[1, 4, 2])
        assert insert(client, opening, first) == 6
        config = info(client, "ragged").config
        assert (config.min_sequence_length, config.sequence_length) == (1, 4)
        # In one message, and a step at a time.
        for limit, parts in ((0, 1), (338, 7)):
            (batch,) = sample(client, "ragged", 3, sequence_length=4, max_part_bytes=limit)
            assert batch.columns["id"].tolist() == [0, 0, 1, 2, 3, 4, 5], limit
            assert batch.lengths == [1, 4, 2] and len(batch.parts) == parts
            insert(client, open_writer("ragged", sequence_length=4), first)


def check_a_queue_gives_each_item_once_and_in_order(binary):
    with Server(binary) as server:
        client = stub(server)
        insert(client, open_writer("queue"), ids(0, 500))
        batches = sample(client, "queue", 50, batches=10)
        drawn = np.concatenate([batch.columns["id"] for batch in batches])
        assert drawn.tolist() == list(range(500))
        assert info(client, "queue").counters.size == 0
