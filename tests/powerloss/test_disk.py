"""The model of a disk: what it may lose, and what it may not."""

import random
from collections.abc import Iterable

from tests.powerloss.disk import SECTOR, Disk, Files
from tests.powerloss.trace import CREATED, EMPTIED, FOLDER, Note, Op

HERE = Note(Op.OPEN, 99, FOLDER, b".", b"")


def opened(file: int, name: bytes, how: int = CREATED) -> Note:
    return Note(Op.OPEN, file, how, name, b"")


def wrote(file: int, at: int, data: bytes) -> Note:
    return Note(Op.WRITE, file, at, data, b"")


def cut_to(file: int, size: int) -> Note:
    return Note(Op.TRUNCATE, file, size, b"", b"")


def synced(file: int) -> Note:
    return Note(Op.SYNC, file, 0, b"", b"")


def unlinked(name: bytes) -> Note:
    return Note(Op.UNLINK, 0, 0, name, b"")


def renamed(old: bytes, new: bytes) -> Note:
    return Note(Op.RENAME, 0, 0, old, new)


def linked(old: bytes, new: bytes) -> Note:
    return Note(Op.LINK, 0, 0, old, new)


def after(files: Files, notes: Iterable[Note]) -> list[Files]:
    """All that a cut may leave, found by trying."""
    disk = Disk(files)
    disk.feed(notes)
    found = [disk.after_cut(random.Random(seed)) for seed in range(400)]
    return [files for number, files in enumerate(found) if files not in found[:number]]


def contents(files: Files, notes: Iterable[Note], name: str = "a") -> set[bytes | None]:
    return {found.get(name) for found in after(files, notes)}


def test_what_was_synced_with_its_folder_is_there() -> None:
    notes = [HERE, opened(1, b"a"), wrote(1, 0, b"one"), synced(1), synced(99)]
    assert after({}, notes) == [{"a": b"one"}]


def test_a_synced_file_whose_folder_was_not_synced_may_be_missing() -> None:
    notes = [HERE, opened(1, b"a"), wrote(1, 0, b"one"), synced(1)]
    assert contents({}, notes) == {b"one", None}


def test_a_file_whose_content_was_not_synced_may_be_empty_or_hold_zeros() -> None:
    notes = [HERE, opened(1, b"a"), synced(99), wrote(1, 0, b"one")]
    assert contents({}, notes) == {b"one", b"", b"\0\0\0"}


def test_unsynced_writes_survive_in_any_subset_and_any_order() -> None:
    notes = [opened(1, b"a", 0), wrote(1, 0, b"1"), wrote(1, 1, b"2"), wrote(1, 0, b"3")]
    assert {b"ab", b"1b", b"a2", b"12", b"3b", b"32"} <= contents({"a": b"ab"}, notes)


