"""Every example is run as a user would run it, then killed with SIGKILL and started again on the same file."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import reserved_port

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

#: What each example prints, in any order (numbers that differ from run to run are N), ...
TOLD = {
    "hello": """
        process N composes a greeting
        process N says: Hello, World! Composed by process N.
        result: Hello, World! Composed by process N.
        """,
    "saga": """
        trip-1: booking a flight in Lisbon
        trip-1: booking a hotel in Lisbon
        trip-1: booking a car in Lisbon
        trip-1: booked trip-1/flight, trip-1/hotel, trip-1/car
        trip-2: booking a flight in Oslo
        trip-2: booking a hotel in Oslo
        trip-2: booking a car in Oslo
        trip-2: cancelling trip-2/car, if there is such a booking
        trip-2: cancelling trip-2/hotel, if there is such a booking
        trip-2: cancelling trip-2/flight, if there is such a booking
        trip-2: failed with 409, all cars in Oslo are rented out
        """,
    "human_approval": """
        e-1: asking the manager for 42 euros for a train ticket
        e-2: asking the manager for 64000 euros for a racehorse
        e-3: asking the manager for 3 euros for a coffee
        e-1: paying 42 euros
        e-1: train ticket paid
        e-2: racehorse declined by the manager
        e-3: coffee declined, nobody answered within 500ms
        """,
    "fan_out": """
        asking Adler
        asking Berg
        asking Cello
        asking Dorn
        asking Eibe
        haggling with Adler
        haggling with Berg
        haggling with Dorn
        haggling with Eibe
        buying from Eibe for 80
        10 invocations, 1 failed
        """,
    "keyed_counter": """
        meanwhile: N apples
        in the end: 210 apples
        in the end: 210 pears
        """,
    "sign_up": """
        mail to ada@example.com: your code is N
        status: waiting for the code
        verify: 403, that is not the code in the mail
        making the account ada for ada@example.com
        result: account ada <ada@example.com>
        status: signed up
        """,
    "embedded_in_fastapi": """
        POST lamp: 202 accepted
        POST lamp: 202 known
        charging for 2 x lamp
        shipping 2 x lamp
        GET lamp: completed, {'paid': 50, 'parcel': 'parcel with 2 x lamp'}
        POST unicorn: 202 accepted
        POST unicorn: 202 known
        charging for 2 x unicorn
        GET unicorn: failed, unicorns are not for sale
        """,
    "embedded_in_starlette": """
        POST May: 202 accepted
        POST June: 202 accepted
        DELETE June: 202
        writing about the sales of May
        writing about the costs of May
        writing about the outlook of May
        GET May: completed, ['the sales of May: fine', 'the costs of May: fine', 'the outlook of May: fine']
        GET June: failed, cancelled
        """,
    "operated_service": """
        packing one lamp
        a stranger asks: 401
        Parcels/ship is paused: ConnectionError: the carrier is closed
        resume: 200
        completed ['pack', 'hand_over'] {'json': 'parcel with one lamp, on its way'}
        """,
}

#: ... and what it still prints when it is started again after it has ended: results come from the file, no step runs.
TOLD_AGAIN = {
    "hello": """
        result: Hello, World! Composed by process N.
        """,
    "saga": """
        trip-1: booked trip-1/flight, trip-1/hotel, trip-1/car
        trip-2: failed with 409, all cars in Oslo are rented out
        """,
    "human_approval": """
        e-1: train ticket paid
        e-2: racehorse declined by the manager
        e-3: coffee declined, nobody answered within 500ms
        """,
    "fan_out": """
        buying from Eibe for 80
        10 invocations, 1 failed
        """,
    "keyed_counter": """
        meanwhile: N apples
        in the end: 210 apples
        in the end: 210 pears
        """,
    "sign_up": """
        status: signed up
        verify: 403, that is not the code in the mail
        result: account ada <ada@example.com>
        status: signed up
        """,
    "embedded_in_fastapi": """
        POST lamp: 202 known
        POST lamp: 202 known
        GET lamp: completed, {'paid': 50, 'parcel': 'parcel with 2 x lamp'}
        POST unicorn: 202 known
        POST unicorn: 202 known
        GET unicorn: failed, unicorns are not for sale
        """,
    "embedded_in_starlette": """
        POST May: 202 known
        POST June: 202 known
        DELETE June: 409
        GET May: completed, ['the sales of May: fine', 'the costs of May: fine', 'the outlook of May: fine']
        GET June: failed, cancelled
        """,
    "operated_service": """
        a stranger asks: 401
        completed ['pack', 'hand_over'] {'json': 'parcel with one lamp, on its way'}
        """,
}

#: Varies from run to run: process ids, the mailed code, how far the counter was halfway.
VARIES = re.compile(r"(?<=process )\d+|(?<=code is )\d+|(?<=meanwhile: )\d+")
#: How far the cancelled report had come.
MAY_BE = re.compile(r"writing about the \w+ of June")

#: Examples that are folders, run by `python -m`, and the end of what they print.
FOLDERS = {
    "checkout": "The books match: nothing lost, nothing doubled.",
    "several_workers": "The books match: nothing lost, nothing doubled.",
    "kafka_orders": "every order was placed once, in order",
    "observability": "one order, one trace, two lives of the engine",
    "trip_saga": "The trip is undone: every booking cancelled once, leaf first, through a SIGKILL.",
}


@pytest.fixture(autouse=True)
def leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process does not clean up its temporary directory."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("[!_]*.py")), ids=lambda file: file.stem)
def test_an_example_tells_its_story_and_a_second_run_takes_it_from_the_file(file: Path, tmp_path: Path) -> None:
    assert file.stem in TOLD, f"say in TOLD what {file.name} prints"
    assert told(finish(file.stem, tmp_path)) == lines(TOLD[file.stem])
    assert told(finish(file.stem, tmp_path)) == lines(TOLD_AGAIN[file.stem])


def test_an_example_needs_no_arguments() -> None:
    ended = run(sys.executable, "examples/hello.py")
    assert told(ended.stdout.splitlines()) == lines(TOLD["hello"])


def test_every_folder_of_examples_runs(tmp_path: Path) -> None:
    assert {main.parent.name for main in EXAMPLES.glob("*/__main__.py")} == set(FOLDERS)
    orders = tmp_path / "orders.csv"
    orders.write_bytes(b"".join((EXAMPLES / "checkout/orders.csv").read_bytes().splitlines(keepends=True)[:80]))
    ended = run(sys.executable, "-m", "examples.checkout", "--orders", str(orders), "--kills", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == FOLDERS["checkout"]
    ended = run(sys.executable, "-m", "examples.trip_saga")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == FOLDERS["trip_saga"]


def test_workers_of_uvicorn_are_killed_in_turn_under_load_and_nothing_is_lost_or_doubled() -> None:
    """For 20 s: `python -m examples.several_workers`."""
    ended = run(sys.executable, "-m", "examples.several_workers", "--seconds", "6")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert complaints(ended.stderr) == []
    assert ended.stdout.splitlines()[-1] == FOLDERS["several_workers"]


def test_orders_are_read_from_a_topic() -> None:
    ended = run(sys.executable, "-m", "examples.kafka_orders")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == FOLDERS["kafka_orders"]


def test_an_orders_trace_is_drawn() -> None:
    ended = run(sys.executable, "-m", "examples.observability")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *drawn, last = ended.stdout.splitlines()
    assert last == FOLDERS["observability"]
    found = Counter(line.partition(" ms  ")[2].strip() for line in drawn)
    assert found["invocation-end Shop/order success"] == 1, ended.stdout


CONSOLE = ["fan_out", "hello", "human_approval", "keyed_counter", "saga", "sign_up"]
#: Those whose steps run one after another: only the one that was running when the process died may run again.
ONE_BY_ONE = ["hello", "saga"]


@pytest.mark.parametrize("example", CONSOLE)
def test_an_example_killed_again_and_again_gets_to_the_same_end(example: str, tmp_path: Path) -> None:
    """The first process is killed at the first line it prints, the second at its second line, and so on."""
    steps = set(lines(TOLD[example]) - lines(TOLD_AGAIN[example]))
    recorded = set[str]()
    for kills in count():
        printed, killed = run_deadly(example, tmp_path, at_line=kills + 1)
        if example in ONE_BY_ONE:
            assert not recorded & set(told(printed))
            recorded |= steps & set(told(printed[:-1]))
        if not killed:
            break
    assert kills > 1
    assert told(finish(example, tmp_path)) == lines(TOLD_AGAIN[example])


def test_hello_says_what_the_killed_process_composed(tmp_path: Path) -> None:
    before, _ = run_deadly("hello", tmp_path, at="says: Hello")
    composed = before[0].split()[1]
    after = finish("hello", tmp_path)
    assert len(after) == 2  # nothing is composed
    assert after[0].endswith(f"says: Hello, World! Composed by process {composed}.")
    assert after[0].split()[1] != composed


def test_saga_goes_on_undoing_where_it_was_killed(tmp_path: Path) -> None:
    run_deadly("saga", tmp_path, at="cancelling trip-2/hotel")
    assert finish("saga", tmp_path) == [
        "trip-1: booked trip-1/flight, trip-1/hotel, trip-1/car",
        "trip-2: cancelling trip-2/hotel, if there is such a booking",
        "trip-2: cancelling trip-2/flight, if there is such a booking",
        "trip-2: failed with 409, all cars in Oslo are rented out",
    ]


def test_human_approval_takes_answers_to_mails_that_a_killed_process_sent(tmp_path: Path) -> None:
    run_deadly("human_approval", tmp_path, at="asking the manager for 42")
    run_deadly("human_approval", tmp_path, at="e-1: paying")
    after = finish("human_approval", tmp_path)
    assert "e-1: asking the manager for 42 euros for a train ticket" not in after
    assert lines(TOLD_AGAIN["human_approval"]) <= told(after)
    mails = (tmp_path / "human_approval.db.outbox").read_text().splitlines()
    assert len(set(mails)) == 3  # a mail sent twice has the same id twice


def test_fan_out_asks_nobody_again_who_has_answered(tmp_path: Path) -> None:
    run_deadly("fan_out", tmp_path, at="haggling with Dorn")
    after = told(finish("fan_out", tmp_path))
    assert after["haggling with Dorn"] == 1
    assert not [line for line in after if line.startswith("asking")]
    assert lines(TOLD_AGAIN["fan_out"]) <= after  # ten invocations, as if nothing had happened


def test_keyed_counter_counts_on_after_a_kill(tmp_path: Path) -> None:
    before, _ = run_deadly("keyed_counter", tmp_path, at="meanwhile")
    assert 55 <= int(before[0].split()[1]) <= 210
    assert finish("keyed_counter", tmp_path)[1:] == ["in the end: 210 apples", "in the end: 210 pears"]


def test_sign_up_takes_the_code_that_a_killed_process_mailed(tmp_path: Path) -> None:
    run_deadly("sign_up", tmp_path, at="making the account")
    after = told(finish("sign_up", tmp_path))
    assert after["making the account ada for ada@example.com"] == 1
    assert not [line for line in after if line.startswith("mail to")]


# ---- the servers ----


class Served:
    """What one of the web examples is asked, and what becomes of it."""

    def __init__(self, *uvicorn: str, env: str, at: str, before: str, path: str, body: dict[str, Any]) -> None:
        self.uvicorn = uvicorn
        self.env = env
        #: The line at which the server dies, and one that it printed before.
        self.at, self.before = at, before
        self.path, self.body = path, body


SERVED = {
    "fastapi": Served(
        "examples.embedded_in_fastapi:app",
        env="ORDERS_DB",
        at="shipping 2 x lamp",
        before="charging for 2 x lamp",
        path="/orders",
        body={"item": "lamp", "quantity": 2},
    ),
    "starlette": Served(
        "--factory",
        "examples.embedded_in_starlette:create_app",
        env="REPORTS_DB",
        at="writing about the costs of May",
        before="writing about the sales of May",
        path="/reports",
        body={"month": "May"},
    ),
}


@pytest.mark.parametrize("framework", SERVED)
def test_a_killed_server_finishes_what_it_had_accepted(framework: str, tmp_path: Path) -> None:
    served, key = SERVED[framework], {"Idempotency-Key": "the first"}
    first, second = tmp_path / "first.log", tmp_path / "second.log"

    with serve(served, tmp_path, first, at=served.at) as (http, server):
        accepted = http.post(served.path, json=served.body, headers=key)
        assert accepted.status_code == 202
        assert accepted.json()["status"] == "accepted"
        place = accepted.headers["Location"]
        assert server.wait(timeout=30) == -signal.SIGKILL
    assert served.before in first.read_text()

    with serve(served, tmp_path, second) as (http, server):
        wait_until(lambda: http.get(place).json()["status"] == "completed")
        finished = http.get(place).json()
        if framework == "fastapi":
            assert finished["receipt"] == {"paid": 50, "parcel": "parcel with 2 x lamp"}
        else:
            assert finished["report"] == [f"the {chapter} of May: fine" for chapter in ("sales", "costs", "outlook")]
        again = http.post(served.path, json=served.body, headers=key)
        assert (again.status_code, again.json()["status"]) == (202, "known")
        assert again.headers["Location"] == place
        server.terminate()
        server.wait(timeout=30)
    log = second.read_text()
    assert log.count(served.at) == 1
    assert served.before not in log
    assert "Application shutdown complete" in log


@pytest.mark.parametrize("framework", SERVED)
def test_a_server_refuses_what_it_does_not_understand(framework: str, tmp_path: Path) -> None:
    served, key = SERVED[framework], {"Idempotency-Key": "the first"}
    with serve(served, tmp_path, tmp_path / "log") as (http, _):
        assert http.post(served.path, json=served.body).status_code in (400, 422)
        assert http.post(served.path, json={"nothing": "of use"}, headers=key).status_code in (400, 422)
        assert http.get(f"{served.path}/nonsense").status_code == 400
        assert http.get(f"{served.path}/inv_1{'0' * 33}").status_code == 404


# ---- running, and killing ----

#: Runs a file or a module as `__main__`. The process gets SIGKILL the moment it has printed a certain line.
DEADLY = """
import os, runpy, signal, sys, threading

