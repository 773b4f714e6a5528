"""What somebody meant who typed something that is no JSON."""

import ast
import json
import re
import shlex
import warnings
from collections.abc import Callable, Iterator

import msgspec

#: What is longer is not repeated; and what is much longer is nothing that was typed.
_SHOWN, _TYPED = 60, 10_000
_OPENING = ("{", "[", '"')
_ZEROS = re.compile(r"(-?)0+([0-9]+)((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])', re.DOTALL)
_NUMBER = re.compile(r"-?([0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|[Ii]nf(inity)?|[Nn]a[Nn])")
_QUOTES = "texts and names are in double quotes"
_CURLY = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""' + "''")


def hint(data: bytes, *, in_shell: bool) -> str:
    """How it is to be written, as the end of a sentence. `in_shell`: with the quotes that a shell takes away."""

    def written(document: str) -> str:
        return shlex.quote(document) if in_shell else document

    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        return "it is no UTF-8"
    if not text:
        return f"it is empty; nothing is written null, and an empty text {written(json.dumps(''))}"
    zeros = _ZEROS.fullmatch(text)
    if zeros is not None:
        number = "".join(zeros.groups())
        return f"a number is written {number}, without zeros in front, and a text {_text(text, written)}"
    for document in _meant(text) if len(text) <= _TYPED else ():
        if len(document) <= _SHOWN:
            return f"write {written(document)}"
        return f"{_QUOTES}, the last comma has something behind it, and true, false, null are small"
    if text.startswith(_OPENING):
        return _where(text)
    if _NUMBER.fullmatch(text):
        return f"there is no such number; a text is written {_text(text, written)}, in quotes"
    return f"a text is written {_text(text, written)}, in quotes"


def _text(text: str, written: Callable[[str], str]) -> str:
    document = json.dumps(text, ensure_ascii=False)
    return written(document if len(document) <= _SHOWN else '"…"')


def _meant(text: str) -> Iterator[str]:
    """The JSON that is nearest, if one of these is all that is wrong with it."""
    straight = text.translate(_CURLY)
    without_commas = _STRING_OR_COMMA.sub(lambda found: "" if found[0] == "," else found[0], straight)
    for near in (straight, without_commas):
        if near != text and _is_json(near):
            yield near
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes
            value = ast.literal_eval(straight)  # as Python writes it: 'Ada', {'a': True}, None
        document = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return
    if isinstance(value, tuple) or (isinstance(value, str) and straight.count('"') > 2):
        return  # 1,5 is hardly a list, nor "a" "b" one text
    if _is_json(document):
        yield document


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def _where(text: str) -> str:
    """What begins as JSON: where it ceases to be."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            return f"the quote at character {error.pos + 1} is not closed"
        if error.pos >= len(text):
            return "its end is missing"
        quotes = f"; {_QUOTES}" if text[error.pos].isalpha() or text[error.pos] == "'" else ""
        return f"it goes wrong at character {error.pos + 1}, at {text[error.pos : error.pos + 20]!r}{quotes}"
    except (ValueError, RecursionError):
        pass
    return "it is nested too deeply, or a number in it is too large"
