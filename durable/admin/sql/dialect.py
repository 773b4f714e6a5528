"""From the SQL that Restate's clients and their users write to what SQLite takes.

Their dialect is DataFusion's, close to PostgreSQL's. What differs is rewritten token by token; what is inside strings
and quoted names is left alone:

    sj.index                            a word that SQLite reserves is quoted
    information_schema.columns          a table of its own
    first_value(a), first_value(a ORDER BY b)   a value of the group's first row
    a ILIKE b, string_agg, CAST(a AS STRING)    LIKE, group_concat, TEXT
    now() - INTERVAL '1 hour'           a function, since times are text
    ORDER BY created_at                 the number behind it, which an index has
    min(created_at) AS a                the same
    status != 'completed', status IN (…)    the same, and that it is open: there is an index of what is
    count(1) FROM (SELECT * … LIMIT 9)  the columns that are asked for outside
    FROM (SELECT * FROM t x) WHERE x.a  a subquery without a name gets that of its own table
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from durable.admin.sql.tables import TABLES

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<text>[xX]?'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
      | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
      | (?P<word>[^\W\d]\w*)
      | (?P<other><=|>=|<>|!=|==|\|\||::|->>|->|.)""",
    re.VERBOSE | re.DOTALL,
)
#: Columns that hold times, all of the same width as text: they can be compared and joined to other text.
TIMES = frozenset({"created_at", "modified_at", "completed_at", "appended_at", "last_start_at", "next_retry_at"})
#: Types that are text in SQLite.
_TEXTS = frozenset({"string", "varchar", "timestamp"})
_WIDTH = len("2026-11-29T14:09:25.742Z")


class SqlError(Exception):
    """A statement that is refused before it runs."""


def to_sqlite(sql: str) -> str:
    """The statement as SQLite takes it. Raises `SqlError` for what has no counterpart."""
    asked = _only_what_is_asked(tokens(sql))
    if not _of_invocations(asked):
        return _written(_rewrite(asked))
    return _written(_by_number(_by_status(_rewrite(_earliest(asked)))))


def tokens(sql: str) -> list[str]:
    """Words, numbers, texts and signs, without comments and spaces."""
    return [match[0] for match in _TOKEN.finditer(sql) if match.lastgroup != "space"]


def _written(tokens: Sequence[str]) -> str:
    """One text again, as people write it: SQLite calls a column without an alias by it, as in `count(*)`."""
    text = "".join(tokens[:1])
    for before, token in pairwise(tokens):
        close = before in ("(", ".") or token in (")", ",", ".") or (token == "(" and before.isidentifier())
        text += token if close else f" {token}"
    return text


def _of_invocations(tokens: Sequence[str]) -> bool:
    """Whether it is one SELECT over invocations, so that a column is what it is called."""
    lower = [token.lower() for token in tokens]
    if lower.count("from") != 1 or lower.count("select") != 1 or "with" in lower:
        return False
    return lower[lower.index("from") + 1 :][:1] in (["sys_invocation"], ["sys_invocation_status"])


def _rewrite(tokens: Sequence[str]) -> list[str]:
    out: list[str] = []
    at = 0
    while at < len(tokens):
        token, after = tokens[at], tokens[at + 1 : at + 3]
        word = token.lower()
        if word == "index":
            out.append('"index"')
        elif word == "ilike":
            out.append("LIKE")
        elif word == "string_agg" and after[:1] == ["("]:
            out.append("group_concat")
        elif word in _TEXTS and after[:1] == [")"] and [one.lower() for one in out[-1:]] == ["as"]:
            out.append("TEXT")
        elif word == "information_schema" and len(after) == 2 and after[0] == ".":
            out.append(f"information_schema_{after[1].lower()}")
            at += 2
        elif word == "first_value" and after[:1] == ["("]:
            end = _closing(tokens, at + 1)
            if [one.lower() for one in tokens[end + 1 : end + 2]] == ["over"]:
                out.append(token)  # the window function, which SQLite has
            else:
                out += _first_value(tokens[at + 2 : end])
                at = end
        elif word == "from" and after[:1] == ["("] and (alias := _alias(tokens, at + 1)):
            end = _closing(tokens, at + 1)
            out += [token, "(", *_rewrite(tokens[at + 2 : end]), ")", "AS", alias]
            at = end
        elif word == "interval" and after[:1] and after[0].startswith("'"):
            at += _interval(out, after[0])
        elif word == "interval" and after[:1] and after[0][:1].isdigit():
            raise SqlError(f"quote what INTERVAL has: INTERVAL '{' '.join(after)}'")
        elif word == "recursive" and [one.lower() for one in out[-1:]] == ["with"]:
            raise SqlError("WITH RECURSIVE is refused: recursion has no bound")
        elif token == "::":
            raise SqlError("write CAST(value AS type): value::type is not understood")
        else:
            out.append(token)
        at += 1
    return out


