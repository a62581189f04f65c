"""`pmpo.replay` under PyTorch's DataLoader, where PyTorch is installed."""

import numpy as np
import pytest

from pmpo.replay import Client, Forked, Server, Table

torch = pytest.importorskip("torch")


class Batches(torch.utils.data.IterableDataset):
    """Three batches for each worker, from a client that was made by the parent."""

    def __init__(self, client):
        self.client = client

    def __iter__(self):
        for _, batch in zip(range(3), self.client.sampler("replay", 8)):
            yield batch.data


@pytest.fixture
def client():
    with Server([Table("replay", limiter="none")]) as server:
        client = Client(server.address)
        with client.writer("replay") as writer:
            for n in range(4):
                writer.append({"x": np.full(3, n, np.float32)})
        yield client


def loader(client, method):
    return torch.utils.data.DataLoader(Batches(client), batch_size=None, num_workers=2, multiprocessing_context=method)


def test_spawned_workers_sample(client):
    batches = list(loader(client, "spawn"))
    assert len(batches) == 2 * 3
    for batch in batches:
        assert batch["x"].shape == (8, 3) and batch["x"].dtype == torch.float32


def test_forked_workers_are_told_what_to_do(client):
    with pytest.raises(Forked, match="this Client was made in process .* start processes with the method `spawn`"):
        list(loader(client, "fork"))


def test_tensors_share_the_arrays_memory(client):
    column = client.sampler("replay", 8).next(timeout=5).data["x"]
    for tensor in (torch.from_numpy(column), torch.from_dlpack(column)):
        assert tensor.data_ptr() == column.ctypes.data
