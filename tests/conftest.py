"""What holds for whole folders of tests."""

import gc
import logging
import os
import sys
from collections.abc import Generator, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis.strategies import none

HERE = Path(__file__).parent
# A busy machine is no fault of the code: each test has a time limit, an example of Hypothesis has none.
settings.register_profile("durable", deadline=None)
settings.load_profile("durable")
#: Here every program runs while nothing can be logged: no result may depend on a line of the log.
LOG_IS_DOWN = {"scenarios", "simulation"}


def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`, one more than there are cores: much of the time somebody waits for a disk or a process."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Workers compile these files for each other, also where the environment wants none beside the sources."""
    gc.set_threshold(5_000, 20, 20)  # few of these tests make garbage that is in anybody's way
    if "PYTEST_XDIST_WORKER" in os.environ and sys.dont_write_bytecode:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = str(Path(config.getoption("basetemp")).parent / "bytecode")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Each worker begins with another part of the files, and finds the others compiled when it gets there: that is
    most of what collecting them takes."""
    report = yield
    if "PYTEST_XDIST_WORKER" in os.environ and report.passed and collector.path == HERE:
        number, workers = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        sizes = [sum(file.stat().st_size for file in _files(child.path)) for child in report.result]
        ends = accumulate(sizes)
        first = sum(end * workers <= sum(sizes) * number for end in ends)
        report.result = [*report.result[first:], *report.result[:first]]
    return report


def _files(path: Path) -> Iterable[Path]:
    return path.rglob("*.py") if path.is_dir() else [path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes takes longest: it comes first, or one worker would have it alone at the end.

    All workers need the same order, in which each of them finds them.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path)
    items.sort(key=lambda item: item.get_closest_marker("process") is None)


def pytest_collection_finish() -> None:
    """What is imported by now stays: full garbage collections, of which there are many, need not look at it.

    Hypothesis makes its generator of random numbers at its first example, and warns where no garbage collection could
    find who holds it: so that is before.
    """
    settings(max_examples=1, database=None)(given(none())(lambda _: None))()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def programs_are_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hundreds of processes are started here: they share what the first of them compiled, also where the environment
    wants no such files beside the sources, as in many a container. It takes half of the time that a start takes."""
    ours = tmp_path_factory.getbasetemp()
    folder = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(folder / "bytecode"))
        yield


@pytest.fixture(autouse=True)
def levels_of_loggers_are_as_before() -> Iterator[None]:
    """A program that is nothing but an engine turns its log up; the next test in this process would hear more."""
    loggers = [logging.getLogger(name) for name in ("", "durable")]
    before = [one.level for one in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        if logger.level != level:
            logger.setLevel(level)


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
