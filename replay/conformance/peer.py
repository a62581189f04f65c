"""What the checks say and read: messages of the protocol made of NumPy arrays, and nothing hidden."""

import os
import queue

import grpc
import numpy as np
from grpc_status import rpc_status
from google.rpc import error_details_pb2

# Generated from the .proto by main.py.
from pmpo.replay.v1 import replay_pb2 as pb
from pmpo.replay.v1 import replay_pb2_grpc

# A call that takes longer hangs.
DEADLINE_S = 60

# By the protocol's names; bfloat16, which NumPy has not, as its bits.
DTYPES = {
    pb.D_TYPE_U8: np.uint8,
    pb.D_TYPE_I8: np.int8,
    pb.D_TYPE_I16: np.int16,
    pb.D_TYPE_I32: np.int32,
    pb.D_TYPE_I64: np.int64,
    pb.D_TYPE_U32: np.uint32,
    pb.D_TYPE_BOOL: np.bool_,
    pb.D_TYPE_F16: np.float16,
    pb.D_TYPE_BF16: np.uint16,
    pb.D_TYPE_F32: np.float32,
    pb.D_TYPE_F64: np.float64,
}


def stub(server):
    """A client with gRPC's own limits."""
    return replay_pb2_grpc.ReplayStub(grpc.insecure_channel(server.address))


def column(name, dtype, *shape, allow_nonfinite=False):
    return pb.ColumnSpec(name=name, dtype=dtype, shape=shape, allow_nonfinite=allow_nonfinite)


IDS = pb.Signature(columns=[column("id", pb.D_TYPE_I64)])


def tensors(signature, arrays):
    """Arrays [steps, ..shape], one a column."""
    return [
        pb.Tensor(dtype=spec.dtype, shape=array.shape, data=np.ascontiguousarray(array).tobytes())
        for spec, array in zip(signature.columns, arrays, strict=True)
    ]


def steps(first, arrays, signature=IDS, ends=(), priorities=(), lengths=()):
    """The request that inserts steps from number `first` on."""
    return pb.InsertRequest(
        steps=pb.Steps(
            first_sequence=first,
            columns=tensors(signature, arrays),
            ends=ends,
            priorities=priorities,
            lengths=lengths,
        )
    )


def ids(first, end):
    """Steps that are their own numbers."""
    return steps(first, [np.arange(first, end)])


def open_writer(table, writer_id=None, signature=IDS, **fields):
    writer_id = os.urandom(16) if writer_id is None else writer_id
    return pb.InsertRequest(
        open=pb.OpenWriter(table=table, writer_id=writer_id, signature=signature, **fields)
    )


def open_sampler(table, batch_size, signature=IDS, **fields):
    return pb.SampleRequest(
        open=pb.OpenSampler(table=table, batch_size=batch_size, signature=signature, **fields)
    )


def demand(batches):
    return pb.SampleRequest(demand=pb.Demand(batches=batches))


class Stream:
    """A stream that is spoken to message by message."""

    def __init__(self, method, *requests):
        self.requests = queue.SimpleQueue()
        for request in requests:
            self.send(request)
        self.responses = method(iter(self.requests.get, None), timeout=DEADLINE_S)

    def send(self, request):
        self.requests.put(request)

    def half_close(self):
        self.requests.put(None)

    def next(self):
        return next(self.responses)

    def acknowledged(self, number):
        """Reads until all steps below `number` are stored."""
        for response in self.responses:
            if response.WhichOneof("response") == "next_sequence":
                assert response.next_sequence <= number, response
                if response.next_sequence == number:
                    return
        raise AssertionError(f"the stream ended before {number} was acknowledged")

    def cancel(self):
        self.responses.cancel()
        self.requests.put(None)


def insert(client, *requests):
    """A writer that sends all it has and half-closes; answers the last acknowledgement."""
    responses = client.Insert(iter(requests), timeout=DEADLINE_S)
    return [response.next_sequence for response in responses][-1]


class Batch:
    """A batch put together from its parts."""

    def __init__(self, signature, parts):
        self.parts = parts
        self.columns = {}
        for i, spec in enumerate(signature.columns):
            tensors = [part.columns[i] for part in parts]
            arrays = [
                np.frombuffer(tensor.data, DTYPES[spec.dtype]).reshape(tensor.shape)
                for tensor in tensors
            ]
            assert all(tensor.dtype == spec.dtype for tensor in tensors), spec
            self.columns[spec.name] = np.concatenate(arrays)
        for name in ("keys", "probabilities", "priorities", "times_sampled", "lengths"):
            values = [value for part in parts for value in getattr(part.items, name)]
            setattr(self, name, values)
        self.counters = parts[-1].counters


def read_batch(responses, signature=IDS):
    """The next batch of a sampler's stream."""
    parts = []
    for response in responses:
        assert response.WhichOneof("response") == "part", response
        parts.append(response.part)
        if response.part.rows_left == 0:
            return Batch(signature, parts)
    raise AssertionError(f"the stream ended after {len(parts)} parts")


def sample(client, table, batch_size, signature=IDS, batches=1, **fields):
    """A sampler that demands `batches` and half-closes at once."""
    requests = [open_sampler(table, batch_size, signature, **fields), demand(batches)]
    responses = client.Sample(iter(requests), timeout=DEADLINE_S)
    drawn = [read_batch(responses, signature) for _ in range(batches)]
    assert next(responses, None) is None, "no more than was demanded"
    return drawn


def info(client, table):
    """What the server says of a table."""
    tables = client.ListTables(pb.ListTablesRequest(), timeout=DEADLINE_S).tables
    return next(info for info in tables if info.config.name == table)


def refusal(call, *arguments):
    """Code, reason and field of the refusal that a call must meet, by google.rpc.Status' convention."""
    try:
        answer = call(*arguments)
        if isinstance(answer, grpc.Future):
            list(answer)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        assert status is not None, f"no details: {error.details()}"
        reason, field = None, None
        for detail in status.details:
            known = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(known[0]):
                assert known[0].domain == "pmpo", known[0]
                reason = known[0].reason
            if detail.Unpack(known[1]):
                field = known[1].field_violations[0].field
        return error.code(), reason, field
    raise AssertionError("expected a refusal")