at, at_line, kind, target, *arguments = sys.argv[1:]


class Stdout:
    def __init__(self, stdout):
        self.stdout, self.lock, self.mine, self.lines = stdout, threading.Lock(), threading.local(), 0

    def write(self, text):
        line = self.mine.line = getattr(self.mine, "line", "") + text
        if line.endswith("\\n"):
            self.mine.line = ""
            with self.lock:
                self.stdout.write(line)
                self.stdout.flush()
                self.lines += 1
                if self.lines == int(at_line) or (at and at in line):
                    os.kill(os.getpid(), signal.SIGKILL)
        return len(text)

    def __getattr__(self, name):
        return getattr(self.stdout, name)


sys.stdout = Stdout(sys.stdout)
sys.argv = [target, *arguments]
if kind == "file":
    runpy.run_path(target, run_name="__main__")
else:
    runpy.run_module(target, run_name="__main__")
"""


def deadly(at: str, at_line: int, kind: str, target: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", DEADLY, at, str(at_line), kind, target, *arguments]


def run(*command: str, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    """From the root of the repository, to its end."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            pytest.fail(f"not done within {seconds} s:\n{stdout}{stderr}")
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def complaints(stderr: str) -> list[str]:
    """What is on stderr, but for the lines that say what a killed process is charged with."""
    return [line for line in stderr.splitlines() if "the process ended without a clean close" not in line]


