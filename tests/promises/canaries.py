"""Forty canary keys, and the one search that finds any of them, whole or in part, wherever something is told or kept."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import pickle  # noqa: TID251 - what a pickle tells is looked at; none is loaded
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SHAPES = (  # {a} and {b} are what the search looks for, so that a part of a key is found too
    *("sk-{a}{b}", "sk-proj-{a}_{b}T3BlbkFJ", "sk-svcacct-{a}-{b}", "sk-None-{a}{b}", "sess-{a}{b}"),
    *("sk-ant-api03-{a}-{b}AA", "sk-ant-oat01-{a}_{b}", "sk-or-v1-{a}{b}", "AIzaSy{a}-{b}", "AQ.Ab8{a}.{b}"),
    *("gsk_{a}{b}", "xai-{a}{b}", "hf_{a}{b}", "ghp_{a}{b}", "pplx-{a}{b}", "nvapi-{a}_{b}", "tgp_v1_{a}{b}"),
    *(
        "eyJhbGciOiJIUzI1NiJ9.{a}.{b}",
        "ya29.{a}/{b}",
        "{a}" + "x" * 80 + "{b}",
        "{a}" + "-_" * 200 + "{b}",
        "{a}:{b}",
        "{a}.{b}",
        "{a}~+/{b}==",
    ),
    *("{a}%2F{b}%00", "{a}&key={b}", "{a}?{b}#", "{a}@{b}", "{a}'{b}'", "{a}<b>{b}</b>", "{a}{{x}}{b}", "{a}$(x){b}"),
    *("[red]{a}[/red]{b}", "{a}|{b};", "{a},{b}", "{a} {b}", "({a})*{b}+", "*{a}*_{b}_", "!{a}^{b}", "Basic {a}={b}"),
)
_MARK = "7Zq"  # stands in no pattern of known keys, so that none is hidden by luck
_PART = re.compile(rb"7Zq[0-9a-f]{10}")
_SHOWS = re.compile(r"_repr_\w+_$")
_SEALED = frozenset({"Key", "Headers", "Environment", "_Hidden"})  # hold keys by purpose; what they show is looked at


@dataclass(frozen=True, slots=True)
class Canary:
    """A key that is used in one place alone.

    Args:
        number: Its place among the forty.
        value: The key; in no repr, so that no text of a test tells it.
    """

    number: int
    value: str = field(repr=False)

    def __str__(self) -> str:
        return f"canary {self.number}"


def _parts(number: int) -> dict[str, str]:
    return {end: _MARK + hashlib.sha256(f"{number}{end}".encode()).hexdigest()[:10] for end in "ab"}


CANARIES = tuple(Canary(number, shape.format(**_parts(number))) for number, shape in enumerate(_SHAPES))
_OWNERS = {part.encode(): number for number in range(len(_SHAPES)) for part in _parts(number).values()}


def found_in(text: bytes | str) -> set[int]:
    """Return the numbers of the canaries of which a half or more stands in a text."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return {_OWNERS[part] for part in _PART.findall(data) if part in _OWNERS}


