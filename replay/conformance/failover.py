"""Servers that die: a writer in Python that goes by what the .proto says, and what is left in the end."""

import collections
import os
import tempfile
import time

import grpc
import numpy as np

from peer import Stream, ids, info, insert, open_writer, sample, steps, stub
from server import Server


class Lane:
    """What a writer has for one server: steps not acknowledged, in order, and the number of the first."""

    def __init__(self, writer_id):
        self.writer_id = writer_id
        self.queue = collections.deque()
        self.base = 0
        self.sent = 0

    def connect(self, client):
        """Opens a stream and takes up where the server is; answers how many steps it has forgotten."""
        self.stream = Stream(client.Insert, open_writer("plain", self.writer_id))
        next_sequence = self.stream.next().next_sequence
        forgotten = max(0, self.base - next_sequence)
        for _ in range(next_sequence - self.base):
            self.queue.popleft()
        self.base, self.sent = next_sequence, 0
        return forgotten

    def send(self, count):
        batch = [self.queue[self.sent + i] for i in range(count)]
        self.stream.send(steps(self.base + self.sent, [np.array(batch)]))
        self.sent += count

    def read(self):
        number = self.stream.next().next_sequence
        for _ in range(number - self.base):
            self.queue.popleft()
        self.sent -= number - self.base
        self.base = number


def held(client):
    """Ids in the table, each once, by so many draws that none is missed but for a chance of 10^-9."""
    size = info(client, "plain").counters.size
    batches = sample(client, "plain", 4000, batches=8) if size else []
    found = {int(i) for batch in batches for i in batch.columns["id"]}
    assert len(found) == size, f"{size} items, {len(found)} of them different"
    return found


def check_a_writer_goes_on_over_kills_of_a_durable_server(binary):
    with tempfile.TemporaryDirectory() as data_dir:
        lane, pushed, address = Lane(os.urandom(16)), 0, "127.0.0.1:0"
        for kill in range(3):
            with Server(binary, data_dir, address) as server:
                client = stub(server)
                assert lane.connect(client) == 0, "it remembers all it has acknowledged"
                for _ in range(20):
                    lane.queue.extend(range(pushed, pushed + 10))
                    pushed += 10
                while lane.sent < len(lane.queue):
                    lane.send(min(10, len(lane.queue) - lane.sent))
                for _ in range(2):
                    lane.read()
                if kill < 2:
                    # With steps on their way of which nobody knows whether they are stored.
                    server.kill()
                    continue
                while lane.queue:
                    lane.read()
                assert held(client) == set(range(pushed))
                assert info(client, "plain").counters.inserts == pushed
                assert info(client, "plain").durable


def check_a_server_without_memory_asks_for_less_than_it_acknowledged(binary):
    with Server(binary) as server:
        lane = Lane(os.urandom(16))
        lane.queue.extend(range(30))
        assert lane.connect(stub(server)) == 0
        lane.send(20)
        while lane.base < 20:
            lane.read()
        server.kill()
    with Server(binary) as server:
        client = stub(server)
        assert lane.connect(client) == 20, "what it had acknowledged is gone"
        assert (lane.base, len(lane.queue)) == (0, 10)
        lane.send(10)
        while lane.queue:
            lane.read()
        assert held(client) == set(range(20, 30))


def check_what_was_never_sent_moves_to_another_server_and_the_rest_waits(binary):
    with tempfile.TemporaryDirectory() as data_dir, Server(binary) as second:
        writer = os.urandom(16)
        ours, theirs = Lane(writer), Lane(writer)
        with Server(binary, data_dir) as first:
            ours.queue.extend(range(40))
            ours.connect(stub(first))
            ours.send(10)
            while ours.base < 10:
                ours.read()
            ours.send(10)
            first.kill()
        lost(ours)
        while len(ours.queue) > ours.sent:
            theirs.queue.appendleft(ours.queue.pop())
        assert list(theirs.queue) == list(range(20, 40))
        theirs.connect(stub(second))
        theirs.send(20)
        while theirs.queue:
            theirs.read()
        with Server(binary, data_dir) as first:
            client = stub(first)
            assert ours.connect(client) == 0
            if ours.queue:
                ours.send(len(ours.queue))
            while ours.queue:
                ours.read()
            one, other = held(client), held(stub(second))
        assert (one, other) == (set(range(20)), set(range(20, 40)))


def lost(lane):
    """Reads until the stream says that the server is gone."""
    try:
        while True:
            lane.read()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error


def check_items_that_begin_with_lost_steps_are_left_out(binary):
    """Windows of three over a server that forgets: those that end in the first two steps cannot be made."""
    writer = os.urandom(16)
    opening = open_writer("sequences", writer, sequence_length=3)
    with Server(binary) as server:
        insert(stub(server), opening, steps(0, [np.arange(5)], ends=[2, 3, 4]))
        server.kill()
    with Server(binary) as server:
        client = stub(server)
        stream = Stream(client.Insert, opening)
        assert stream.next().next_sequence == 0
        # Steps 5 to 9 have the numbers 0 to 4 now.
        stream.send(steps(0, [np.arange(5, 10)], ends=[2, 3, 4]))
        stream.acknowledged(5)
        stream.cancel()
        (batch,) = sample(client, "sequences", 1, sequence_length=3)
        assert batch.columns["id"].tolist() == [5, 6, 7]


def check_a_server_that_stops_says_so_and_what_is_acknowledged_stays(binary):
    with tempfile.TemporaryDirectory() as data_dir:
        with Server(binary, data_dir) as server:
            client = stub(server)
            stream = Stream(client.Insert, open_writer("plain"), ids(0, 10))
            stream.acknowledged(10)
            server.process.terminate()
            try:
                list(stream.responses)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            assert server.process.wait(30) == 0
        start = time.monotonic()
        with Server(binary, data_dir) as server:
            assert held(stub(server)) == set(range(10)), time.monotonic() - start