def _alias(tokens: Sequence[str], opening: int) -> str:
    """What rows of a subquery without a name are called outside: as inside. Empty where that is not needed."""
    end = _closing(tokens, opening)
    follows = tokens[end + 1].lower() if end + 1 < len(tokens) else ""
    if follows not in ("", ";", "where", "group", "order", "limit"):
        return ""
    inside = [token.lower() for token in tokens[opening + 1 : end]]
    if inside.count("from") != 1 or inside.count("select") != 1:
        return ""
    rest = tokens[opening + 1 :][inside.index("from") + 1 : end - opening - 1]
    named = rest[2:3] if [token.lower() for token in rest[1:2]] == ["as"] else rest[1:2]
    return named[0] if named and named[0].isidentifier() and named[0].lower() not in _CLAUSES else ""


_CLAUSES = frozenset("where group order limit having join left inner cross natural on union window".split())  # noqa: SIM905


def _closing(tokens: Sequence[str], opening: int) -> int:
    depth = 0
    for at in range(opening, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[at], 0)
        if depth == 0:
            return at
    raise SqlError("a parenthesis is not closed")


def _first_value(inside: Sequence[str]) -> list[str]:
    """SQLite takes a column outside of aggregates from one row of the group, the same for all of them."""
    lower, depth = [token.lower() for token in inside], 0
    for at, token in enumerate(lower):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and lower[at : at + 2] == ["order", "by"]:
            break
    else:
        return ["(", *_rewrite(inside), ")"]
    value, order, aggregate = _rewrite(inside[:at]), list(inside[at + 2 :]), "min"
    if order[-1:] and order[-1].lower() in ("asc", "desc"):
        aggregate = "min" if order.pop().lower() == "asc" else "max"
    if not order or order[-1].lower() not in TIMES or "," in order:
        raise SqlError(f"first_value(... ORDER BY ...) is understood for one of {', '.join(sorted(TIMES))}")
    return ["substr", "(", aggregate, "(", *_rewrite(order), "||", "(", *value, ")", ")", ",", str(_WIDTH + 1), ")"]


def _interval(out: list[str], text: str) -> int:
    """`now() - INTERVAL '1 hour'` becomes `now_and('-', '1 hour')`; returns how many more tokens it took."""
    if [token.lower() for token in out[-4:-1]] != ["now", "(", ")"] or out[-1] not in "+-":
        raise SqlError("INTERVAL is understood in now() - INTERVAL '1 hour' and now() + INTERVAL '1 hour'")
    sign = out[-1]
    out[-4:] = ["now_and", "(", f"'{sign}'", ",", text, ")"]
    return 1


def _by_number(tokens: list[str]) -> list[str]:
    """Order by the number that a time is made of: an index has that, and a million times need not be written out."""
    lower = [token.lower() for token in tokens]
    if _renamed(lower, "created_at") or {"group", "distinct"} & {*lower}:
        return tokens
    orders = [at for at, pair in enumerate(pairwise(lower)) if pair == ("order", "by")]
    if len(orders) != 1:
        return tokens
    kept, ordered = tokens[: orders[0]], tokens[orders[0] :]
    return [*kept, *("_created" if token.lower() == "created_at" else token for token in ordered)]


def _renamed(lower: Sequence[str], column: str) -> bool:
    return any(pair == ("as", column) for pair in pairwise(lower))