class Leaks:
    """Takes what is told or kept, by the name of where, and remembers where a canary was in it."""

    def __init__(self) -> None:
        self.looked_at = 0
        self.found: dict[str, list[int]] = {}

    def add(self, where: str, value: Any) -> None:
        """Look into one text, or into bytes."""
        self.looked_at += 1
        there = found_in(value if isinstance(value, bytes) else str(value))
        if there:
            self.found[where] = sorted(there)

    def add_value(self, where: str, value: Any, *, copies: bool = True) -> None:
        """Look into everything that a value and what is reachable from it show, and into its copies."""
        for path, one in _reachable(where, value):
            self._add_shown(path, one)
        made = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": pickle.dumps} if copies else {}
        for name, copied in made.items():
            try:
                self.add(f"{name} of {where}", _shown(copied(value)))
            except Exception as error:  # noqa: BLE001 - what cannot be copied must not tell it either
                self.add_error(f"{name} of {where}", error)

    def _add_shown(self, where: str, value: Any) -> None:
        self.add(f"repr of {where}", repr(value))
        if type(value).__name__ in _SEALED:
            return
        self.add(f"str of {where}", str(value))
        self.add(f"format of {where}", f"{value}")
        for name in filter(_SHOWS.match, dir(type(value))):
            show = getattr(value, name)
            self.add(f"{name} of {where}", show() if callable(show) else show)

    def add_error(self, where: str, error: BaseException, *, displays: bool = False) -> None:
        """Look into an error, what it came from, and its traceback with the locals of every frame.

        Args:
            where: Name of the place.
            error: The error.
            displays: Look at it as IPython's verbose mode and rich show it, too, which takes half a second.
        """
        for link in _chain(error):
            name = f"{where} ({type(link).__name__})"
            self.add(f"traceback of {name}", "".join(traceback.format_exception(link)))
            self.add(
                f"locals of {name}",
                [text for frame, _ in traceback.walk_tb(link.__traceback__) for text in _locals(frame)],
            )
            self.add(f"repr of {name}", repr(link))
            self.add(f"vars of {name}", {key: repr(value) for key, value in vars(link).items()})
        if displays:
            self.add(f"IPython's traceback of {where}", ipython_verbose(error))
            self.add(f"rich's traceback of {where}", rich_with_locals(error))

    def add_files(self, folder: Path) -> None:
        """Look into every byte of every file, and every name, below a folder."""
        for path in folder.rglob("*"):
            self.add(f"name of {path.name}", path.name)
            if path.is_file():
                self.add(f"file {path.name}", path.read_bytes())

    def add_process(self, where: str, child: Mapping[str, Any], *, meant: int | None = None) -> None:
        """Look into the arguments and the environment of a child, less the key that it is meant to get there."""
        self.add(f"arguments of {where}", child["argv"])
        for name, value in child["env"].items():
            if found_in(value) - {meant}:
                self.add(f"variable {name} of {where}", value)


def _locals(frame: Any) -> Iterator[str]:
    """Yield the locals as `TracebackException(…, capture_locals=True)` shows them; a repr that fails shows nothing."""
    for name, value in frame.f_locals.items():
        with contextlib.suppress(Exception):  # of what was half made when the frame failed
            yield f"{name} = {value!r}"


def ipython_verbose(error: BaseException) -> str:
    """Return what a notebook shows after `%xmode Verbose`."""
    from IPython.core.ultratb import VerboseTB

    return str(VerboseTB().text(type(error), error, error.__traceback__))


def rich_with_locals(error: BaseException) -> str:
    """Return what rich shows with `show_locals=True`."""
    from rich.console import Console
    from rich.traceback import Traceback

    whole = {"locals_max_length": None, "locals_max_string": None, "locals_hide_dunder": False}
    console = Console(file=io.StringIO(), width=5_000)
    console.print(Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, **whole))
    return str(console.file.getvalue())


def _shown(value: Any) -> bytes | str:
    return value if isinstance(value, bytes) else repr(value)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it came from, also what `from None` hides, and the members of a group."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]


def _reachable(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a value and what its fields, and theirs, hold; the inside of other libraries' objects is theirs."""
    seen: set[int] = set()
    waiting = [(where, value)]
    while waiting:
        path, one = waiting.pop(0)
        if id(one) in seen or isinstance(one, int | float | type | None):
            continue
        seen.add(id(one))
        yield path, one
        if type(one).__name__ in _SEALED:
            continue
        if isinstance(one, Mapping):
            waiting += [(f"{path}[…]", item) for item in one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += [(f"{path}[]", item) for item in one]
        elif type(one).__module__.startswith(("orchestrai", "test_")):
            waiting += [(f"{path}.{name}", item) for name, item in _fields(one)]


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    yield from vars(value).items() if hasattr(value, "__dict__") else ()
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
