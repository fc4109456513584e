"""Every error the library raises, in one tree.

    OrchestraiError
    ├── InvalidInput (also ValueError)      what was given cannot be used; nothing was sent
    │   ├── InvalidPrompt
    │   ├── InvalidTemplate
    │   ├── InvalidSchema
    │   ├── InvalidSettings
    │   ├── InvalidFile                     a batch file: names file, row and field
    │   ├── InvalidQuery                    SQL over the ledger: shows where
    │   └── ColumnExists
    ├── NoPlatform                          nothing configured can answer
    ├── NoOrchestrator                      a hand-off needs one, and none of its parent's ledger is open
    ├── PlanRefused                         a plan does not run; has `.plan`
    │   ├── ConfirmationNeeded              a person would have to agree first, and nobody could answer
    │   ├── NotConfirmed                    the person said no
    │   └── PlanStale                       it would now cost more than it said
    ├── ModelMissing                        the embedded model is not on this machine
    ├── PlatformError                       one attempt failed, with its kind
    ├── TaskFailed                          `run` of a task that failed; has `.result`
    │   └── HandoffContextMissing           what a parent handed over is gone or was altered
    ├── MemoryMissing                       a memory is gone or was altered
    ├── BatchStopped                        `on_error="stop"` met a failure; has `.result`
    ├── Detached                            a value that was unpickled was asked to run
    └── LedgerError                         the ledger cannot be used
        ├── LedgerTooNew
        ├── LedgerDamaged
        └── LedgerUnusable

No message holds a key: errors of providers pass `redact` before they are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal, get_args

ErrorClass = Literal[
    "rate",
    "window",
    "balance",
    "overloaded",
    "key",
    "request",
    "reply",
    "timeout",
    "connection",
    "budget",
    "parent",
    "input",
    "cancelled",
]
"""Why a task has no answer; the values of `Result.error_class`.

rate: asked too fast, wait · window: a quota window is used up until it resets · balance: no money left ·
overloaded: the provider is · key: refused credentials · request: the provider refuses this request ·
reply: the answer cannot be used · timeout · connection · budget: `max_cost` · parent: its parent failed ·
input: the prompt cannot be sent · cancelled.
"""

PlatformErrorKind = Literal[
    "rate", "window", "balance", "overloaded", "key", "request", "reply", "timeout", "connection"
]
"""The error classes that one attempt at a platform can end with."""

_NOT_THEIRS: Final = frozenset({"orchestrai", "IPython", "ipykernel", "asyncio", "concurrent"})
"""Packages whose frames explain nothing to the person at the notebook."""

ERROR_CLASSES: Final[frozenset[str]] = frozenset(get_args(ErrorClass))


def shown_as(error: BaseException, line: str) -> None:
    """Let IPython show a line in place of an error's traceback; to everybody else the error stays what it is."""
    error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]  # IPython's protocol


class OrchestraiError(Exception):
    """The root of every error this library raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback: the lines of the person's own code, and the message."""
        from linecache import getline
        from traceback import walk_tb

        lines = []
        for frame, number in walk_tb(self.__traceback__):
            module, code = frame.f_globals.get("__name__", ""), frame.f_code
            if module == "__main__" or module.partition(".")[0] not in _NOT_THEIRS:
                source = redact(getline(code.co_filename, number).strip())
                lines.append(f"  {code.co_name}, line {number}: {source if len(source) <= 100 else source[:99] + '…'}")
        return [*lines[-3:], f"{type(self).__name__}: {self}"]


class InvalidInput(OrchestraiError, ValueError):
    """What was given cannot be used. Nothing was sent and nothing was lost."""


class InvalidPrompt(InvalidInput):
    """A prompt is not a string, a list of messages or a Task, or holds text that no provider accepts."""


class InvalidTemplate(InvalidInput):
    """A template names a column that the rows do not have, or is not closed."""


class InvalidSchema(InvalidInput):
    """`schema=` is none of: pydantic model, dataclass, TypedDict, Literal, JSON Schema dict."""


class InvalidSettings(InvalidInput):
    """A setting is unknown or has a value of the wrong type."""


class InvalidFile(InvalidInput):
    """A batch file cannot be read; the message names the file, the row and the field."""


class InvalidQuery(InvalidInput):
    """A query over the ledger cannot be run, or is no SELECT; the message shows where."""


class ColumnExists(InvalidInput):
    """The answer column would overwrite a column of the input that no earlier call made."""


class NoPlatform(OrchestraiError):
    """Nothing that is configured can answer; the message lists the commands that help."""


class NoOrchestrator(OrchestraiError):
    """A hand-off has to read its parent's ledger, and no orchestrator of this process has it open."""


class PlanRefused(OrchestraiError):
    """A plan does not run, and nothing was sent; `.plan` is the plan."""

    def __init__(self, message: str, plan: Any) -> None:
        super().__init__(message)
        self.plan = plan


