"""One attempt: recorded, sent once, recorded again; and what follows from how it ended.

    before the request leaves    commit 1: the row in `sends`, and the claim on the task
    the request                  one, to one platform
    before anything is shown     commit 2: the row in `attempts`, and in `tasks` when the task is settled by it

A crash before commit 1 leaves nothing; between the two it leaves an attempt in doubt; after commit 2 the answer is
there for good.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson

from orchestrai.engine.books import lineage_columns
from orchestrai.engine.handing import with_handed
from orchestrai.engine.holds import charge_of, holds_of
from orchestrai.engine.item import Item, Work
from orchestrai.engine.lane import Lane
from orchestrai.engine.request import request_for, with_parts
from orchestrai.errors import HandoffContextMissing, InvalidInput, PlatformError
from orchestrai.ids import new_id, now_us
from orchestrai.ledger.reservations import Full
from orchestrai.ledger.rows import AttemptRow, OfferRow, SendRow
from orchestrai.limits.admission import Ticket
from orchestrai.messages import Message, canonical, lone_surrogate, messages_of
from orchestrai.platforms.protocol import Reply, Request
from orchestrai.pricing import Price
from orchestrai.result import NO_USAGE
from orchestrai.routing.offers import price_of
from orchestrai.schemas import InvalidAnswer
from orchestrai.task import Task, attached

if TYPE_CHECKING:
    from orchestrai.engine.batch import Run

_PAID: Final = "paid"
_LONGEST_TOLD_S: Final = 10**9  # waits above it [s] are no waits; a quota window ends sooner
_MOST_TOKENS: Final = 10**12  # a count above it is an error of the reply, and would not fit the ledger


async def attempt(run: Run, item: Item, lane: Lane, ticket: Ticket) -> None:
    """Make the next attempt of a task and record it, then settle the task, or put it back in the queue.

    Args:
        run: The call.
        item: The task.
        lane: Where it goes.
        ticket: With which it leaves; given back here, as soon as the request has ended.
    """
    work = item.work or run.books.begin(item)
    recorded = None
    try:
        recorded = await _recorded(run, item, work)
    finally:
        if recorded is None:
            lane.unused(ticket)
    if recorded is None:
        return
    send_seq, request = recorded
    work.attempts += 1
    work.tries += 1
    loop = asyncio.get_running_loop()
    started = loop.time()
    if work.began is None:
        work.began = started
    try:
        reply, error = await _answer(run, item, request)
    except asyncio.CancelledError:
        lane.unused(ticket)
        _record(run, item, work, send_seq, loop.time() - started, None, _CANCELLED, final=False)
        raise
    _end(lane, ticket, reply, error)
    parsed: Any = None
    invalid: InvalidAnswer | None = None
    if reply is not None and item.schema is not None:
        try:
            parsed = item.schema.parse(reply.text)
        except InvalidAnswer as wrong:
            invalid = wrong
            error = PlatformError("reply", _why_invalid(wrong, reply), may_be_billed=True, reply=reply)
    latency_s = loop.time() - started
    if error is None:
        assert reply is not None
        _record(run, item, work, send_seq, latency_s, reply, None, final=True, parsed=parsed)
    elif (wait_s := _next_wait(run, item, work, lane, request, error, invalid, reply)) is not None:
        _record(run, item, work, send_seq, latency_s, reply, error, final=False)
        run.queues.put_later(item, wait_s)
    elif item.has_another_offer and not run.pieces:  # who has seen a part of an answer gets no other one
        _record(run, item, work, send_seq, latency_s, reply, error, final=False)
        run.fall_back(item, str(error))
    else:
        _record(run, item, work, send_seq, latency_s, reply, error, final=True)


async def _recorded(run: Run, item: Item, work: Work) -> tuple[int, Request] | None:
    """Make commit 1; return the number of the request that may leave now and the request, or None when none may."""
    try:
        prompt_sent = item.task.prompt if item.lineage is None else await with_handed(run.engine.ledger, item)
        request = request_for(item, work, new_id(), prompt_sent)
    except InvalidInput as gone:  # a file changed or vanished since the task was made
        run.books.settle_failure(item, "input", str(gone))
        return None
    except HandoffContextMissing as gone:
        run.books.settle_failure(item, "parent", str(gone))
        return None
    named = run.books.named
    offer = named.offer_row(item.offer)
    prompt = _prompt(item.task) if work.attempts == 0 and run.options.keep_texts else None
    unknown = named.unknown(offer, item.task.system if prompt is not None else None)
    since = item.since if work.attempts == 0 else None  # a task that has begun goes on, whoever else answers it
    row = _send_row(run, item, work, request, offer)
    holds = holds_of(item.task, item.size, item.offer, run.outlook, run.limits, item.handed)
    handoffs = item.lineage.rows(work.task_id) if item.lineage is not None and work.attempts == 0 else ()
    grant = await run.journal.open(row, run.books.claim(item), since, prompt, unknown, holds, handoffs)
    if isinstance(grant, Full):
        run.no_room(item, grant)
        return None
    if not isinstance(grant, int):
        run.hold(item)
        return None
    work.metered = bool(holds)
    if work.first_send is None:
        work.first_send = grant
    named.written(unknown)
    return grant, request


def _end(lane: Lane, ticket: Ticket, reply: Reply | None, error: PlatformError | None) -> None:
    """Tell the lane how the request ended, before anything else waits for it."""
    if error is None and reply is not None:
        lane.end(ticket, limits=reply.rate_limits, tokens=reply.usage.input_tokens)
    elif error is not None:
        lane.end(
            ticket,
            error.kind,
            retry_after_s=error.retry_after_s,
            limits=error.rate_limits,
            tokens=error.reply.usage.input_tokens if error.reply is not None else None,
            words=str(error),
        )


async def _answer(run: Run, item: Item, request: Request) -> tuple[Reply | None, PlatformError | None]:
    """Send the request once, within its wall clock; return the reply, or why there is none."""
    platform, clock = item.offer.platform, run.engine.clock
    deadline = clock.start(request.timeout_s)
    overrun = False
    try:
        try:
            reply = await (platform.send(request) if run.on_piece is None else _streamed(run, item, request))
        finally:
            overrun = clock.end(deadline)
        if (wrong := _impossible(reply)) is not None:
            return None, PlatformError("reply", wrong, may_be_billed=True)
    except PlatformError as failed:
        if failed.reply is not None and _impossible(failed.reply) is not None:
            failed.reply = None
        return None, failed
    except asyncio.CancelledError:
        if not overrun:
            raise
        return None, PlatformError("timeout", f"no answer within {request.timeout_s:g} s", may_be_billed=True)
    except Exception as bug:  # noqa: BLE001 - a fault in an adapter, perhaps a third party's, fails its task alone
        return None, PlatformError("reply", f"the adapter failed: {type(bug).__name__}: {bug}", may_be_billed=True)
    return reply, None


async def _streamed(run: Run, item: Item, request: Request) -> Reply:
    """Send one request and pass its pieces on as they come."""
    assert run.on_piece is not None
    async for piece in item.offer.platform.stream(request):
        if isinstance(piece, Reply):
            return piece
        run.pieces += 1
        run.on_piece(piece)
    raise PlatformError("reply", "the stream ended without its end mark", may_be_billed=True)


def _impossible(reply: Reply) -> str | None:
    """Return what of a reply could not be kept, or not be true, whatever adapter it comes from; None if nothing."""
    if not _is_text(reply.text):
        return "the answer is not text that can be kept"
    usage = reply.usage
    for word in (reply.model, reply.service_tier, usage.source):
        if word is not None and not _is_text(word):
            return "the reply names its model or tier by something that is not text"
    cached = (usage.cache_read_tokens, usage.cache_write_tokens)
    counts = (usage.input_tokens, *cached, usage.output_tokens, usage.reasoning_tokens)
    for count in counts:
        if count is not None and not (isinstance(count, int) and 0 <= count <= _MOST_TOKENS):
            return f"the reply counts impossible tokens: {counts}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and (value.isascii() or lone_surrogate(value) is None)


def _next_wait(
    run: Run,
    item: Item,
    work: Work,
    lane: Lane,
    request: Request,
    error: PlatformError,
    invalid: InvalidAnswer | None,
    reply: Reply | None,
) -> float | None:
    """Return how long to wait before the next attempt [s], having prepared it; None when this was the last."""
    if run.pieces:  # the consumer has seen a part of this answer; another would not continue it
        return None
    if invalid is not None:
        if work.repairs_left == 0 or item.schema is None or reply is None:
            return None
        work.repairs_left -= 1
        work.kind = "repair"
        work.follow_up = (Message("user", item.schema.repair(reply.text, str(invalid))),)
        return 0.0
    if error.kind == "request" and request.json_schema is not None:
        # Not every compatible server knows JSON Schema, and no decoder knows all of it: ask in words instead.
        work.constrained = False
        work.kind = "retry"
        return 0.0
    wait_s = run.retry.wait_s(error.kind, work.tries, error.retry_after_s, run.random)
    if wait_s is None or not lane.admission.may_retry(error.kind, error.retry_after_s):
        return None
    work.kind = "retry"
    work.backoff_s += wait_s
    return wait_s


def _send_row(run: Run, item: Item, work: Work, request: Request, offer: OfferRow) -> SendRow:
    task = item.task
    return SendRow(
        0,
        request.attempt_id,
        work.task_id,
        work.attempts + 1,
        work.kind,
        work.first_send,
        run.books.batch_id,
        item.index,
        item.sample,
        item.key,
        offer.offer_id,
        item.size or None,
        task.max_tokens,
        item.expected_cash,
        run.books.named.system_digest(task.system),
        *lineage_columns(item, work.task_id),
        task.type,
        task.priority,
        orjson.dumps(task.tags).decode() if task.tags else None,
        work.queued_at,
        now_us(),
        work.backoff_s * 1000 or None,
    )


_CANCELLED: Final = PlatformError("timeout", "cancelled while it was under way", may_be_billed=True)


def _record(
    run: Run,
    item: Item,
    work: Work,
    send_seq: int,
    latency_s: float,
    reply: Reply | None,
    error: PlatformError | None,
    *,
    final: bool,
    parsed: Any = None,
) -> None:
    """Book what the attempt cost and write how it ended; with `final`, the task is settled by it."""
    offer = item.offer
    seen: Reply | None = reply or (error.reply if error is not None else None)
    usage = seen.usage if seen is not None else NO_USAGE
    price = _price(run, item, seen)
    list_cost = price.pico(usage) if price is not None else None
    cost: int | None
    if offer.tier != _PAID or (error is not None and not error.may_be_billed):
        cost, cost_source = 0, "zero"
    else:
        cost, cost_source = list_cost, "unknown" if list_cost is None else "computed"
    if error is not None and not error.may_be_billed:
        list_cost = 0
    work.usage = work.usage + usage
    work.cost = None if work.cost is None or cost is None else work.cost + cost
    work.list_cost = None if work.list_cost is None or list_cost is None else work.list_cost + list_cost
    now = now_us()
    status = "failed"
    if error is None:
        status, work.answered_at = "succeeded", now
    elif error is _CANCELLED:
        status = "cancelled"
    several = final and work.attempts > 1
    columns = (  # by position: so many names would cost 5 µs
        send_seq,
        status,
        int(final),  # settles
        cost,
        list_cost,
        cost_source,
        *((None, None) if price is None else (price.price_id, price.match)),
        now,  # finished_at
        latency_s * 1000,  # duration_ms
        max(0.0, (now - work.queued_at) / 1000 - latency_s * 1000 - work.backoff_s * 1000),  # queue_ms
        int(run.on_piece is not None),  # streamed
        None if item.schema is None or reply is None else int(error is None),  # schema_valid
        *((work.cost, work.list_cost, run.books.since_began_ms(work)) if several else _ONE_ATTEMPT),
        *(_NO_FAILURE if error is None else _failure(error, final=final)),
        *(_said(seen) if seen is not None else _nothing_said(error)),
    )
    row = AttemptRow._make(columns)
    if price is not None:
        run.books.named.note_price(price)
    told = error.quota if error is not None and error.quota else seen.quota if seen is not None else ()
    quota = run.books.named.quota_rows(offer.platform, told) if told else ()
    if error is not None and error.kind == "window" and not quota:
        quota = run.books.named.used_up(offer, error.retry_after_s)
    charge = charge_of(usage, cost, error) if work.metered else None
    if not final:
        run.books.record(row, latency_s, quota, charge)
    elif error is None:
        assert reply is not None
        run.books.settle_success(item, row, latency_s, reply, parsed, quota, charge)
    else:
        run.books.settle_failure(item, error.kind, item.told(str(error)), row, latency_s, seen, quota, charge)
    if work.metered:
        run.queues.made_room(offer)


_ONE_ATTEMPT: Final = (None, None, None)
_NO_FAILURE: Final = (None, None, None, None, None)


def _failure(error: PlatformError, *, final: bool) -> tuple[Any, ...]:
    """Return the columns that say what failed."""
    return (
        "cancelled" if error is _CANCELLED else error.kind,
        type(error.__cause__ or error).__name__,
        str(error),
        int(not final),  # retryable
        _told_ms(error),
    )


def _said(reply: Reply) -> tuple[Any, ...]:
    """Return the columns that say what came back."""
    usage, limits = reply.usage, reply.rate_limits
    return (
        usage.source,
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        reply.usage_raw,
        reply.http_status,
        reply.model,
        reply.service_tier,
        reply.ttft_ms,
        reply.finish_reason,
        reply.response_id,
        reply.request_id,
        *((None, None) if limits is None else (limits.requests_left, limits.tokens_left)),
    )


def _nothing_said(error: PlatformError | None) -> tuple[Any, ...]:
    """Return the same columns where no reply came, or none that could be read."""
    status, request_id = (None, None) if error is None else (error.http_status, error.request_id)
    return ("none", *(None,) * 6, status, *(None,) * 5, request_id, None, None)


def _price(run: Run, item: Item, seen: Reply | None) -> Price | None:
    """Return the price of what was really used: the model and the tier that the reply names."""
    offer = item.offer
    if seen is None or (seen.service_tier in (None, "default", "standard") and seen.model in (None, offer.model)):
        return offer.price
    return price_of(run.prices, offer.platform, seen.model or offer.model, offer.model, seen.service_tier)


def _prompt(task: Task) -> tuple[str, str]:
    """Return kind and text of what the ledger keeps of a prompt: itself, or its messages as JSON with files by digest."""
    if isinstance(task.prompt, str) and not task.files:
        return "prompt", task.prompt
    messages = with_parts(messages_of(task.prompt), attached(task)) if task.files else task.prompt
    return "messages", orjson.dumps(canonical(messages)).decode()


def _told_ms(error: PlatformError) -> int | None:
    """Return the wait that was told [ms]; None without one, and for what is none."""
    told_s = error.retry_after_s
    return int(told_s * 1000) if isinstance(told_s, int | float) and 0 < told_s < _LONGEST_TOLD_S else None


def _why_invalid(wrong: InvalidAnswer, reply: Reply) -> str:
    if reply.finish_reason == "length":
        return f"the answer was cut off at its output limit (raise max_tokens): {wrong}"
    return str(wrong)
