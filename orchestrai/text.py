"""Values as plain text: what a terminal, a log and the `text/plain` side of a notebook output show.

Every string of a provider, a model or a file passes `printable` here, so none of it can drive a terminal.
"""

from __future__ import annotations

import math
import re
import time
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from orchestrai.errors import redact

if TYPE_CHECKING:
    from orchestrai.messages import Prompt
    from orchestrai.result import Result
    from orchestrai.results.batch_result import BatchResult

ANSWER_SHOWN: Final = 20_000  # characters of one answer in a display; a saved notebook must stay small
ENDS_SHOWN: Final = 5  # rows shown at each end of a batch

# C0 (but not tab and line feed), DEL and C1; the twelve characters with the Unicode property Bidi_Control
# (UAX #9, as listed in PropList.txt); lone surrogates, which no UTF-8 stream can carry.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text without anything that could drive a terminal or reorder what a reader sees.

    Control and escape characters (C0 and C1, but not tab and line feed) are left out, bidirectional controls
    are written as `U+202E`, and lone surrogates become U+FFFD. All other characters stay as they are.
    """
    return _UNSAFE.sub(_harmless, text)


def excerpt(text: str, width: int = 80) -> str:
    """Return the beginning of a text on one line, ending in `…` where something was left out.

    Args:
        text: Any text; runs of white space become one space.
        width: Most characters returned, at least 1.
    """
    text = text.lstrip()
    head = text[: 16 * width]  # enough for any ordinary spacing; a megabyte is not searched for one line
    line = printable(" ".join(head.split()))
    if len(line) <= width and len(head) == len(text):
        return line
    return line[: width - 1].rstrip() + "…"


def money(amount: Decimal | None) -> str:
    """Return an amount [USD] as `$12.35`, `$0.0412` or `$0.00000123`; only nothing at all is `$0.00`.

    From one dollar on there are two decimals, from one cent on up to four, below that three significant digits.
    """
    if amount is None or not amount.is_finite():
        return "unknown"
    size = abs(amount)
    if size >= 1:
        decimals = 2
    elif size >= Decimal("0.01") or not size:
        decimals = 4
    else:
        decimals = 2 - size.adjusted()
    whole, _, cents = f"{size:,.{decimals}f}".partition(".")
    cents = cents.rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}${whole}.{cents}"


def total(amounts: Iterable[Decimal | None]) -> str:
    """Return a sum of amounts [USD]; `at least $0.41` where some are unknown, `unknown` where all are."""
    given = list(amounts)
    known = [amount for amount in given if amount is not None]
    if given and not known:
        return "unknown"
    return ("" if len(known) == len(given) else "at least ") + money(sum(known, Decimal(0)))


def list_total(batch: BatchResult) -> str:
    """Return the list price of a batch [USD] in words; what has no answer and cost nothing makes it neither known nor uncertain."""
    return total(r.list_cost for r in batch if r.success or r.list_cost)


def count(number: int | None) -> str:
    """Return a whole number with separators, `12,345`; `unknown` for None."""
    return "unknown" if number is None else f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Return how many there are of something: `1 task`, `12,345 tasks`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def duration(seconds: float | None) -> str:
    """Return a span of time [s] as a person says it: `320 ms`, `41.2 s`, `1 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds == 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "< 1 ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    if round(seconds / 60) < 24 * 60:
        return "{} h {} min".format(*divmod(round(seconds / 60), 60))
    return "{} d {} h".format(*divmod(round(seconds / 3600), 24))


def moment(at_us: int | None) -> str:
    """Return a moment [µs since 1970, UTC] as `2026-11-22 14:03 UTC`; `unknown` for None."""
    if at_us is None:
        return "unknown"
    try:
        return f"{datetime.fromtimestamp(at_us / 1_000_000, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, OSError, ValueError):  # outside the calendar of this system
        return "unknown"


def prompt_text(prompt: Prompt) -> str:
    """Return the text of a prompt: a single message as it is, several with their roles, images left out."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0].text
    return "\n\n".join(f"{message.role}: {message.text}" for message in prompt)


def table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, right: Collection[int] = ()) -> str:
    """Return a table with aligned columns, one line for each row, ready for a terminal.

    Args:
        rows: Cells as text, each row as long as `headers`; line breaks become spaces.
        headers: Titles of the columns.
        right: Numbers of the columns that are aligned to the right.
    """
    lines = [[printable(" ".join(cell.split())) for cell in row] for row in (headers, *rows)]
    widths = [max(map(_columns, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(map(_padded, line, widths, (i in right for i in range(len(widths))))).rstrip() for line in lines
    )


def answered_by(result: Result) -> str:
    """Return who answered, or failed last, as `platform/model`; the empty string when nobody was asked."""
    return excerpt("/".join(name for name in (result.platform, result.model) if name), 60)


def tokens(result: Result) -> str:
    """Return the tokens of a result as `1,234 tokens in, 56 out`; estimates say so."""
    usage = result.usage
    if usage.input_tokens is None and usage.output_tokens is None:
        return "tokens unknown"
    about = "about " if usage.source == "estimated" else ""
    return f"{about}{count(usage.input_tokens)} tokens in, {count(usage.output_tokens)} out"


def failure(result: Result) -> str:
    """Return what went wrong as `failed (rate): too many requests`."""
    return printable(ended(result.status, result.error_class, redact(result.error) if result.error else ""))


def ended(status: str, error_class: str | None, error: str, details: str = "") -> str:
    """Return how a task or request ended, each word once: what was cancelled is of the class cancelled.

    Args:
        status: How.
        error_class: Why, in one word.
        error: Why.
        details: What is known beside the class.
    """
    kind = "" if error_class in (None, status) else f" ({error_class}{details})"
    said = "" if error in ("", status) else f": {error}"
    return f"{status}{kind}{said}"


def figures(result: Result) -> list[str]:
    """Return what is known of a result beside its answer, one fact each, most telling first."""
    facts = []
    if who := answered_by(result):
        facts.append(f"{who} ({result.tier})" if result.tier else who)
    if result.finish_reason == "length":
        facts.append("cut off at the output limit")
    if result.reused:
        facts.append("reused" if result.answered_at is None else f"reused, answered {moment(result.answered_at)}")
    if result.attempts or result.usage.source != "none":
        facts.append(tokens(result))
    facts.append(f"cost {money(result.cost)}")
    if result.list_cost is not None:
        facts.append(f"list {money(result.list_cost)}")
    if result.attempts > 1:
        facts.append(counted(result.attempts, "attempt"))
    if not result.reused:
        facts.append(duration(result.duration_s))
    return facts


def shortened(answer: str) -> tuple[str, int]:
    """Return as much of an answer as a display shows, made printable, and the number of characters left out."""
    return printable(answer[:ANSWER_SHOWN]), max(0, len(answer) - ANSWER_SHOWN)


def result_line(result: Result) -> str:
    """Return a result on one line: `Result(succeeded, openai/gpt-5-mini, cost $0.0012, 1.3 s: 'The log …')`."""
    who = answered_by(result)
    parts = [result.status if result.success else excerpt(failure(result), 100), *([who] if who else [])]
    parts += ["reused"] if result.reused else []
    parts += [f"cost {money(result.cost)}", *([] if result.reused else [duration(result.duration_s)])]
    answer = f": {excerpt(result.output, 60)!r}" if result.output else ""
    return f"Result({', '.join(parts)}{answer})"


def result_block(result: Result) -> str:
    """Return the answer, or the failure, and below it a line of who, tokens, money and time."""
    if result.success:
        body, hidden = shortened(result.output or "")
        if hidden:
            body += f"\n… {count(hidden)} more characters in .output"
    else:
        body = failure(result)
    return f"{body}\n\n[{' · '.join(figures(result))}]"


class FailureGroup(NamedTuple):
    """Failures of one kind: their class, the first of them, and how many there are."""

    kind: str
    first: Result
    size: int


def failure_groups(batch: BatchResult) -> list[FailureGroup]:
    """Return the failures of a batch by error class, the largest group first."""
    groups: dict[str, list[Result]] = {}
    for result in batch.failures:
        groups.setdefault(result.error_class or result.status, []).append(result)
    return sorted((FailureGroup(kind, of[0], len(of)) for kind, of in groups.items()), key=lambda g: -g.size)


def outcomes(batch: BatchResult) -> list[str]:
    """Return how many tasks failed, were cancelled, skipped, reused; only what happened: `['3 failed']`."""
    statuses = [result.status for result in batch.failures]
    ways = [(statuses.count(status), status) for status in ("failed", "cancelled", "skipped")]
    return [f"{count(n)} {word}" for n, word in [*ways, (batch.reused_count, "reused")] if n]


def ends(batch: BatchResult) -> tuple[tuple[Result, ...], int, tuple[Result, ...]]:
    """Return the first results, the number of those in between, and the last: what a display has room for."""
    results = batch.results
    if len(results) <= 2 * ENDS_SHOWN + 1:  # "1 more row" would take the place of that row
        return results, 0, ()
    return results[:ENDS_SHOWN], len(results) - 2 * ENDS_SHOWN, results[-ENDS_SHOWN:]


def place(result: Result, *, sampled: bool) -> str:
    """Return where a result belongs: the label of its row, else its position; with the sample's number."""
    label = str(result.index) if result.row is None else excerpt(str(result.row), 24)
    return f"{label} #{result.sample}" if sampled else label


def batch_line(batch: BatchResult) -> str:
    """Return a batch on one line.

    `BatchResult(997/1,000 succeeded, 3 failed, 2 reused, cost $0.4123, list $1.20, 41.2 s)`; in front stand
    its name, where it has one, and its status, where it is not finished.
    """
    parts = [repr(excerpt(batch.name, 40))] if batch.name else []
    parts += [batch.status] if batch.status != "finished" else []
    parts += [f"{count(batch.success_count)}/{count(len(batch))} succeeded", *outcomes(batch)]
    parts += [f"cost {total(r.cost for r in batch)}", f"list {list_total(batch)}"]
    return f"BatchResult({', '.join(parts)}, {duration(batch.duration_s)})"


def batch_block(batch: BatchResult) -> str:
    """Return the line of a batch, its first and last rows, and its failures by class."""
    head, between, tail = ends(batch)
    rows = [_row(result, batch) for result in head]
    if between:
        rows.append(["…", f"{count(between)} more", "", "", ""])
    rows += [_row(result, batch) for result in tail]
    parts = [batch_line(batch)]
    if rows:
        parts.append(table(rows, ("row", "prompt", "answer", "platform", "cost"), right={0, 4}))
    parts += [f"{count(n)} x {excerpt(failure(first), 100)}" for _, first, n in failure_groups(batch)]
    return "\n".join(parts)


def _row(result: Result, batch: BatchResult) -> list[str]:
    return [
        place(result, sampled=batch.sampled),
        excerpt(prompt_text(result.task.prompt), 30),
        excerpt((result.output or "") if result.success else failure(result), 44),
        excerpt(result.platform or "", 16),
        money(result.cost),
    ]


def _harmless(match: re.Match[str]) -> str:
    character = match.group()
    if character < "\xa0":
        return ""
    return "\ufffd" if "\ud800" <= character <= "\udfff" else f"U+{ord(character):04X}"


def _columns(text: str) -> int:
    """Return the columns a terminal gives to a text: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _columns(text))
    return space + text if right else text + space


def local_time(moment_us: int | None) -> str:
    """Return a moment [µs since 1970, UTC] in local time, to the minute: `2026-11-28 00:00`; empty for None."""
    if moment_us is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment_us / 1e6))
    except (OverflowError, OSError, ValueError):  # outside the calendar of this system
        return "unknown"
