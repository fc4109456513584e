"""The demo: real text that every Python carries, a question about it, and the true answers to compare with."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import pandas as pd

_FUNCTIONS: Final = {
    "math": """math.acos math.ceil math.comb math.degrees math.exp math.fabs math.fsum math.gcd math.isqrt math.log10
        statistics.harmonic_mean statistics.median statistics.variance""",
    "file": """os.chmod os.link os.listdir os.mkdir os.remove os.rename os.symlink os.truncate shutil.copytree
        shutil.disk_usage shutil.make_archive shutil.rmtree filecmp.cmp""",
    "text": """str.capitalize str.center str.expandtabs str.isalpha str.join str.lower str.partition str.replace
        str.splitlines str.strip str.swapcase textwrap.dedent textwrap.shorten""",
    "date": """datetime.datetime.date datetime.datetime.isocalendar datetime.datetime.now datetime.datetime.timestamp
        datetime.datetime.toordinal datetime.datetime.weekday datetime.timedelta.total_seconds calendar.isleap
        calendar.leapdays calendar.month calendar.monthrange calendar.timegm calendar.week""",
}
"""Functions whose documentation is a sentence in every supported Python, by what their module is for."""


@dataclass(frozen=True)
class Label:
    """What a function is about, told from its documentation."""

    about: Literal["math", "file", "text", "date"]


SOURCE: Final = "first sentences of the documentation of 52 functions in Python's standard library"
"""Where the text comes from."""

DEMO_SYSTEM: Final = """Say what a Python function is about.
Return the sine of x. {{"about": "math"}}
Change the owner of a file. {{"about": "file"}}
Pad the string with zeros on the left. {{"about": "text"}}
Return the day of the year. {{"about": "date"}}"""
"""System prompt with one made-up example for each label; none of them is a row. A template, hence double braces."""

DEMO_PROMPT: Final = "JSON for: {documentation}"
"""Template of the prompt. Examples in the system prompt and a bare user turn made the most of a small model: the
same examples inside the prompt gave one label to nearly every row (SmolLM2-135M, 2026-11-22)."""

DEMO_SCHEMA: Final = Label
"""Schema of the answer."""

TRUTH: Final = "topic"
"""Column of the true answers."""


def demo_frame() -> pd.DataFrame:
    """Return the demo's rows, the same in the same order on every supported Python.

    Returns:
        One row per function, indexed from 0, no missing values. Columns: function (str, its qualified name),
        documentation (str, the first paragraph of its docstring on one line), topic (str, the true label: what the
        module that defines it is for; each of the four labels stands in 13 rows).
    """
    import pandas as pd

    named = [(topic, names.split()) for topic, names in _FUNCTIONS.items()]
    # Labels take turns, so that the first rows already show all of them.
    rows = [
        (name, _documentation(name), topic)
        for turn in zip(*(n for _, n in named), strict=True)
        for topic, name in zip(_FUNCTIONS, turn, strict=True)
    ]
    return pd.DataFrame(rows, columns=["function", "documentation", TRUTH], dtype="str")


def _documentation(name: str) -> str:
    module, _, path = name.partition(".")
    found = importlib.import_module("builtins" if module == "str" else module)
    for attribute in (name if module == "str" else path).split("."):
        found = getattr(found, attribute)
    return " ".join((inspect.getdoc(found) or name).split("\n\n")[0].split())
