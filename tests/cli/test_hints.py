"""What whoever typed something that is no JSON is told."""

import io
import json
import shlex
import sys
from pathlib import Path

import pytest

from durable.cli.hints import hint
from tests.cli.typed import typed

QUOTES = "texts and names are in double quotes"
#: What was typed, and what to type instead, as a shell takes it.
MEANT = [
    ("'Ada'", """'"Ada"'"""), ("“Ada”", """'"Ada"'"""), ("{'a': 1}", """'{"a": 1}'"""),
    ('{"a": 1,}', """'{"a": 1}'"""), ("[1, 2, ]", "'[1, 2 ]'"), ('{"a": [true,],}', """'{"a": [true]}'"""),
    ('{"a,}": ",]",}', """'{"a,}": ",]"}'"""), ("{'a': None, 'b': (1, True)}", """'{"a": null, "b": [1, true]}'"""),
    ("True", "true"), ("None", "null"), (".5", "0.5"), ("+1", "1"), ("1.", "1.0"), ("1_000", "1000"),
    ('"tab\tin it"', r"""'"tab\tin it"'"""),
]  # fmt: skip
#: What was typed, and what is said of it.
SAID = [
    ("Ada", """a text is written '"Ada"', in quotes"""),
    ('say "hi"', r"""a text is written '"say \"hi\""', in quotes"""),
    ('Ada"', r"""a text is written '"Ada\""', in quotes"""),
    ("2026-01-01", """a text is written '"2026-01-01"', in quotes"""),
    ("1,5", """a text is written '"1,5"', in quotes"""),
    ("x" * 100, """a text is written '"…"', in quotes"""),
    ("01", """a number is written 1, without zeros in front, and a text '"01"'"""),
    ("-00.50", """a number is written -0.50, without zeros in front, and a text '"-00.50"'"""),
    ("NaN", """there is no such number; a text is written '"NaN"', in quotes"""),
    ("1e999", """there is no such number; a text is written '"1e999"', in quotes"""),
    ('"Ada', "the quote at character 1 is not closed"),
    ('{"a": "b', "the quote at character 7 is not closed"),
    ('"Ada"x', f"it goes wrong at character 6, at 'x'; {QUOTES}"),
    ('""Ada""', f"it goes wrong at character 3, at 'Ada\"\"'; {QUOTES}"),
    ('"a" "b"', "it goes wrong at character 5, at '\"b\"'"),
    (r'"a\x"', "it goes wrong at character 3, at '\\\\x\"'"),
    ("{a: 1}", f"it goes wrong at character 2, at 'a: 1}}'; {QUOTES}"),
    ("{'a': true}", f"it goes wrong at character 2, at \"'a': true}}\"; {QUOTES}"),
    ('{"a": 1', "its end is missing"),
    ("[" * 5000, "it is nested too deeply, or a number in it is too large"),
    ("[1e999]", "it is nested too deeply, or a number in it is too large"),
    ("", """it is empty; nothing is written null, and an empty text '""'"""),
    (str(["x" * 100]), f"{QUOTES}, the last comma has something behind it, and true, false, null are small"),
]


@pytest.mark.parametrize(("text", "instead"), MEANT)
def test_what_was_meant_is_written_as_json(text: str, instead: str) -> None:
    assert hint(text.encode(), in_shell=True) == f"write {instead}"
    [document] = shlex.split(instead)
    json.loads(document)
    assert hint(text.encode(), in_shell=False) == f"write {document}"


@pytest.mark.parametrize(("text", "said"), SAID)
def test_what_is_wrong_with_it_is_said(text: str, said: str) -> None:
    assert hint(text.encode(), in_shell=True) == said


def test_where_it_comes_from_a_file_or_a_pipe_there_is_no_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ["--ingress", "http://127.0.0.1:1"]
    (tmp_path / "value").write_bytes(b"Ada\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    for given, told in (
        (f"@{tmp_path / 'value'}", """the input 'Ada\\n' is no JSON: a text is written "Ada", in quotes"""),
        ("-", "the input '\ufffd' is no JSON: it is no UTF-8"),
        ("Ada", """the input 'Ada' is no JSON: a text is written '"Ada"', in quotes"""),
    ):
        result = typed("call", "Shop/greet", given, *at)
        assert (result.code, result.err) == (2, f"durable: {told}\n")
