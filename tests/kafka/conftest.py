"""The broker that tests talk to."""

import itertools
from collections.abc import Iterator

import pytest

from tests.kafka.mock import Mock
from tests.kafka.support import Broker

_numbers = itertools.count(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def mock() -> Iterator[Mock]:
    cluster = Mock()
    yield cluster
    cluster.close()


@pytest.fixture
def own_mock() -> Iterator[Mock]:
    """A cluster that this test may stop."""
    cluster = Mock()
    yield cluster
    cluster.close()


@pytest.fixture
def broker(mock: Mock) -> Broker:
    return mock


@pytest.fixture
def topic(broker: Broker, request: pytest.FixtureRequest) -> str:
    """A topic of four partitions that is this test's alone."""
    name = f"{request.node.originalname}-{next(_numbers)}"[-200:]
    broker.create(name)
    return name
