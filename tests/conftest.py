"""What holds for whole folders of tests."""

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
# A busy machine is no fault of the code: each test has a time limit, an example of Hypothesis has none.
settings.register_profile("durable", deadline=None)
settings.load_profile("durable")
#: Here every program runs while nothing can be logged: no result may depend on a line of the log.
LOG_IS_DOWN = {"scenarios", "simulation"}


def pytest_collection_finish() -> None:
    """What is imported by now stays: full garbage collections, of which there are many, need not look at it."""
    gc.collect()
    gc.freeze()


class Down(logging.Handler):
    """A log collector that cannot be reached."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ConnectionError("the log collector is down")


@pytest.fixture(autouse=True)
def log_is_down(request: pytest.FixtureRequest) -> Iterator[None]:
    """Install one, but for tests that read the log."""
    folder = request.path.relative_to(HERE).parts[0]
    if folder not in LOG_IS_DOWN or "caplog" in request.fixturenames:
        yield
        return
    down = Down()
    logging.getLogger().addHandler(down)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(down)
