"""What Claude Code prints for one prompt (`--output-format=stream-json`), read into a Reply or a typed error.

Source: measured with Claude Code 2.1.197. Its traps: failures say `"subtype": "success"`, so `is_error` decides; the
words of a failure come as an assistant message of the model `<synthetic>`; a prompt that it takes for a command of its
own is "answered" without a request; an answer that reaches its output limit, or has no visible text, is followed up by
further requests nobody asked for, so the turn ends for us at the first message; a schema that it cannot use is dropped
in silence; usage and cost of the final line are those of the whole process, or missing where a turn fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final

from orchestrai.errors import PlatformError, PlatformErrorKind, redact
from orchestrai.ids import now_us
from orchestrai.platforms import wire
from orchestrai.platforms.protocol import QuotaReading, Reply
from orchestrai.result import NO_USAGE, Usage

LOGIN: Final = "run `claude` and log in with /login, or set CLAUDE_CODE_OAUTH_TOKEN from `claude setup-token`"

_FINISH: Final = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "filter"}
_STRUCTURED: Final = "StructuredOutput"  # the tool by which it asks the model for an answer under a schema
_SYNTHETIC: Final = "<synthetic>"
_KINDS: Final[Mapping[str, PlatformErrorKind]] = {  # its own words for what failed
    "authentication_failed": "key",
    "oauth_org_not_allowed": "key",
    "billing_error": "balance",
    "rate_limit": "rate",
    "overloaded": "overloaded",
    "invalid_request": "request",
    "model_not_found": "request",
}
_TOO_OLD: Final = re.compile(r"unknown option|unknown argument", re.IGNORECASE)
_NOT_REACHED: Final = re.compile(r"ConnectionRefused|ENOTFOUND|EAI_AGAIN|FailedToOpenSocket|ENETUNREACH|EHOSTUNREACH")
_CONNECTION: Final = re.compile(r"unable to connect|connection (to the API was lost|closed|error)|ECONN", re.IGNORECASE)
_TIMEOUT: Final = re.compile(r"timed? ?out", re.IGNORECASE)
_NO_LOGIN: Final = re.compile(r"not logged in|/login|invalid api key|oauth token", re.IGNORECASE)
_USED_UP: Final = re.compile(r"hit your .{0,40}limit", re.IGNORECASE)
_MOST_USD: Final = 1e6  # more is no cost of one process
_MOST_USED: Final = 10.0  # of a window, as a share; overage goes beyond 1
_LATEST: Final = 10.0**11  # seconds since 1970; later is no time of a reset
_LONGEST_NOISE: Final = 400  # characters of stderr in a message


class Turn:
    """One prompt's output, taken line by line until `ended`; then `reply` returns the answer or raises.

    Args:
        constrained: The answer is asked for under a JSON Schema.
        spent_usd: What the process reports to have spent before this prompt, at list prices [USD].
    """

    def __init__(self, *, constrained: bool, spent_usd: float = 0.0) -> None:
        self.ended = False
        self.whole = False  # the client has finished the turn by itself, so that it can take another
        self.spent_usd = spent_usd
        self.quota: tuple[QuotaReading, ...] = ()
        self._constrained = constrained
        self._before_usd = spent_usd
        self._started = time.perf_counter()
        self._text: list[str] = []
        self._json: list[str] = []
        self._usages: list[dict[str, Any]] = []  # one for each model request that was answered
        self._model: Any = None
        self._id: Any = None
        self._request_id: Any = None
        self._stop: Any = None
        self._ttft_ms: float | None = None
        self._error: Any = None
        self._limit: Mapping[str, Any] = {}
        self._result: Mapping[str, Any] = {}
        self._refusal: PlatformError | None = None

    def hear(self, line: bytes) -> str:
        """Take one line and return the text of the answer that it brings, often none."""
        try:
            said = wire.mapping(wire.document(line))
        except ValueError:  # a warning of its runtime; what matters comes as JSON
            return ""
        kind = said.get("type")
        if kind == "stream_event":
            return self._event(wire.mapping(said.get("event")))
        if kind == "assistant":
            self._error = said.get("error") or self._error
            self._request_id = said.get("request_id") or self._request_id
        elif kind == "rate_limit_event":
            self._limits(wire.mapping(said.get("rate_limit_info")))
        elif kind == "system" and said.get("subtype") == "init":
            self._init(said)
        elif kind == "result":
            self._result, self.ended, self.whole = said, True, True
            total = number(said.get("total_cost_usd"), most=_MOST_USD)
            self.spent_usd = self.spent_usd if total is None else total
        return ""

    def reply(self) -> Reply:
        """Return the answer.

        Raises:
            PlatformError: There is none; `reply` carries what arrived, `quota` what was told of the windows.
        """
        if self._refusal is not None:
            raise self._failed(self._refusal)
        if self._result.get("is_error") or (self._result and self._result.get("subtype") != "success"):
            raise self._failed(self._refused())
        if not self._usages:
            words = f"no model was asked: {_words(self._result)}"
            raise self._failed(PlatformError("reply", words))
        found = self.heard()
        if self._constrained and found.finish_reason != "length":
            if not isinstance(self._result.get("structured_output"), dict):
                words = "the client did not constrain the answer to the schema."
                raise self._failed(PlatformError("request", words, may_be_billed=True))
            found.finish_reason = "stop"
        if isinstance(self._result.get("result"), str):
            found.text = self._result["result"]
        if not found.text.strip() and found.finish_reason != "length":
            raise self._failed(PlatformError("reply", "the answer has no visible text.", may_be_billed=True))
        return found

    def heard(self) -> Reply:
        """Return what has arrived so far."""
        return Reply(
            "".join(self._json if self._constrained and self._json else self._text),
            model=wire.word(self._model),
            usage=_usage(self._usages),
            finish_reason=_FINISH.get(self._stop) if isinstance(self._stop, str) else None,
            service_tier=wire.word(self._usages[-1].get("service_tier")) if self._usages else None,
            response_id=wire.word(self._id),
            request_id=wire.word(self._request_id),
            ttft_ms=self._ttft_ms,
            usage_raw=self._kept(),
            quota=self.quota,
        )

    def cut(self, code: int, stderr: bytes) -> PlatformError:
        """Return the error of a client that ended with this code before it had finished."""
        noise = wire.one_line(stderr.decode("utf-8", "replace"))[:_LONGEST_NOISE]
        if _TOO_OLD.search(noise):
            return PlatformError(
                "request", f"this version of Claude Code lacks an option ({noise}). Run: claude update"
            )
        words = f"Claude Code ended with code {code} before it had answered. {noise}"
        return self._failed(PlatformError("reply", words, may_be_billed=True))

    def failed(self, error: PlatformError) -> PlatformError:
        """Return an error of the process with what had arrived before it."""
        return self._failed(error)

    # Its lines.

    def _init(self, said: Mapping[str, Any]) -> None:
        source = said.get("apiKeySource")
        if source not in (None, "none"):
            self._refuse(billed_elsewhere(source))
        elif self._constrained and _STRUCTURED not in str(said.get("tools")):
            words = "Claude Code cannot use this JSON Schema."
            self._refuse(PlatformError("request", words, may_be_billed=True))

    def _event(self, event: Mapping[str, Any]) -> str:
        kind = event.get("type")
        if kind == "content_block_delta":
            return self._delta(wire.mapping(event.get("delta")))
        if kind == "message_start":
            message = wire.mapping(event.get("message"))
            self._model, self._id = message.get("model"), message.get("id")
            self._usages.append(dict(wire.mapping(message.get("usage"))))
            self._text.clear()  # of an earlier message, which the client was not content with
        elif kind == "message_delta" and self._usages:
            told = wire.mapping(event.get("usage"))
            self._usages[-1].update({key: value for key, value in told.items() if value is not None})
            self._stop = wire.mapping(event.get("delta")).get("stop_reason")
            silent = self._stop in ("end_turn", "stop_sequence") and not any(self._text) and not self._constrained
            self.ended = self.ended or self._stop == "max_tokens" or silent
        return ""

    def _delta(self, delta: Mapping[str, Any]) -> str:
        text, json = delta.get("text"), delta.get("partial_json")
        if isinstance(json, str):
            self._json.append(json)
        if not isinstance(text, str) or not text:
            return ""
        if self._ttft_ms is None:
            self._ttft_ms = (time.perf_counter() - self._started) * 1000
        self._text.append(text)
        return text

    def _limits(self, told: Mapping[str, Any]) -> None:
        self._limit = told
        window = wire.word(told.get("rateLimitType"))
        if window is None:
            return
        share, resets = number(told.get("utilization"), most=_MOST_USED), _time(told.get("resetsAt"))
        used = share * 100 if share is not None else 100.0 if told.get("status") == "rejected" else None
        at = int(resets * 1_000_000) if resets is not None else None
        self.quota = (QuotaReading(window, used, at, "rate_limit_event", now_us()),)

    # What it comes to.

    def _refuse(self, error: PlatformError) -> None:
        self._refusal = error
        self.ended = True

    def _failed(self, error: PlatformError) -> PlatformError:
        if error.reply is None and (self._usages or self._text):
            error.reply = self.heard()
            error.may_be_billed = True
        error.quota = self.quota
        error.request_id = error.request_id or wire.word(self._request_id)
        return error

    def _refused(self) -> PlatformError:
        """Return the typed error of a turn that the client says has failed."""
        words = _words(self._result)
        status = self._result.get("api_error_status")
        status = status if type(status) is int and 100 <= status < 600 else None
        kind = self._kind(status, words)
        if kind == "key":
            words = f"{words} To log in: {LOGIN}."
        billed = status is None and kind in ("reply", "timeout", "connection") and not _NOT_REACHED.search(words)
        return PlatformError(
            kind,
            words,
            retry_after_s=self._wait_s() if kind == "window" else None,
            http_status=status,
            may_be_billed=billed or status in (504, 524),
        )

    def _kind(self, status: int | None, words: str) -> PlatformErrorKind:
        if self._result.get("subtype") != "success" or self._result.get("stop_reason") == "refusal":
            return "reply"
        known = _KINDS.get(self._error) if isinstance(self._error, str) else None
        if known == "balance" or self._limit.get("errorCode") == "credits_required":
            return "balance"
        if known == "rate" or status == 429:
            told = self._limit.get("status") == "rejected" and _time(self._limit.get("resetsAt")) is not None
            return "window" if told or _USED_UP.search(words) else "rate"
        if status is not None:  # "server_error" stands for an overload too, so the status decides
            return "request" if self._error == "model_not_found" else wire.kind_of_status(status)
        if _CONNECTION.search(words):
            return "connection"
        if _TIMEOUT.search(words):
            return "timeout"
        if known == "key" or _NO_LOGIN.search(words):
            return "key"
        return known or ("overloaded" if self._error == "server_error" and not self._usages else "reply")

    def _wait_s(self) -> float | None:
        at = _time(self._limit.get("resetsAt"))
        return max(0.0, at - time.time()) if at is not None else None

    def _kept(self) -> str | None:
        """Return the usage as it came, with the list price by which the client reckons [USD]."""
        if not self._usages:
            return None
        told = self._usages[-1] if len(self._usages) == 1 else {"messages": self._usages}
        if self.whole and not self._result.get("is_error"):
            told = {**told, "total_cost_usd": round(self.spent_usd - self._before_usd, 12)}
        return wire.kept_usage(told)


def billed_elsewhere(source: Any) -> PlatformError:
    """Return the error of a client that would not use the subscription, naming what it would use instead."""
    name = redact(str(source))[:100]
    return PlatformError(
        "key",
        f"Claude Code would bill {name} instead of the subscription. Remove {name} from its "
        "environment or settings, or use the platform Anthropic for the API.",
    )


def _words(result: Mapping[str, Any]) -> str:
    errors = result.get("errors")
    said = result.get("result") or (errors[0] if isinstance(errors, list) and errors else None)
    return wire.one_line(said) if isinstance(said, str) else f"the turn ended as {result.get('subtype')!r}."


def number(value: Any, *, most: float) -> float | None:
    """Return a number from 0 to `most`; None for anything else."""
    return float(value) if type(value) in (int, float) and 0 <= value <= most else None


def _time(value: Any) -> float | None:
    """Return a moment [s since 1970]; None for what is none."""
    return number(value, most=_LATEST) or None


def _usage(told: list[dict[str, Any]]) -> Usage:
    """Return the tokens of all messages as inclusive totals: what Anthropic calls input leaves out the cache."""
    total = NO_USAGE
    for usage in told:
        fresh, written = wire.tokens(usage.get("input_tokens")), wire.tokens(usage.get("cache_creation_input_tokens"))
        read = wire.tokens(usage.get("cache_read_input_tokens"))
        output = wire.tokens(usage.get("output_tokens"))
        thought = wire.tokens(wire.mapping(usage.get("output_tokens_details")).get("thinking_tokens"))
        if thought is not None and (output is None or thought > output):
            thought = None
        whole = None if fresh is None else fresh + (written or 0) + (read or 0)
        total = total + Usage(whole, read, written, output, thought, "cli")
    return total
