from pathlib import Path

import pytest

from durable.store.encoded import EncodedStore
from durable.store.memory import MemoryStore, Tables
from durable.store.sqlite import SqliteStore
from tests.codec.support import keyed
from tests.store.support import Stores


@pytest.fixture(params=["memory", "sqlite", "encoded"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Gives a new store each time it is called, always over the same content."""
    if request.param == "memory":
        tables = Tables()
        return lambda: MemoryStore(tables)
    if request.param == "encoded":
        tables, codec = Tables(), keyed("k1")
        return lambda: EncodedStore(MemoryStore(tables), codec)
    return lambda: SqliteStore(tmp_path / "durable.db", synchronous="NORMAL")
