"""The demo's rows: real, balanced and the same everywhere."""

import builtins
import importlib
import inspect
from collections import Counter
from typing import get_args, get_type_hints

import pandas as pd

from orchestrai import demo
from orchestrai.task import Task

LABELS = get_args(get_type_hints(demo.Label)["about"])


def tasks(frame):
    return Task.from_frame(frame, demo.DEMO_PROMPT, system=demo.DEMO_SYSTEM, schema=demo.DEMO_SCHEMA)


def test_the_rows_are_as_many_and_as_balanced_as_they_say():
    frame = demo.demo_frame()
    assert len(frame) >= 40
    assert list(frame.columns) == ["function", "documentation", demo.TRUTH]
    assert Counter(frame[demo.TRUTH]) == dict.fromkeys(LABELS, len(frame) // len(LABELS))
    assert not frame.isna().any().any()
    assert frame["documentation"].is_unique
    assert str(len(frame)) in demo.SOURCE
    pd.testing.assert_frame_equal(frame, demo.demo_frame())


def test_every_text_is_the_documentation_of_its_function():
    for row in demo.demo_frame().itertuples():
        first, *rest = row.function.split(".")
        found = getattr(builtins, first, None) or importlib.import_module(first)
        for name in rest:
            found = getattr(found, name)
        assert " ".join(inspect.getdoc(found).split()).startswith(row.documentation)
        assert 10 < len(row.documentation) < 120


def test_no_row_gives_its_answer_away_in_the_examples():
    system = tasks(demo.demo_frame())[0].system
    assert '{"about": "math"}' in system
    for text in demo.demo_frame()["documentation"]:
        assert text not in system
