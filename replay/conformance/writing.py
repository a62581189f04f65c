"""Writing: numbers, acknowledgements, every dtype, large steps."""

import os

import numpy as np

from peer import DTYPES, IDS, Stream, column, ids, info, insert, open_writer, pb, sample, steps, stub
from server import Server


def check_each_step_is_stored_once(binary):
    """A writer that repeats itself over several connections, as one does after a lost stream."""
    with Server(binary) as server:
        client, writer = stub(server), os.urandom(16)
        assert insert(client, open_writer("plain", writer), ids(0, 10)) == 10
        first = Stream(client.Insert, open_writer("plain", writer))
        assert first.next().next_sequence == 10, "where to go on"
        first.send(ids(5, 15))
        first.acknowledged(15)
        first.send(ids(0, 15))
        first.send(ids(15, 20))
        first.acknowledged(20)
        first.half_close()
        assert next(first.responses, None) is None, "half-closed on both sides"
        assert info(client, "plain").counters.inserts == 20
        seen = [i for batch in sample(client, "plain", 1000, batches=4) for i in batch.columns["id"]]
        values, counts = np.unique(seen, return_counts=True)
        assert values.tolist() == list(range(20))
        # 4,000 draws of 20 items: 200 each, give or take six standard deviations.
        assert abs(counts - 200).max() < 6 * np.sqrt(4000 * 0.05 * 0.95), counts


def check_every_dtype_comes_back_bit_by_bit(binary):
    rng = np.random.default_rng(7)
    columns, arrays = [column("id", pb.D_TYPE_I64)], [np.arange(32)]
    for dtype, numpy in DTYPES.items():
        floats = dtype in (pb.D_TYPE_F16, pb.D_TYPE_BF16, pb.D_TYPE_F32, pb.D_TYPE_F64)
        name = pb.DType.Name(dtype)
        columns.append(column(name, dtype, 2, 3, allow_nonfinite=floats))
        size = np.dtype(numpy).itemsize
        if dtype == pb.D_TYPE_BOOL:
            array = rng.integers(0, 2, (32, 2, 3)).astype(np.bool_)
        else:
            # Any bits: of floats also NaN and infinities.
            array = rng.integers(0, 256, 32 * 6 * size, np.uint8).view(numpy).reshape(32, 2, 3)
        arrays.append(array)
    signature = pb.Signature(columns=columns)
    with Server(binary) as server:
        client = stub(server)
        request = steps(0, arrays, signature)
        assert insert(client, open_writer("dtypes", signature=signature), request) == 32
        assert info(client, "dtypes").signature == signature
        (batch,) = sample(client, "dtypes", 500, signature)
        drawn = batch.columns.pop("id")
        assert set(drawn) == set(range(32))
        for (name, got), sent in zip(batch.columns.items(), arrays[1:], strict=True):
            assert got.tobytes() == sent[drawn].tobytes(), name


def check_items_of_a_mebibyte_and_images_pass_stock_limits(binary):
    """gRPC's libraries refuse messages of more than 4 MiB, so these come in parts."""
    rng = np.random.default_rng(11)
    large = pb.Signature(columns=[column("id", pb.D_TYPE_I64), column("x", pb.D_TYPE_U8, 1 << 20)])
    images = pb.Signature(
        columns=[column("id", pb.D_TYPE_I64), column("x", pb.D_TYPE_U8, 80, 80, 3)]
    )
    with Server(binary) as server:
        client = stub(server)
        for table, signature, count, batch_size in [
            ("large", large, 8, 9),
            ("images", images, 300, 256),
        ]:
            shape = tuple(signature.columns[1].shape)
            values = rng.integers(0, 256, (count, *shape), np.uint8)
            request = steps(0, [np.arange(count), values], signature)
            assert insert(client, open_writer(table, signature=signature), request) == count
            (batch,) = sample(client, table, batch_size, signature)
            assert len(batch.parts) > 1 and len(batch.keys) == batch_size
            assert (batch.columns["x"] == values[batch.columns["id"]]).all()
            (batch,) = sample(client, table, 2, signature)
            assert len(batch.parts) == 1


def check_a_writer_finds_the_signature_it_must_send(binary):
    with Server(binary) as server:
        client = stub(server)
        assert not info(client, "plain").HasField("signature")
        insert(client, open_writer("plain"), ids(0, 1))
        table = info(client, "plain")
        assert table.signature == IDS
        assert insert(client, open_writer("plain", signature=table.signature), ids(0, 1)) == 1
        assert table.config.max_batch_size == 4096 and table.config.limiter == pb.LIMITER_NONE


def check_a_writer_that_waits_is_told_so_and_keeps_its_stream(binary):
    with Server(binary) as server:
        client = stub(server)
        writer = Stream(client.Insert, open_writer("limited", blocked_after_ms=50), ids(0, 20))
        assert writer.next().next_sequence == 0
        for _ in range(2):
            blocked = writer.next().blocked
            assert blocked.reason == pb.BLOCKED_REASON_SAMPLES, blocked
            assert (blocked.value, blocked.bound) == (28, 26), blocked
            assert blocked.seconds >= 0.05 and "waiting for samples" in blocked.message
        (waiting,) = info(client, "limited").blocked
        assert (waiting.reason, waiting.callers) == (pb.BLOCKED_REASON_SAMPLES, 1)
        assert info(client, "limited").counters.inserts == 14, "what fits is stored"
        sample(client, "limited", 8, batches=2)
        writer.acknowledged(20)
        writer.cancel()