def test_a_write_is_torn_where_a_sector_ends_and_nowhere_else() -> None:
    old, new = b"o" * SECTOR * 3, b"n" * SECTOR * 2
    found = contents({"a": old}, [opened(1, b"a", 0), wrote(1, SECTOR // 2, new)])
    pieces = [(SECTOR // 2, SECTOR), (SECTOR, 2 * SECTOR), (2 * SECTOR, 2 * SECTOR + SECTOR // 2)]
    for content in found:
        assert content is not None and len(content) == len(old)
        assert content[: SECTOR // 2] == b"o" * (SECTOR // 2)
        for low, high in pieces:
            assert len(set(content[low:high])) == 1, "half a sector was written"
    assert len(found) == 8, "each of the three pieces may be there or not"


def test_a_sync_keeps_what_was_written_before_it_and_nothing_after() -> None:
    notes = [opened(1, b"a", 0), wrote(1, 0, b"1"), synced(1), wrote(1, 1, b"2")]
    assert contents({"a": b"ab"}, notes) == {b"1b", b"12"}


def test_files_lose_independently_of_each_other() -> None:
    notes = [opened(1, b"a", 0), opened(2, b"b", 0), wrote(1, 0, b"1"), wrote(2, 0, b"2")]
    found = after({"a": b"x", "b": b"y"}, notes)
    assert sorted(map(str, found)) == sorted(map(str, [{"a": a, "b": b} for a in (b"x", b"1") for b in (b"y", b"2")]))


def test_a_truncation_may_or_may_not_have_happened() -> None:
    assert contents({"a": b"long"}, [opened(1, b"a", 0), cut_to(1, 1)]) == {b"long", b"l"}
    assert contents({"a": b"x"}, [opened(1, b"a", 0), cut_to(1, 3)]) == {b"x", b"x\0\0"}
    assert contents({"a": b"long"}, [opened(1, b"a", EMPTIED)]) == {b"long", b""}
    assert contents({"a": b"long"}, [opened(1, b"a", 0), cut_to(1, 1), synced(1)]) == {b"l"}


def test_an_unlinked_file_may_come_back_until_its_folder_is_synced() -> None:
    notes = [HERE, unlinked(b"a")]
    assert contents({"a": b"x"}, notes) == {b"x", None}
    assert contents({"a": b"x"}, [*notes, synced(99)]) == {None}


def test_a_file_made_anew_under_a_name_may_be_the_old_one_again() -> None:
    notes = [HERE, unlinked(b"a"), opened(1, b"a"), wrote(1, 0, b"new"), synced(1)]
    assert contents({"a": b"old"}, notes) == {b"old", b"new", None}


def test_a_rename_happens_as_a_whole_or_not_at_all() -> None:
    notes = [HERE, opened(1, b"t"), wrote(1, 0, b"new"), synced(1), synced(99), renamed(b"t", b"a")]
    found = after({"a": b"old"}, notes)
    assert sorted(map(str, found)) == sorted(map(str, [{"a": b"old", "t": b"new"}, {"a": b"new"}]))
    assert after({"a": b"old"}, [*notes, synced(99)]) == [{"a": b"new"}]


def test_a_rename_may_come_before_the_content() -> None:
    notes = [HERE, opened(1, b"t"), wrote(1, 0, b"new"), renamed(b"t", b"a"), synced(99)]
    assert contents({"a": b"old"}, notes) == {b"new", b"", b"\0\0\0"}


def test_two_names_of_a_file_have_one_content() -> None:
    notes = [HERE, linked(b"a", b"b"), synced(99), opened(1, b"b", 0), wrote(1, 0, b"1")]
    assert sorted(map(str, after({"a": b"x"}, notes))) == sorted(
        map(str, [{"a": one, "b": one} for one in (b"x", b"1")])
    )


def test_what_a_program_sees_has_everything() -> None:
    disk = Disk({"a": b"ab"})
    disk.feed([HERE, opened(1, b"a", 0), wrote(1, 3, b"d"), opened(2, b"b"), renamed(b"b", b"c"), unlinked(b"c")])
    assert disk.now() == {"a": b"ab\0d"}


def test_what_a_sync_has_failed_for_stays_at_risk_until_it_is_written_once_more() -> None:
    failed = Note(Op.FAULT, 1, Op.SYNC, b"file", b"")
    notes = [opened(1, b"a", 0), wrote(1, 0, b"12"), failed, synced(1)]
    assert contents({"a": b"abc"}, notes) == {b"abc", b"12c"}
    assert contents({"a": b"abc"}, [*notes, wrote(1, 1, b"3"), synced(1)]) == {b"a3c", b"13c"}
    assert contents({"a": b"abc"}, [*notes, wrote(1, 0, b"45"), synced(1)]) == {b"45c"}
    assert contents({"a": b"abc"}, [*notes, cut_to(1, 1), synced(1)]) == {b"a", b"1"}
    disk = Disk({"a": b"abc"})
    disk.feed(notes)
    assert disk.now() == {"a": b"12c"}, "a program sees it all the same"


def test_a_seed_gives_the_same_image_again() -> None:
    disk = Disk({"a": bytes(SECTOR * 8)})
    disk.feed([opened(1, b"a", 0), *(wrote(1, at * 700, b"x" * 700) for at in range(9))])
    images = [disk.after_cut(random.Random(seed)) for seed in range(50)]
    assert images == [disk.after_cut(random.Random(seed)) for seed in range(50)]
    assert len({image["a"] for image in images}) > 20
