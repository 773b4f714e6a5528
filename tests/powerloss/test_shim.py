"""The shim sees what SQLite and Python do to files, and makes it fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.powerloss import shim, trace
from tests.powerloss.disk import Disk
from tests.powerloss.trace import Op

pytestmark = pytest.mark.process

BEGIN = """
import os, shutil, sqlite3, sys
from pathlib import Path
from tests.powerloss.shim import Fault, Lie, Shim
folder = Path(sys.argv[1])
os.chdir(folder.parent)
shim = Shim()
shim.start(folder, Path(sys.argv[2]))
"""


def run(library: Path, tmp_path: Path, program: str) -> tuple[list[trace.Note], Path]:
    """Run a program under the shim. Returns what was noted, and the folder."""
    folder, notes = tmp_path / "folder", tmp_path / "notes"
    folder.mkdir()
    environment = {"LD_PRELOAD": str(library), "PYTHONPATH": str(shim.ROOT)}
    command = [sys.executable, "-u", "-c", BEGIN + program, str(folder), str(notes)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return trace.read(notes), folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


def test_a_commit_is_seen_as_writes_and_a_sync_before_it_returns(library: Path, tmp_path: Path) -> None:
    program = """
database = sqlite3.connect(folder / "db", isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = FULL")
database.execute("CREATE TABLE t (x)")
shim.mark("before")
database.execute("INSERT INTO t VALUES (1)")
shim.mark("after")
os._exit(0)
"""
    notes, folder = run(library, tmp_path, program)
    names = {note.file: note.first for note in notes if note.op is Op.OPEN}
    marks = [at for at, note in enumerate(notes) if note.op is Op.MARK]
    done = [(note.op, names[note.file]) for note in notes[marks[0] + 1 : marks[1]]]
    assert done and set(done[:-1]) == {(Op.WRITE, b"db-wal")} and done[-1] == (Op.SYNC, b"db-wal")
    disk = Disk()
    disk.feed(notes)
    assert disk.now() == content(folder)


def test_whatever_python_does_to_files_is_seen(library: Path, tmp_path: Path) -> None:
    program = """
with open("folder/a", "wb") as file:
    file.write(b"one")
    file.flush()
    os.fsync(file.fileno())
    file.truncate(2)
with open(folder / "a", "ab") as file:
    file.write(b"more")
shutil.copyfile("folder/a", "folder/b")
os.rename("folder/b", "folder/c")
os.link("folder/c", "folder/d")
(folder / "d").unlink()
os.replace("folder/c", "folder/e")
here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
inside = os.open("f", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=here)
os.pwrite(inside, b"x", 3)
os.writev(inside, [b"y", b"z"])
os.fsync(here)
os.rename("f", "g", src_dir_fd=here, dst_dir_fd=here)
(folder / "a").write_bytes(b"")
(folder / "h").write_bytes(b"h")
os.remove("folder/h")
Path("outside").write_bytes(b"not ours")
"""
    notes, folder = run(library, tmp_path, program)
    disk = Disk()
    disk.feed(notes)
    assert disk.now() == content(folder) == {"a": b"", "e": b"onmore", "g": b"yz\0x"}
    assert sorted(disk.synced) == ["a", "e", "f"]
    assert all(b"outside" not in note.first for note in notes)


def test_faults_happen_where_they_are_planned(library: Path, tmp_path: Path) -> None:
    program = """
file = os.open(folder / "a", os.O_RDWR | os.O_CREAT)
def attempt(what, *values):
    try:
        return what(*values)
    except OSError as error:
        return error.errno
shim.arm(Fault.ENOSPC, 2)
print([attempt(os.write, file, b"1234") for _ in range(3)], shim.fired, shim.calls)
shim.arm(Fault.EIO, 2, for_good=True)
print([attempt(os.fsync, file) for _ in range(4)], shim.fired, shim.calls)
shim.arm(Fault.SHORT)
print(attempt(os.write, file, b"1234"), shim.fired)
shim.arm(Fault.TORN)
print(attempt(os.write, file, b"1234"), shim.fired)
shim.arm(Fault.EDQUOT, operation=4)
print(attempt(os.write, file, b"1234"), attempt(os.fsync, file), shim.fired, shim.calls)
shim.lie(Lie.NO_DATABASE_SYNC)
os.fsync(file)
shim.arm(Fault.KILL_AT_SYNC)
os.fsync(file)
"""
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(library, tmp_path, program)
    assert error.value.returncode == -9
    assert error.value.stdout.splitlines() == [
        "[4, 28, 4] 1 3",  # ENOSPC
        "[None, 5, 5, 5] 3 4",  # EIO
        "2 1",
        "5 1",
        "4 122 1 1",  # EDQUOT, of syncs only
    ]
    notes = trace.read(tmp_path / "notes")
    assert (tmp_path / "folder" / "a").read_bytes() == b"1234" * 2 + b"12" * 2 + b"1234"
    assert [note.op for note in notes].count(Op.FAULT) == 1 + 3 + 1 + 1 + 1 + 1
    assert [note.op for note in notes].count(Op.SYNC) == 1, "one was done, one was left out, others failed"
