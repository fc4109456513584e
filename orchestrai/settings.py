"""Settings: read from the nearest file, then the environment, then arguments; an unknown one is an error.

In `orchestrai.toml`, or under `[tool.orchestrai]` in `pyproject.toml` (where a folder has both, `orchestrai.toml`
counts):

    attempts = 8
    ask_above = 2.50

    [prices."deepseek/deepseek-chat"]
    input_mtok = "0.28"
    output_mtok = "1.10"

    [platforms.vllm]
    kind = "openai"
    base_url = "http://127.0.0.1:8000/v1"
    api_key = "env:VLLM_KEY"

The same in the environment: `ORCHESTRAI_ATTEMPTS=6`, `ORCHESTRAI_ASK_ABOVE=2.50`; tables stay in files.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, SupportsIndex, get_args

from orchestrai.errors import InvalidSettings, nearest

ProgressStyle = Literal["auto", "widget", "text", "off"]
HandoffFit = Literal["head_tail", "relevant", "refuse"]

OTHER_VARIABLES: Final[Mapping[str, str]] = {
    "ORCHESTRAI_GGUF": "file of the model that the embedded platform loads instead of its own",
    "ORCHESTRAI_TEST_SCALE": "how many cases the long tests of this library try, as a factor",
}
"""Variables that begin like settings and are none: name → meaning."""

_PREFIX: Final = "ORCHESTRAI_"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_EMBEDDINGS: Final = ("auto", "hashed", "wordllama")
_SECRET_WORDS: Final = ("key", "token", "secret", "password", "authorization")


class Key(str):
    """A credential that was written into a file: a string whose repr does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'[key]'"

    def __deepcopy__(self, memo: dict[int, Any]) -> Key:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError('A key is not copied out of this process. Write "env:NAME" in its place.')


class _FileContent(bytes):
    """What a settings file holds, keys perhaps; its repr does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<content of a settings file>"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person or a project has set; every field has a default.

    Args:
        data_dir: Folder of the ledger; None is the person's data directory. Relative to the file that names it.
        attempts: Attempts at one task on one platform, the first included.
        repair_attempts: Times that an answer which does not fit its schema is asked for again.
        timeout_s: Wall clock of one attempt [s].
        concurrency: Ceiling of requests under way over all platforms; None ("auto" in text) adapts.
        keep_texts: Keep prompts and answers in the ledger.
        reuse: Take the answer of a finished identical task from the ledger.
        progress: How progress is shown: auto, widget, text, off.
        ask_above: Expected cash of a call above which it asks first [USD].
        warn_at: Shares of a quota window or budget at which a call that would reach them says so [percent].
        estimate_above_tokens: Prompts above it are listed in every plan, with their estimate [tokens].
        task_allowance: Cash that a hard cap sets aside for a task whose output its platform cannot bound [USD]; None
            refuses such tasks under a hard cap.
        handoff_summary: Characters of a parent's text that travel with a hand-off.
        handoff_fit: What a task is given of parents' texts that fit no context window: "head_tail" for their beginnings
            and ends, "relevant" for the passages nearest to the instruction, or "refuse".
        never_train: Ask no platform whose plan may train on the data; one of which it is not known may be asked.
        prices: Own prices: "provider/model" → row or list of dated rows, checked by `orchestrai.pricing.PriceList`.
        platforms: Configured platforms: name → fields of the constructor and its `kind`. `api_key = "env:NAME"`
            reads the variable NAME when the platform is made.
        catalogue: Records over those of `orchestrai/platforms/catalogue.toml`: plans, defaults, endpoints, models,
            checked by `orchestrai.platforms.catalogue`.
        windows: Quota windows beyond those of a plan: platform → list of tables as in `catalogue.toml`, checked by
            `orchestrai.routing.windows`.
        budgets: Cash over a day, week or month: a list of tables, checked by `orchestrai.limits.budget`.
        memory: How memories are searched: `embedding` ("auto", "hashed", "wordllama", "openai:MODEL@ADDRESS" or
            "package.module:function") and the `api_key` of its server ("env:NAME").
    """

    data_dir: Path | None = None
    attempts: int = 6
    repair_attempts: int = 1
    timeout_s: float = 300.0
    concurrency: int | None = None
    keep_texts: bool = True
    reuse: bool = True
    progress: ProgressStyle = "auto"
    ask_above: Decimal = Decimal("1.00")
    warn_at: tuple[float, ...] = (50.0, 80.0, 90.0)
    estimate_above_tokens: int = 10_000
    task_allowance: Decimal | None = None
    handoff_summary: int = 500
    handoff_fit: HandoffFit = "head_tail"
    never_train: bool = False
    prices: Mapping[str, Any] = field(default_factory=dict)
    platforms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    catalogue: Mapping[str, Any] = field(default_factory=dict)
    windows: Mapping[str, Any] = field(default_factory=dict)
    budgets: Sequence[Any] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)