def _earliest(tokens: Sequence[str]) -> list[str]:
    """The first moment of a group, and values of the row that has it: SQLite takes those from that row by itself.

    It does so where a SELECT has one minimum (or maximum) and no other, of whatever column: there the number that a
    time is made of will do, which an index has.
    """
    lower, spans = [token.lower() for token in tokens], []
    for at, pair in enumerate(pairwise(lower)):
        if pair in (("min", "("), ("max", "("), ("first_value", "(")):
            spans.append((at, _closing(tokens, at + 1)))
    found: dict[int, tuple[int, list[str]]] = {}
    aggregates, column = set[str](), list[str]()
    for at, end in spans:
        word, inside = lower[at], lower[at + 2 : end]
        order = [place for place, pair in enumerate(pairwise(inside)) if pair == ("order", "by")]
        if word == "first_value" and not order:
            continue
        after = inside[order[-1] + 2 :] if order else inside
        if order and after[-1:] in (["asc"], ["desc"]):
            word = "min" if after.pop() == "asc" else "max"
        elif order:
            word = "min"
        if after[-1:] != ["created_at"] or len(after) not in (1, 3) or not (order or lower[end + 1 :][:1] == ["as"]):
            return [*tokens]
        column = [*tokens[end - len(after) : end - 1], "_created"] if not order else [*after[:-1], "_created"]
        aggregates.add(word)
        first = [word, "(", *column, ")"]
        if order:
            found[at] = (
                end,
                ["iif", "(", *first, "IS", "NULL", ",", "NULL", ",", *tokens[at + 2 : at + 2 + order[-1]], ")"],
            )
        else:
            found[at] = (
                end,
                ["strftime", "(", "'%Y-%m-%dT%H:%M:%fZ'", ",", *first, "/", "1000.0", ",", "'unixepoch'", ")"],
            )
    if len(aggregates) != 1:
        return [*tokens]
    out, at = list[str](), 0
    while at < len(tokens):
        end, instead = found.get(at, (at, [tokens[at]]))
        out += instead
        at = end + 1
    return out


def _by_status(tokens: Sequence[str]) -> list[str]:
    """Where a condition leaves out what has completed, say so in the words that the index of the others has."""
    lower, out, at = [token.lower() for token in tokens], list[str](), 0
    if _renamed(lower, "status"):
        return [*tokens]
    while at < len(tokens):
        end = _open_only(lower, at)
        if lower[at] != "status" or not end:
            out.append(tokens[at])
            at += 1
            continue
        owner = out[-2:] if out[-1:] == ["."] else []
        del out[len(out) - len(owner) :]
        condition = [*owner, *tokens[at:end]]
        out += ["(", *condition, "AND", *owner, "_status", "<>", "'completed'", ")"]
        at = end
    return out


def _open_only(lower: Sequence[str], at: int) -> int:
    """Where a condition on the status ends that holds for nothing that has completed; 0 where it is none."""
    match lower[at + 1 : at + 3]:
        case ["=" | "==", value] if value.startswith("'") and value != "'completed'":
            return at + 3
        case ["!=" | "<>", "'completed'"]:
            return at + 3
        case ["in", "("]:
            end = _closing(lower, at + 2)
            values, commas = lower[at + 3 : end : 2], lower[at + 4 : end : 2]
            literal = all(value.startswith("'") and value != "'completed'" for value in values)
            return end + 1 if values and literal and set(commas) <= {","} else 0
    return 0


def _only_what_is_asked(tokens: Sequence[str]) -> list[str]:
    """In `SELECT … FROM (SELECT * FROM t LIMIT n) …` name the columns that are used outside.

    SQLite computes all of such a subquery: fifty of each row, only to count them.
    """
    lower = [token.lower() for token in tokens]
    starts = [at for at in range(len(lower)) if lower[at : at + 4] == ["(", "select", "*", "from"]]
    quoted = any(token[:1] in ('"', "`", "[") for token in tokens)
    if len(starts) != 1 or lower.count("select") != 2 or quoted:
        return [*tokens]
    [start] = starts
    end = _closing(tokens, start)
    inside, outside = lower[start + 4 : end], [*lower[:start], *lower[end + 1 :]]
    table = next((one for one in TABLES if inside[:1] == [one.name]), None)
    plain = inside[1:-2] == [] or (len(inside) == 4 and inside[1].isidentifier())
    if table is None or inside[-2:-1] != ["limit"] or not plain or not _stars_count(outside):
        return [*tokens]
    used = [f'"{column.name}"' for column in table.columns if column.name in outside]
    return [*tokens[: start + 2], *(", ".join(used) or "1").split(" "), *tokens[start + 3 :]]


def _stars_count(lower: Sequence[str]) -> bool:
    """Whether each star is that of `count(*)`, or multiplies."""
    return all(lower[at - 2 : at + 2] == ["count", "(", "*", ")"] for at, token in enumerate(lower) if token == "*")
