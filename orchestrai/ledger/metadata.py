"""What is kept beside a memory, and the conditions by which it is found again.

The words are Chroma's: `{"topic": "wal"}`, `{"year": {"$gte": 2020, "$lt": 2025}}`, `{"$or": [{…}, {…}]}`. They are put to the
ledger itself, not to the search index, so they hold for every memory from the moment it is committed. Values of
different kinds are different: 1 is 1.0, but neither true nor "1".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Final

import orjson

from orchestrai.errors import InvalidInput, nearest
from orchestrai.messages import check_characters

LARGEST: Final = 65_536  # of one memory's metadata, as JSON [bytes]
_DEEPEST: Final = 16  # conditions within conditions

_SAME: Final = "(j.type = w.type OR (j.type IN ('integer', 'real') AND w.type IN ('integer', 'real')))"
_NUMBER: Final = "j.type IN ('integer', 'real')"
_ORDER: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS: Final = ("$eq", "$ne", "$in", "$nin", *_ORDER)

Condition = tuple[str, list[Any]]
"""A condition over the table `memories m` in SQL, and the values that are bound in it."""


def written(metadata: Mapping[str, Any] | None) -> str | None:
    """Return metadata as JSON; None without any.

    Raises:
        InvalidInput: It is no dict of names to text, numbers, True and False; the message names the place.
    """
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise InvalidInput(f"metadata= is a dict of names and values, not {type(metadata).__name__}.")
    plain = {_name(name, "metadata="): _value(value, f"metadata[{name!r}]") for name, value in metadata.items()}
    text = orjson.dumps(plain)
    if len(text) > LARGEST:
        raise InvalidInput(
            f"metadata= has {len(text):,} bytes as JSON; at most {LARGEST:,} are kept. Put what is long into the text."
        )
    return text.decode() if plain else None


def read(text: str | None) -> dict[str, Any]:
    """Return metadata from its JSON."""
    found: dict[str, Any] = orjson.loads(text) if text is not None else {}
    return found


def condition(where: Mapping[str, Any] | None) -> Condition:
    """Return the condition that `where` means; an empty one is met by all.

    Raises:
        InvalidInput: An operator is unknown or its value is of the wrong kind; the message names the place.
    """
    return ("1", []) if where is None else _all(where, "where", 0)


def _all(where: Any, at: str, depth: int) -> Condition:
    if not isinstance(where, Mapping):
        raise InvalidInput(f"{at} is a dict such as {{'topic': 'wal'}}, not {where!r}.")
    if depth > _DEEPEST:
        raise InvalidInput(f"{at}: conditions stand within conditions more than {_DEEPEST} deep.")
    parts = [_part(name, wanted, at, depth) for name, wanted in where.items()]
    return _joined(" AND ", parts) if parts else ("1", [])


def _part(name: Any, wanted: Any, at: str, depth: int) -> Condition:
    here = f"{at}[{name!r}]"
    if name in ("$and", "$or"):
        if not isinstance(wanted, list | tuple) or not wanted:
            raise InvalidInput(f"{here} is a list of conditions, not {wanted!r}.")
        parts = [_all(part, f"{here}[{i}]", depth + 1) for i, part in enumerate(wanted)]
        return _joined(" AND " if name == "$and" else " OR ", parts)
    if isinstance(name, str) and name.startswith("$"):
        known = (*_OPERATORS, "$and", "$or")
        hint = nearest(name, known) or f" Known: {', '.join(known)}."
        raise InvalidInput(f"{here}: a name of metadata or $and or $or stands here.{hint}")
    _name(name, at)
    if not isinstance(wanted, Mapping):
        return _operator(name, "$eq", wanted, here)
    if not wanted:
        raise InvalidInput(f"{here} is empty; write a value, or an operator such as {{'$gte': 3}}.")
    return _joined(" AND ", [_operator(name, operator, value, here) for operator, value in wanted.items()])


def _operator(name: str, operator: Any, value: Any, at: str) -> Condition:
    if operator not in _OPERATORS:
        hint = nearest(operator, _OPERATORS) or f" Known: {', '.join(_OPERATORS)}."
        raise InvalidInput(f"{at}: unknown operator {operator!r}.{hint}")
    if operator in _ORDER:
        bound = _value(value, f"{at}[{operator!r}]")
        if isinstance(bound, bool):
            raise InvalidInput(f"{at}[{operator!r}] is a number or a text, not {value!r}.")
        kind = "j.type = 'text'" if isinstance(bound, str) else _NUMBER
        return _has(f"{kind} AND j.atom {_ORDER[operator]} ?"), [name, bound]
    if operator in ("$in", "$nin"):
        if not isinstance(value, list | tuple | set | frozenset):
            raise InvalidInput(f"{at}[{operator!r}] is a list of values, not {value!r}.")
        values = [_value(one, f"{at}[{operator!r}][{i}]") for i, one in enumerate(value)]
    else:
        values = [_value(value, at)]
    among = _has(f"EXISTS (SELECT 1 FROM json_each(?) w WHERE {_SAME} AND w.atom = j.atom)")  # noqa: S608 - as above
    return (f"NOT {among}" if operator in ("$ne", "$nin") else among), [name, orjson.dumps(values).decode()]


def _has(met: str) -> str:
    return f"EXISTS (SELECT 1 FROM json_each(m.metadata) j WHERE j.key = ? AND {met})"  # noqa: S608 - values are bound


def _joined(word: str, parts: list[Condition]) -> Condition:
    return f"({word.join(part for part, _ in parts)})", [value for _, values in parts for value in values]


def _name(name: Any, at: str) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{at}: names of metadata are text, not {name!r}.")
    if name.startswith("$"):
        raise InvalidInput(f"{at}: names of metadata do not begin with $, as {name!r} does.")
    return _text(name, at)


def _value(value: Any, at: str) -> str | int | float | bool:
    for kind, plain in _KINDS:
        if isinstance(value, kind):
            done: str | int | float | bool = plain(value, at)
            return done
    raise InvalidInput(
        f"{at} is text, a number, True or False, not {type(value).__name__} ({value!r:.80}). Leave out what is missing, and "
        "write dates as text such as 2026-11-28."
    )


def _text(value: str, at: str) -> str:
    check_characters(at, value)
    return str(value)


def _integer(value: Any, at: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidInput(f"{at} has more than 64 bits. Write it as text.")
    return int(value)


def _real(value: Any, at: str) -> float:
    if not math.isfinite(value):
        raise InvalidInput(f"{at} is {float(value)}, which is no number. Leave out what is missing.")
    return float(value)


_KINDS: Final[tuple[tuple[Any, Callable[[Any, str], Any]], ...]] = (
    (bool, lambda value, _: value),
    (str, _text),
    (Integral, _integer),
    (Real, _real),
)