def load(
    start: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings that hold in a folder: its file, then the environment, then `overrides`, which win.

    Tables (`prices`, `platforms`, `catalogue`) are joined by name; a name given again replaces the earlier one whole.

    Args:
        start: Folder to look in, then in those above it; the working directory by default.
        overrides: Settings given in code.
        env: Environment variables; those of the process by default. An empty one is not set.

    Raises:
        InvalidSettings: A file cannot be read, a setting is unknown or has a value of the wrong type; the message
            says where and what to write.
    """
    start = _folder(start or Path.cwd())
    found: dict[str, Any] = {}
    if (nearest_file := _nearest_file(start)) is not None:
        path, table = nearest_file
        _take(found, table, f"{path}: ", path.parent)
    for variable, text in _ours(env).items():
        _take(found, _from_variable(variable, text), f"{variable}: ", Path.cwd())
    _take(found, overrides or {}, "settings: ", Path.cwd())
    return Settings(**found)


def project_of(start: Path) -> tuple[str, Path]:
    """Return the name and the folder of the project that a folder belongs to.

    It is the nearest folder upwards that holds `pyproject.toml`, `orchestrai.toml` or `.git`; its name is
    `project.name` of `pyproject.toml`, else the folder's. Without one, the folder is its own project.
    """
    start = _folder(start)
    for folder in (start, *start.parents):
        if any(_exists(folder / mark) for mark in ("pyproject.toml", "orchestrai.toml", ".git")):
            return _declared_name(folder / "pyproject.toml") or folder.name or str(folder), folder
    return start.name or str(start), start


# --- where settings come from


def _folder(start: Path) -> Path:
    start = Path(start).expanduser().resolve()
    return start.parent if start.is_file() else start


def _nearest_file(start: Path) -> tuple[Path, Mapping[str, Any]] | None:
    for folder in (start, *start.parents):
        path = folder / "orchestrai.toml"
        if (data := _read(path)) is not None:
            return path, _parsed(path, data)
        path = folder / "pyproject.toml"
        # Most of them do not speak of us; then it is not ours to complain about their syntax.
        if (data := _read(path)) is not None and data.find(b"orchestrai") >= 0:
            tool = _parsed(path, data).get("tool")
            if isinstance(tool, Mapping) and "orchestrai" in tool:
                return path, tool["orchestrai"]
    return None


def _read(path: Path) -> _FileContent | None:
    try:
        return _FileContent(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise InvalidSettings(f"{path}: cannot read this file ({error.strerror}).") from error


def _parsed(path: Path, data: _FileContent) -> dict[str, Any]:
    try:
        return _with_hidden_keys(tomllib.loads(data.decode("utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        failure = InvalidSettings(f"{path}: no valid TOML: {error}")
    # Raised outside the handler: the original holds the file's text, and with it any key.
    raise failure


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a folder may not be searched


def _declared_name(path: Path) -> str | None:
    """Return `project.name`; None where there is none, or the file cannot be understood: it is not ours."""
    try:
        project = tomllib.loads(path.read_bytes().decode("utf-8-sig")).get("project")
    except (OSError, ValueError):
        return None
    name = project.get("name") if isinstance(project, Mapping) else None
    return name if isinstance(name, str) and name else None


def _ours(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return our variables alone: the others may hold keys, and tracebacks can show what a frame that raises holds."""
    given = os.environ if env is None else env
    return {name: text for name, text in given.items() if name.startswith(_PREFIX) and name not in OTHER_VARIABLES}


def _from_variable(variable: str, text: str) -> dict[str, Any]:
    name = variable.removeprefix(_PREFIX).lower()
    if name not in _CHECKS:
        known = [*(_PREFIX + key.upper() for key in _CHECKS), *OTHER_VARIABLES]
        raise InvalidSettings(f"{variable} is no setting.{nearest(variable, known)}")
    if name in ("prices", "platforms", "catalogue", "windows", "budgets", "memory"):
        raise InvalidSettings(f"{variable}: {name} is a table. Write it into orchestrai.toml.")
    return {name: _from_text(name, text.strip())} if text.strip() else {}


def _from_text(name: str, text: str) -> Any:
    """Return the value that a text means; the text itself where it means none, so that its check refuses it."""
    default = getattr(_DEFAULTS, name)
    if isinstance(default, bool):
        return True if text.lower() in _TRUE else False if text.lower() in _FALSE else text
    if name == "warn_at":
        return [part.strip() for part in text.split(",")]
    if name in ("attempts", "repair_attempts", "handoff_summary", "concurrency", "timeout_s", "estimate_above_tokens"):
        try:
            return float(text) if name == "timeout_s" else int(text)
        except ValueError:
            return text
    return text


# --- what a setting may be


def _take(found: dict[str, Any], table: Any, where: str, base: Path) -> None:
    """Check a table of settings and put it over what was found before."""
    if not isinstance(table, Mapping):
        raise InvalidSettings(f"{where}settings are a table, not {type(table).__name__}.")
    for name, value in table.items():
        check = _CHECKS.get(name)
        if check is None:
            raise InvalidSettings(f"{where}unknown setting {name!r}.{nearest(name, _CHECKS)}")
        checked = check(value, f"{where}{name}")
        if name == "data_dir" and checked is not None:
            checked = base.absolute() / checked
        found[name] = {**found.get(name, {}), **checked} if isinstance(checked, dict) else checked


def _whole(least: int) -> Callable[[Any, str], int]:
    def check(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidSettings(f"{where} is a whole number of at least {least}, not {value!r}.")
        return value

    return check


def _ceiling(value: Any, where: str) -> int | None:
    if value is None or value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSettings(f'{where} is a whole number of at least 1, or "auto", not {value!r}.')
    return value


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidSettings(f"{where} is a number of seconds above 0, not {value!r}.")
    return float(value)


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidSettings(f"{where} is true or false, not {value!r}.")
    return value


def _path(value: Any, where: str) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value):
        raise InvalidSettings(f"{where} is the path of a folder, not {value!r}.")
    return Path(value).expanduser()


def _one_of(*words: str) -> Callable[[Any, str], str]:
    def check(value: Any, where: str) -> str:
        if value not in words:
            raise InvalidSettings(f"{where} is one of {', '.join(words)}, not {value!r}.{nearest(value, words)}")
        return str(value)

    return check


def _shares(value: Any, where: str) -> tuple[float, ...]:
    given = [value] if isinstance(value, int | float) and not isinstance(value, bool) else value
    try:
        shares = tuple(sorted({float(share) for share in given}))
    except (TypeError, ValueError):
        shares = (math.nan,)
    if isinstance(given, str) or not all(0 < share <= 100 for share in shares):
        raise InvalidSettings(f"{where} is a list of percentages such as [50, 80, 90], not {value!r}.")
    return shares


def dollars(value: Any, where: str) -> Decimal:
    """Return an amount of USD, exact.

    Raises:
        InvalidSettings: It is none from 0 up.
    """
    try:
        # Through text: a float in a file means the digits that were written.
        amount = Decimal(str(value)) if isinstance(value, str | int | float | Decimal) else Decimal("NaN")
    except InvalidOperation:
        amount = Decimal("NaN")
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise InvalidSettings(f"{where} is an amount of USD from 0 up, not {value!r}.")
    return amount


def _allowance(value: Any, where: str) -> Decimal | None:
    return None if value is None else dollars(value, where)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidSettings(f"{where} is a table, not {type(value).__name__}.")
    return dict(value)


def _tables(value: Any, where: str) -> dict[str, Any]:
    return {name: _with_hidden_keys(_table(table, f"{where}.{name}")) for name, table in _table(value, where).items()}


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidSettings(f"{where} is a list of tables ([[{where.rpartition(' ')[2]}]]), not {value!r}.")
    return list(value)


def _memory(value: Any, where: str) -> dict[str, Any]:
    table = _with_hidden_keys(_table(value, where))
    known = ("embedding", "api_key")
    for name, given in table.items():
        if name not in known:
            raise InvalidSettings(f"{where} has no {name!r} (known: {', '.join(known)}).{nearest(name, known)}")
        if not isinstance(given, str) or not given:
            raise InvalidSettings(f"{where}.{name} is text, not {type(given).__name__}.")
    embedding = table.get("embedding", "auto")
    if embedding not in _EMBEDDINGS and ":" not in embedding:
        also = 'or "openai:MODEL@ADDRESS", or "package.module:function"'
        raise InvalidSettings(
            f"{where}.embedding is one of {', '.join(_EMBEDDINGS)}, {also}, not {embedding!r}.{nearest(embedding, _EMBEDDINGS)}"
        )
    return table


def _with_hidden_keys(table: Mapping[str, Any], *, all_of_it: bool = False) -> dict[str, Any]:
    """Return the table with every credential in it made one that no repr shows."""
    hidden: dict[str, Any] = {}
    for name, value in table.items():
        secret = all_of_it or any(word in str(name).lower() for word in _SECRET_WORDS)
        if isinstance(value, Mapping):
            hidden[name] = _with_hidden_keys(value, all_of_it=secret or name == "headers")
        elif secret and isinstance(value, str) and not value.startswith("env:"):
            hidden[name] = Key(value)
        else:
            hidden[name] = value
    return hidden


_CHECKS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "data_dir": _path,
    "attempts": _whole(1),
    "repair_attempts": _whole(0),
    "timeout_s": _seconds,
    "concurrency": _ceiling,
    "keep_texts": _switch,
    "reuse": _switch,
    "progress": _one_of(*get_args(ProgressStyle)),
    "ask_above": dollars,
    "warn_at": _shares,
    "estimate_above_tokens": _whole(1),
    "task_allowance": _allowance,
    "handoff_summary": _whole(1),
    "handoff_fit": _one_of(*get_args(HandoffFit)),
    "never_train": _switch,
    "prices": _table,
    "platforms": _tables,
    "catalogue": _table,
    "windows": _table,
    "budgets": _list,
    "memory": _memory,
}
_DEFAULTS: Final = Settings()
