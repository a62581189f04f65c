"""Whatever a client does wrong: the code, the reason and the field, nothing stored, and the server lives."""

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
    refusal,
    steps,
    stub,
)
from server import Server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def signature(*columns):
    return pb.Signature(columns=columns)


FLOATS = signature(column("x", pb.D_TYPE_F32), column("y", pb.D_TYPE_BOOL))


def inserts():
    """Requests of a writer, and what is to blame."""
    one, good = open_writer("plain"), [np.zeros(2, np.float32), np.zeros(2, np.bool_)]
    floats = open_writer("dtypes", signature=FLOATS)
    bad_tensor = ids(0, 2)
    bad_tensor.steps.columns[0].data = b"1234567"
    bad_compression = ids(0, 2)
    bad_compression.steps.columns[0].compression = pb.COMPRESSION_ZSTD
    nan = [np.array([0, np.nan], np.float32), good[1]]
    no_bool = [good[0], np.array([0, 2], np.uint8)]
    sequences = open_writer("sequences", sequence_length=3)
    five = [np.arange(5)]
    field = (INVALID, "INVALID_FIELD")
    yield [open_writer("other")], (grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND", None)
    yield [open_writer("plain", b"short")], (*field, "writer_id")
    yield [open_writer("plain", signature=None)], (*field, "signature")
    yield [open_writer("plain", signature=signature())], (*field, "signature.columns")
    many = [column(str(i), pb.D_TYPE_U8) for i in range(65)]
    yield [open_writer("plain", signature=signature(*many))], (*field, "signature.columns")
    for spec, name in [
        (column("", pb.D_TYPE_F32), "name"),
        (column("x" * 257, pb.D_TYPE_F32), "name"),
        (column("x", pb.D_TYPE_UNSPECIFIED), "dtype"),
        (column("x", pb.D_TYPE_F32, *[1] * 17), "shape"),
        (column("x", pb.D_TYPE_F32, 1 << 40, 1 << 40), "shape"),
        (column("x", pb.D_TYPE_U8, (16 << 20) + 1), "shape"),
    ]:
        opening = open_writer("plain", signature=signature(spec))
        yield [opening], (*field, f"signature.columns[0].{name}")
    yield [ids(0, 2)], (*field, "request")
    yield [one, one], (*field, "request")
    yield [one, pb.InsertRequest()], (*field, "request")
    yield [one, steps(0, good, FLOATS)], (*field, "steps.columns")
    yield [one, bad_tensor], (*field, "steps.columns")
    yield [one, bad_compression], (*field, "steps.column `id`.data")
    yield [one, steps(0, good[:1], signature(FLOATS.columns[0]))], (*field, "steps.column `id`.dtype")
    yield [one, steps(0, [np.zeros((2, 1), np.int64)])], (*field, "steps.column `id`.shape")
    yield [floats, steps(0, nan, FLOATS)], (*field, "steps.columns")
    yield [floats, steps(0, no_bool, FLOATS)], (*field, "steps.columns")
    yield [one, ids(3, 5)], (INVALID, "SEQUENCE_GAP", None)
    yield [one, steps(0, [np.arange(2)], ends=[1])], (*field, "steps.ends")
    yield [one, steps(0, [np.arange(2)], priorities=[1])], (*field, "priorities")
    yield [one, steps(0, [np.arange(2)], priorities=[1, -1])], (*field, "priorities")
    yield [one, steps(0, [np.arange(2)], priorities=[np.nan, 1])], (*field, "priorities")
    yield [sequences, steps(0, five, ends=[3, 2])], (*field, "steps.ends")
    yield [sequences, steps(0, five, ends=[5])], (*field, "steps.ends")
    yield [sequences, steps(0, five, ends=[1])], (INVALID, "STEPS_MISSING", None)
    yield [open_writer("sequences")], (PRECONDITION, "SEQUENCE_LENGTH", None)


def samplers():
    """Requests of a sampler, and what is to blame."""
    field = (INVALID, "INVALID_FIELD")
    yield [open_sampler("other", 1)], (grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND", None)
    yield [open_sampler("plain", 0)], (INVALID, "BATCH_SIZE", None)
    yield [open_sampler("plain", 4097)], (INVALID, "BATCH_SIZE", None)
    yield [open_sampler("plain", 1 << 30)], (*field, "batch_size")
    yield [open_sampler("plain", 1, max_part_bytes=10)], (*field, "max_part_bytes")
    yield [open_sampler("plain", 1, max_part_bytes=65 << 20)], (*field, "max_part_bytes")
    # 5 MiB fit no message of 4 MiB.
    huge = signature(column("x", pb.D_TYPE_U8, 5 << 20))
    yield [open_sampler("large", 1, huge)], (*field, "max_part_bytes")
    yield [open_sampler("plain", 1, compression=9)], (*field, "compression")
    yield [open_sampler("plain", 1, sequence_length=2)], (PRECONDITION, "SEQUENCE_LENGTH", None)
    yield [demand(1)], (*field, "request")
    yield [open_sampler("plain", 1), open_sampler("plain", 1)], (*field, "request")
    other = signature(column("id", pb.D_TYPE_I32))
    yield [open_sampler("plain", 1, other)], (PRECONDITION, "SIGNATURE_MISMATCH", None)


def check_bad_writers_and_samplers_are_refused_by_field(binary):
    with Server(binary) as server:
        client = stub(server)
        for requests, expected in inserts():
            got = refusal(client.Insert, iter(requests))
            assert got == expected, f"{requests}: expected {expected}, got {got}"
        counters = [table.counters for table in client.ListTables(pb.ListTablesRequest()).tables]
        assert all(counter.inserts == 0 for counter in counters), counters
        # From here on the table has a signature.
        insert(client, open_writer("plain"), ids(0, 3))
        for requests, expected in samplers():
            got = refusal(client.Sample, iter(requests))
            assert got == expected, f"{requests}: expected {expected}, got {got}"
        other = open_writer("plain", signature=signature(column("other", pb.D_TYPE_I64)))
        assert refusal(client.Insert, iter([other])) == (PRECONDITION, "SIGNATURE_MISMATCH", None)
        assert info(client, "plain").counters.inserts == 3


def check_what_came_before_a_bad_message_is_stored(binary):
    with Server(binary) as server:
        client = stub(server)
        stream = client.Insert(iter([open_writer("plain"), ids(0, 3), ids(9, 10)]))
        acknowledged = []
        try:
            acknowledged += [response.next_sequence for response in stream]
            raise AssertionError("expected a refusal")
        except grpc.RpcError as error:
            assert error.code() == INVALID, error
        assert info(client, "plain").counters.inserts == 3


def check_a_message_beyond_the_limit_is_refused(binary):
    with Server(binary) as server:
        client = stub(server)
        huge = pb.Steps(columns=[pb.Tensor(data=bytes(65 << 20))])
        stream = client.Insert(iter([open_writer("plain"), pb.InsertRequest(steps=huge)]))
        try:
            list(stream)
            raise AssertionError("expected a refusal")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.OUT_OF_RANGE, error
        assert insert(client, open_writer("plain"), ids(0, 1)) == 1, "the server lives"


def check_a_second_stream_of_a_writer_replaces_the_first(binary):
    with Server(binary) as server:
        client, writer = stub(server), bytes(range(16))
        first = Stream(client.Insert, open_writer("plain", writer), ids(0, 2))
        first.acknowledged(2)
        second = Stream(client.Insert, open_writer("plain", writer), ids(2, 4))
        second.acknowledged(4)
        first.send(ids(4, 6))
        expected = (grpc.StatusCode.ABORTED, "WRITER_REPLACED", None)
        assert refusal(lambda: list(first.responses)) == expected
        second.send(ids(4, 6))
        second.acknowledged(6)
        second.cancel()


def check_tables_belong_to_their_first_owner(binary):
    with Server(binary) as server:
        client = stub(server)
        insert(client, open_writer("plain", owner="a", owner_id="1"), ids(0, 1))
        insert(client, open_writer("plain", owner="a"), ids(0, 1))
        insert(client, open_writer("plain"), ids(0, 1))
        expected = (PRECONDITION, "OTHER_OWNER", None)
        for opening in (dict(owner="b"), dict(owner="a", owner_id="2")):
            assert refusal(client.Insert, iter([open_writer("plain", **opening)])) == expected
            assert refusal(client.Sample, iter([open_sampler("plain", 1, **opening)])) == expected
        assert IDS == info(client, "plain").signature


def check_bad_priorities_are_refused_and_change_nothing(binary):
    with Server(binary) as server:
        client = stub(server)

        def update(table, keys, priorities):
            request = pb.UpdatePrioritiesRequest(table=table, keys=keys, priorities=priorities)
            return refusal(client.UpdatePriorities, request)

        priorities = (INVALID, "INVALID_FIELD", "priorities")
        assert update("sequences", [1, 2], [1]) == priorities
        assert update("sequences", [1], [float("nan")]) == priorities
        assert update("sequences", [1], [2e30]) == priorities
        assert update("plain", [1], [1]) == (PRECONDITION, "NO_PRIORITIES", None)
        missing = (grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND", None)
        assert update("other", [1], [1]) == missing
