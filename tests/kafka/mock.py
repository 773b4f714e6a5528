"""librdkafka's own mock cluster, which the wheel of `confluent-kafka` brings: brokers that speak Kafka over TCP.

They run in threads of this process, hold what they are sent in memory, and can be told to fail. The Python package
has no way to them but an option; the library has, and is called through `ctypes`.
"""

import ctypes
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import confluent_kafka

from tests.ports import held

#: What the mock's partitions begin with, where nobody says how many.
PARTITIONS = 4
#: The numbers of requests, as the protocol has them.
FETCH, OFFSET_COMMIT, JOIN_GROUP = 1, 8, 11
_ERROR_SIZE = 512


@cache
def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    [path] = folder.glob("librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    for name in ("conf_new", "new", "mock_cluster_new", "mock_cluster_bootstraps"):
        getattr(library, f"rd_kafka_{name}").restype = ctypes.c_void_p
    return library


class Mock:
    """A cluster of mock brokers."""

    #: A group that is shared anew waits for its members for a second less than this.
    session_timeout_ms = 1500

    def __init__(self, brokers: int = 1) -> None:
        library = self._library = _library()
        self._brokers = range(1, brokers + 1)
        self._held: list[socket.socket] = []
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        settings = ctypes.c_void_p(library.rd_kafka_conf_new())
        library.rd_kafka_conf_set(settings, b"log_level", b"0", error, _ERROR_SIZE)
        self._client = ctypes.c_void_p(library.rd_kafka_new(0, settings, error, _ERROR_SIZE))
        assert self._client, error.value
        self._cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(self._client, brokers))
        library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
        text = ctypes.cast(library.rd_kafka_mock_cluster_bootstraps(self._cluster), ctypes.c_char_p).value
        assert text is not None
        #: host:port of each broker, with commas between them.
        self.address = text.decode()
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    def close(self) -> None:
        while self._held:
            self._held.pop().close()
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def create(self, topic: str, partitions: int = PARTITIONS) -> None:
        self._done(self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1))

    def delete(self, topic: str) -> None:
        self._done(self._library.rd_kafka_mock_topic_delete(self._cluster, topic.encode()))

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        name, offset = topic.encode(), ctypes.c_int64(before)
        self._done(self._library.rd_kafka_mock_partition_delete_records(self._cluster, name, partition, offset))

    def down(self) -> None:
        """Their ports are held: a client that tries to connect could be given one as its own."""
        for broker in self._brokers:
            self._done(self._library.rd_kafka_mock_broker_set_down(self._cluster, broker))
        for address in self.address.split(","):
            self._held.append(held(int(address.rpartition(":")[2])))

    def up(self) -> None:
        for broker in self._brokers:
            self._done(self._library.rd_kafka_mock_broker_set_up(self._cluster, broker))
        while self._held:
            self._held.pop().close()

    def fail_next(self, request: int, errors: Sequence[int]) -> None:
        """The next requests of this kind are answered with these errors."""
        numbers = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), numbers
        )

    @staticmethod
    def _done(code: int) -> None:
        assert code == 0, f"the mock cluster refused it: {code}"