def run_deadly(example: str, folder: Path, *, at: str = "", at_line: int = 0) -> tuple[list[str], bool]:
    """What it printed until it was killed, and whether it was; with `at` it has to be."""
    command = deadly(at, at_line, "file", f"examples/{example}.py", str(folder / f"{example}.db"))
    ended = run(*command)
    assert ended.returncode == -signal.SIGKILL or (not at and ended.returncode == 0), ended.stdout + ended.stderr
    assert complaints(ended.stderr) == []
    return ended.stdout.splitlines(), ended.returncode != 0


def finish(example: str, folder: Path) -> list[str]:
    """What it prints when it is left in peace: no warning, no error."""
    command = [sys.executable, "-W", "always", f"examples/{example}.py", str(folder / f"{example}.db")]
    ended = run(*command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert complaints(ended.stderr) == []
    return ended.stdout.splitlines()


def told(printed: list[str]) -> Counter[str]:
    return Counter(VARIES.sub("N", line) for line in printed if not MAY_BE.fullmatch(line))


def lines(text: str) -> Counter[str]:
    return Counter(line.strip() for line in text.strip().splitlines())


@contextmanager
def serve(
    served: Served, folder: Path, log: Path, *, at: str = ""
) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """A server under uvicorn, on a port that the system chose; killed at the end if it still runs."""
    with reserved_port() as port:
        command = deadly(at, 0, "module", "uvicorn", *served.uvicorn, "--host", "127.0.0.1", "--port", str(port))
        environment = os.environ | {served.env: str(folder / "served.db")}
        with log.open("wb") as output:
            server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: server.poll() is not None or listens(port))
            assert server.poll() is None, log.read_text()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
                yield http, server
        finally:
            if server.poll() is None:
                server.kill()
            server.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(happened: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.02)
