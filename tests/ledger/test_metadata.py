"""Conditions on metadata mean what Chroma's mean, and a mistake in one is named."""

from __future__ import annotations

import math
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.errors import InvalidInput
from orchestrai.ledger.metadata import condition, read, written

NAMES = st.sampled_from(["a", "b", "with space", 'quo"te', "$.a"[1:], "ключ"])
VALUES = st.one_of(
    st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.0]), st.sampled_from(["", "1", "a", "true"])
)
ORDER = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def kind(value):
    return "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def same(a, b):
    return kind(a) == kind(b) and a == b


def operator(drawn):
    name, value, values = drawn
    return {name: values if name in ("$in", "$nin") else value}


OPERATORS = st.tuples(
    st.sampled_from(["$eq", "$ne", "$in", "$nin", *ORDER]), VALUES, st.lists(VALUES, max_size=3)
).filter(lambda drawn: not (drawn[0] in ORDER and isinstance(drawn[1], bool)))
CONDITIONS = st.recursive(
    st.dictionaries(NAMES, st.one_of(VALUES, OPERATORS.map(operator)), max_size=2),
    lambda inner: st.tuples(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)).map(
        lambda drawn: {drawn[0]: drawn[1]}
    ),
    max_leaves=5,
)


def meets(metadata, where):
    """The oracle: the same words, in Python."""
    for name, wanted in where.items():
        if name == "$and":
            met = all(meets(metadata, part) for part in wanted)
        elif name == "$or":
            met = any(meets(metadata, part) for part in wanted)
        else:
            operators = wanted if isinstance(wanted, dict) else {"$eq": wanted}
            met = all(holds(metadata, name, word, value) for word, value in operators.items())
        if not met:
            return False
    return True


def holds(metadata, name, word, value):
    there = name in metadata
    if word in ORDER:
        return there and kind(metadata[name]) == kind(value) and ORDER[word](metadata[name], value)
    among = value if word in ("$in", "$nin") else [value]
    found = there and any(same(metadata[name], one) for one in among)
    return found if word in ("$eq", "$in") else not found


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=4), CONDITIONS)
def test_a_condition_is_met_by_exactly_what_its_words_say(kept, where):
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE memories (seq INTEGER PRIMARY KEY, metadata TEXT)")
    connection.executemany("INSERT INTO memories (metadata) VALUES (?)", [(written(one),) for one in kept])
    met, values = condition(where)
    found = [seq for (seq,) in connection.execute(f"SELECT seq FROM memories m WHERE {met} ORDER BY seq", values)]
    connection.close()
    assert found == [seq for seq, metadata in enumerate(kept, 1) if meets(metadata, where)]


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_metadata_comes_back_as_it_was_given(metadata):
    assert read(written(metadata)) == metadata
    assert {name: kind(value) for name, value in read(written(metadata)).items()} == {
        name: kind(value) for name, value in metadata.items()
    }


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("topic", "a dict"),
        ([("topic", "wal")], "a dict"),
        ({1: "a"}, "names of metadata are text"),
        ({"": "a"}, "names of metadata are text"),
        ({"$topic": "a"}, r"do not begin with \$"),
        ({"tags": ["a"]}, r"metadata\['tags'\] is text, a number, True or False, not list"),
        ({"a": {"b": 1}}, r"metadata\['a'\].*dict"),
        ({"when": None}, r"metadata\['when'\].*Leave out what is missing"),
        ({"x": math.nan}, r"metadata\['x'\] is nan"),
        ({"x": 2**63}, "64 bits"),
        ({"x": "\ud800"}, "half of a character"),
        ({"x": b"a"}, "not bytes"),
        ({"x": "a" * 70_000}, "at most 65,536"),
    ],
)
def test_metadata_of_a_wrong_kind_is_refused_by_its_name(metadata, said):
    with pytest.raises(InvalidInput, match=said):
        written(metadata)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("topic", "is a dict"),
        ({"a": {"$gte": True}}, r"where\['a'\]\['\$gte'\] is a number or a text"),
        ({"a": {"$more": 1}}, r"unknown operator '\$more'"),
        ({"a": {"gte": 1}}, r"Did you mean '\$gte'"),
        ({"$an": []}, r"Did you mean '\$and'"),
        ({"$or": []}, "a list of conditions"),
        ({"$or": {"a": 1}}, "a list of conditions"),
        ({"a": {}}, "is empty"),
        ({"a": None}, "not NoneType"),
        ({"a": {"$in": "abc"}}, "a list of values"),
        ({"a": {"$in": [[1]]}}, r"\[0\]"),
        ({3: 1}, "names of metadata are text"),
        ({"$and": [{"a": {"$lt": None}}]}, r"where\['\$and'\]\[0\]\['a'\]"),
    ],
)
def test_a_condition_that_is_none_is_refused_at_its_place(where, said):
    with pytest.raises(InvalidInput, match=said):
        condition(where)


def test_conditions_within_conditions_end_somewhere():
    where = {"a": 1}
    for _ in range(30):
        where = {"$and": [where]}
    with pytest.raises(InvalidInput, match="deep"):
        condition(where)


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    assert read(written({"a": np.int64(3), "b": np.float32(0.5)})) == {"a": 3, "b": 0.5}
