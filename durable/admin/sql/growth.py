"""How large a statement is once SQLite has put into each other what refers to each other.

SQLite writes the body of a WITH query out wherever it is named, and an inner query's column wherever an outer one
uses it. It does so before it looks at any limit, and nothing can interrupt it: thirty queries of which each says
`a + a` of the one before are a billion terms. The same goes for columns of our views, of which some are pages long.
So this is estimated from the words of a statement, from above.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from durable.admin.sql.dialect import SqlError

#: How many words a statement may grow to. Each takes up to 200 bytes while it is prepared.
_WORDS_MAX = 200_000
#: How many documents it may take apart at the same time: each is many times as large in memory as it is as text.
_DOCUMENTS_MAX = 8
#: Levels of parentheses.
_DEPTH_MAX = 200
_QUOTES = "_\"`['"
_AFTER_SORTING = frozenset({"limit", "having", "union", "except", "intersect", "select", "from", "where"})
_QUERIES = frozenset({"select", "with", "values"})
#: Words that are no column's name, among those that are written often.
_KEYWORDS = frozenset(
    re.findall(
        r"\S+",
        """
        all and as asc between by case cast cross desc distinct else end escape except exists from group having in
        inner intersect is join left like limit materialized natural not null offset on or order outer over partition
        select then union using values when where with
        """,
    )
)


#: Of a query that is being looked at.
_UNDER_WAY = (-1, -1)


class _Query(msgspec.Struct):
    """What is written in one query, and what it reads from."""

    words: int = 0
    stars: int = 0
    names: Counter[str] = msgspec.field(default_factory=Counter)
    #: Names that it gives to its columns. Where they are used, in WHERE or GROUP BY, these are written out again.
    aliases: set[str] = set()
    #: How often that is done by number: ORDER BY 1.
    numbers: int = 0
    #: Queries in parentheses; those of WITH are among the names.
    sources: list["_Query"] = []

    def weigh(self, columns: Mapping[str, int]) -> None:
        """Count each name of a column as what is behind it."""
        self.words += self.stars * columns.get("*", 0)
        self.words += sum(count * columns.get(name, 0) for name, count in self.names.items())
        for source in self.sources:
            source.weigh(columns)

    def add(self, other: "_Query") -> None:
        """Count what is written there as written here, too."""
        self.words += other.words
        self.stars += other.stars
        self.names.update(other.names)
        self.aliases |= other.aliases
        self.numbers += other.numbers

    @property
    def copies(self) -> int:
        """How often one of its own columns may be written out again."""
        return self.numbers + sum(self.names[name] - 1 for name in self.aliases)


def check_growth(tokens: Sequence[str], columns: Mapping[str, int]) -> frozenset[str]:
    """The names of a statement's WITH queries.

    Raises `SqlError` where it would grow too large, or these queries cannot be told apart. `columns` says how many
    words the columns of views are; "*" stands for all of one view.
    """
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth > _DEPTH_MAX:
            raise SqlError(f"parentheses are nested more than {_DEPTH_MAX} levels deep")
    if sum(token.lower() in ("json_each", "json_tree") for token in tokens) > _DOCUMENTS_MAX:
        raise SqlError(f"json_each and json_tree are used more than {_DOCUMENTS_MAX} times")
    named: dict[str, _Query] = {}
    main = _read(tokens, iter(range(len(tokens))), _Query(), named)
    for query in (main, *named.values()):
        query.weigh(columns)
    _, words = _grown(main, named, {})
    if words > _WORDS_MAX:
        raise SqlError("queries use each other's columns too often: ask for less at once")
    return frozenset(named)


def _read(tokens: Sequence[str], places: Iterator[int], query: _Query, named: dict[str, _Query]) -> _Query:
    """Read up to the closing parenthesis, or the end."""
    sorting = False
    for at in places:
        token, before, after = tokens[at], tokens[at - 1].lower() if at else "", tokens[at + 1 : at + 2]
        if token == ")":
            break
        if token == "(":
            _read_inside(tokens, at, places, query, named)
            continue
        query.words += 1
        sorting = token.lower() == "by" or (sorting and token.lower() not in _AFTER_SORTING)
        if token == "*":
            query.stars += before != "("  # not that of count(*)
        elif token[0].isdecimal():
            query.numbers += sorting and before in ("by", ",")
        elif _may_be_a_column(token) and after not in (["("], ["."]):
            query.names[_unquoted(token)] += 1
            if after != [")"] and (before in ("as", ")") or _may_be_a_column(before) or before[:1].isdecimal()):
                query.aliases.add(_unquoted(token))
    return query


def _read_inside(
    tokens: Sequence[str], at: int, places: Iterator[int], query: _Query, named: dict[str, _Query]
) -> None:
    """Read what is in the parentheses that open at `at`."""
    before = tokens[at - 1].lower() if at else ""
    if tokens[at + 1 : at + 2] and tokens[at + 1].lower() not in _QUERIES:
        _read(tokens, places, query, named)
    elif before in ("as", "materialized"):
        name = _defined(tokens, at)
        if name in named:
            raise SqlError(f"two queries of WITH have the name {name}")
        named[name] = _Query()
        _read(tokens, places, named[name], named)
    else:
        query.sources.append(_read(tokens, places, _Query(), named))
        if before not in ("from", "join"):
            query.add(query.sources[-1])  # it may stand among the columns, and use those of what is read from


def _defined(tokens: Sequence[str], at: int) -> str:
    """The name in `name (columns) AS NOT MATERIALIZED (`, of which the last parenthesis is at `at`."""
    at -= 1
    while at > 0 and tokens[at].lower() in ("not", "materialized", "as"):
        at -= 1
    if tokens[at] == ")":
        while at > 0 and tokens[at] != "(":
            at -= 1
        at -= 1
    return _unquoted(tokens[at])


def _grown(query: _Query, named: dict[str, _Query], known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Words of its columns, where each name may stand for all that it reads from; and words of all that it is."""
    if id(query) not in known:
        known[id(query)] = _UNDER_WAY
        read = [_grown(one, named, known) for one in query.sources]
        for name in named.keys() & query.names.keys():
            if known.get(id(named[name])) is _UNDER_WAY:
                raise SqlError(f"recursion is not supported: {name} refers to itself")
            read += query.names[name] * [_grown(named[name], named, known)]
        most = max((count for name, count in query.names.items() if name not in named), default=0)
        columns = query.words + max(1, query.stars + most) * sum(columns for columns, _ in read)
        known[id(query)] = columns, columns * (1 + query.copies) + sum(words for _, words in read)
    return known[id(query)]


def _may_be_a_column(token: str) -> bool:
    return bool(token) and (token[0].isalpha() or token[0] in _QUOTES) and token.lower() not in _KEYWORDS


def _unquoted(token: str) -> str:
    return token[1:-1].lower() if token[0] in _QUOTES[1:] else token.lower()