class ConfirmationNeeded(PlanRefused):
    """A person would have to agree before this runs, and nobody could answer; `.plan` says to what."""


class NotConfirmed(PlanRefused):
    """The person who was asked did not agree; `.plan` is what they were shown."""


class PlanStale(PlanRefused):
    """A plan would now cost more than it said; `.plan` is the plan as it would be made now."""


class PlanWarning(UserWarning):
    """What a person should know of a call that is about to run: a quota window that it nearly uses up, say."""


class ModelMissing(NoPlatform):
    """The embedded demo model is not on this machine, or the package that runs it is not installed."""


class PlatformError(OrchestraiError):
    """One attempt at a platform failed.

    Args:
        kind: What went wrong, in the words of `ErrorClass`.
        message: The provider's words, redacted and bounded.
        retry_after_s: Wait told by the provider [s]; None when it told none.
        http_status: Status of the reply, if there was one.
        may_be_billed: True where the provider may have charged for the attempt (a cut or unusable 200, a
            timeout after sending), False where it certainly did not.
        reply: What arrived of an unusable reply (a `platforms.protocol.Reply`), so that its tokens are
            booked; None when nothing usable arrived.
        rate_limits: What the refusal's headers said of the limits (a `platforms.protocol.RateLimits`).
        quota: Quota windows as the refusal tells them (`platforms.protocol.QuotaReading`).
    """

    def __init__(
        self,
        kind: PlatformErrorKind,
        message: str,
        *,
        retry_after_s: float | None = None,
        http_status: int | None = None,
        may_be_billed: bool = False,
        request_id: str | None = None,
        reply: Any = None,
        rate_limits: Any = None,
        quota: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(redact(message))
        self.kind: PlatformErrorKind = kind
        self.retry_after_s = retry_after_s
        self.http_status = http_status
        self.may_be_billed = may_be_billed
        self.request_id = request_id
        self.reply = reply
        self.rate_limits = rate_limits
        self.quota = quota


class TaskFailed(OrchestraiError):
    """The task of `run` has no answer; `.result` is the whole Result."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class HandoffContextMissing(TaskFailed):
    """What a parent handed over is gone, or is not what it was; nothing was sent. `.result` is None outside of calls."""

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message, result)


class MemoryMissing(OrchestraiError):
    """A memory was never there, was deleted, or its text is not the one that was added."""


class MemoryWarning(UserWarning):
    """What a person should know of memories: one was altered and is left out, or the search index cannot be kept."""


class BatchStopped(OrchestraiError):
    """A task failed under `on_error="stop"`; `.result` is the BatchResult with all that was finished."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class Detached(OrchestraiError):
    """This value was unpickled or copied from another process and has no orchestrator to run with."""


class LedgerError(OrchestraiError):
    """The ledger cannot be used. `.result`, where present, holds the answers that were already there."""

    result: Any = None


class LedgerTooNew(LedgerError):
    """The ledger was written by a newer version of this library."""


class LedgerDamaged(LedgerError):
    """The file is no ledger, or a part of it is missing. It was not changed."""


class LedgerUnusable(LedgerError):
    """The place cannot hold a ledger: no permission, a network file system, a symbolic link, no space."""


_SECRETS: Final = re.compile(
    r"(?:sk|pk|rk|key|gsk|xai|AIza|ghp|hf)[-_A-Za-z0-9]*[-_][-_A-Za-z0-9]{12,}|AIza[-_A-Za-z0-9]{20,}"
    r"|(?<=[Bb]earer )[-._~+/A-Za-z0-9]{8,}=*"
    r"|(?<=[?&]key=)[^&\s\"']+"
)
_LONGEST_MESSAGE: Final = 500  # characters kept of a provider's error text
_TELLING: Final = 12  # characters of a key that are too many to be shown


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without anything that is, or looks like, a key; at most 500 characters of it.

    Args:
        text: A message that may quote a request.
        secrets: Exact values to remove, whatever they look like.
    """
    for secret in secrets:
        if len(secret) >= 4:
            text = _without_beginnings(text.replace(secret, "[key]"), secret)
    text = _SECRETS.sub("[key]", text).encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _without_beginnings(text: str, secret: str) -> str:
    """Return the text without what a bound left of a key: its first characters, at least `_TELLING` of them."""
    while len(secret) > _TELLING and (at := text.find(secret[:_TELLING])) >= 0:
        end = at + _TELLING
        while end < len(text) and end - at < len(secret) and text[end] == secret[end - at]:
            end += 1
        text = f"{text[:at]}[key]{text[end:]}"
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean '…'?` with the nearest known name, or the empty string."""
    import difflib  # only needed where something is wrong already

    found = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""
