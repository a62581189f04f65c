"""What an operator does to tables while they serve."""

import grpc

from peer import Stream, ids, info, insert, open_writer, pb, refusal, stub
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
            insert(client, open_writer("replay", writer), ids(0, count))
        answer = client.ListWriters(pb.ListWritersRequest(table="replay"))
        assert {w.writer_id: w.next_sequence for w in answer.writers} == writers
        assert answer.inserts == sum(writers.values())
