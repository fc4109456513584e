"""The suite every platform passes: what the engine relies on, as tests for pytest.

    class TestMyPlatform(PlatformConformance):
        not_applicable = {"rate_limited": "it runs on this machine and has no limits"}

        @contextmanager
        def platform(self, situation: str) -> Iterator[Place]:
            with a_server_in(situation) as server:
                yield Place(MyPlatform(server.url), requests=lambda: server.count)

A situation that a platform cannot be put in is named in `not_applicable` with its reason, and shows as skipped with it;
one that is merely not built fails.
"""

from __future__ import annotations

import abc
import asyncio
import json
import re
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Any, ClassVar, TypeVar, get_args

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.protocol import Capabilities, DataUse, Platform, Reply, Request, Transport
from orchestrai.result import Tier
from orchestrai.testing.situations import HOSTILE_PROMPTS, SITUATIONS, TICKET_SCHEMA, Place

T = TypeVar("T")


class PlatformConformance(abc.ABC):
    """The contracts. A subclass builds the platform in each situation."""

    not_applicable: ClassVar[Mapping[str, str]] = {}
    """Situations that this platform cannot be in, each with the reason."""
    bound_s: ClassVar[float] = 20.0
    """How long a cancelled request may take to leave nothing behind [s]; generous, because machines are shared."""

    @abc.abstractmethod
    def platform(self, situation: str) -> AbstractContextManager[Place]:
        """Return the platform in a situation of `SITUATIONS`, for one `with`."""

    def request(self, platform: Platform, prompt: str = "Say something.", **fields: Any) -> Request:
        """Return a request; a subclass may set fields that its platform needs."""
        return Request((Message("user", prompt),), platform.model, **fields)

    # What it is.

    def test_what_is_declared_not_applicable_is_a_known_situation_with_a_reason(self) -> None:
        """A slip of the pen in `not_applicable` must not silence a contract."""
        assert set(self.not_applicable) <= set(SITUATIONS)
        assert all(len(reason) > 10 for reason in self.not_applicable.values())
        assert "answers" not in self.not_applicable

    def test_it_says_what_it_is(self) -> None:
        """Routing and pricing read these before anything is sent."""
        with self._in("answers") as place:
            platform = place.platform
            assert isinstance(platform, Platform)
            assert platform.name
            assert platform.model
            assert platform.provider
            assert platform.tier in get_args(Tier)
            assert platform.transport in get_args(Transport)
            assert platform.data_use in get_args(DataUse)
            assert platform.concurrency >= 1
            assert platform.demo in (True, False)
            assert platform.account is None or 0 < len(platform.account) <= 64
            assert platform.serves(platform.model)
            assert isinstance(platform.capabilities(platform.model), Capabilities)
            _run(place, _nothing)
            assert place.requests() == 0, "describing a platform sends nothing"

    def test_no_key_shows_in_what_it_prints(self) -> None:
        """Its repr, its attributes, its account and its errors hold no key, also with the locals of every frame."""
        with self._in("answers") as place:
            platform = place.platform
            shown = [repr(platform), str(platform), f"{platform}", str(platform.account), repr(_attributes(platform))]
            _run(place, _nothing)
        for situation in ("refuses_key", "malformed", "cut", "unreachable", "hangs"):
            if situation in self.not_applicable:
                continue
            with self._in(situation) as failing:
                error = _run(failing, lambda p, s=situation, f=failing: self._ended(p, s, f))  # type: ignore[misc]  # bound now
            shown.append("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
            shown.append(repr(vars(error)))
        if place.secret is not None:
            assert not [text for text in shown if place.secret in text]

    # Answers.

    def test_one_send_is_one_request_and_returns_answer_and_usage(self) -> None:
        """The ledger books one attempt for one request, at the tokens that the reply tells."""
        with self._in("answers") as place:
            reply = _run(place, lambda p: p.send(self.request(p)))
            assert place.requests() == 1
            _check_reply(place, reply)

    def test_equal_requests_at_once_each_get_their_own_answer(self) -> None:
        """Answers are never swapped between requests in flight."""
        with self._in("answers") as place:
            prompts = [f"Say the number {i}." for i in range(8)]

            async def all_at_once(platform: Platform) -> list[Reply]:
                return list(await asyncio.gather(*(platform.send(self.request(platform, p)) for p in prompts)))

            replies = _run(place, all_at_once)
            assert place.requests() == len(prompts)
            for prompt, reply in zip(prompts, replies, strict=True):
                assert place.answer is None or reply.text == place.answer(prompt)

    def test_the_pieces_of_a_stream_are_the_text_of_its_reply(self) -> None:
        """A stream is one request, and ends with the Reply that is booked."""
        with self._in("answers") as place:
            if not place.platform.capabilities(place.platform.model).streaming:
                _run(place, _nothing)
                return
            items = _run(place, lambda p: _listed(p.stream(self.request(p))))
            assert place.requests() == 1
            *pieces, reply = items
            assert all(isinstance(piece, str) and piece for piece in pieces)
            assert isinstance(reply, Reply)
            assert "".join(str(piece) for piece in pieces) == reply.text
            assert reply.ttft_ms is None or reply.ttft_ms >= 0
            _check_reply(place, reply, exact=False)

    def test_a_schema_is_honoured_where_it_says_so(self) -> None:
        """The capability `schema` means: the text is JSON that validates."""
        with self._in("answers") as place:
            if not place.platform.capabilities(place.platform.model).schema:
                _run(place, _nothing)
                return
            import jsonschema

            reply = _run(place, lambda p: p.send(self.request(p, "A ticket, please.", json_schema=TICKET_SCHEMA)))
            jsonschema.validate(json.loads(reply.text), dict(TICKET_SCHEMA))

    def test_hostile_prompts_travel_byte_equal(self) -> None:
        """A prompt is data: never an option, a template or markup. What cannot travel is refused unsent."""
        with self._in("answers") as place:
            sent: list[str] = []

            async def each(platform: Platform) -> None:
                for prompt in HOSTILE_PROMPTS:
                    outcome = await _outcome(platform.send(self.request(platform, prompt)))
                    if isinstance(outcome, PlatformError):
                        assert outcome.kind == "request", f"{prompt[:40]!r}: {outcome}"
                    else:
                        sent.append(prompt)
                    assert place.requests() == len(sent)

            _run(place, each)
            assert len(sent) > len(HOSTILE_PROMPTS) // 2
            assert place.prompts is None or list(place.prompts()) == sent

    def test_half_an_emoji_is_refused_unsent(self) -> None:
        """No JSON in UTF-8 can carry a lone surrogate."""
        with self._in("answers") as place:
            error = _run(place, lambda p: _failure(p.send(self.request(p, "half \ud83d of it"))))
            assert error.kind == "request"
            assert place.requests() == 0

    # Failures.

    def test_a_rate_limit_is_told_as_such(self) -> None:
        """rate: wait, then ask again."""
        error = self._fails("rate_limited", "rate")
        assert error.retry_after_s is None or error.retry_after_s >= 0

    def test_a_used_up_window_is_told_as_such(self) -> None:
        """window: rest until it resets."""
        self._fails("window_used_up", "window")

    def test_an_empty_balance_is_told_as_such(self) -> None:
        """balance: asking again is useless until somebody pays."""
        self._fails("balance_empty", "balance")

    def test_an_overload_is_told_as_such(self) -> None:
        """overloaded: slow down."""
        self._fails("overloaded", "overloaded")

    def test_refused_credentials_are_told_as_such(self) -> None:
        """key: no other task can succeed here either."""
        self._fails("refuses_key", "key")

    def test_a_refused_request_is_told_as_such(self) -> None:
        """request: the same request fails again."""
        self._fails("refuses_request", "request")

    def test_nobody_there_is_told_as_such_and_cannot_be_billed(self) -> None:
        """connection: nothing was sent."""
        self._fails("unreachable", "connection", requests=0)

    def test_a_cut_answer_is_never_taken_for_whole(self) -> None:
        """It may have been billed, so the ledger holds it in doubt."""
        self._fails("cut", "connection", "reply", billed=True)

    def test_a_cut_stream_is_never_taken_for_whole(self) -> None:
        """It raises after its pieces, and the error carries what arrived."""
        with self._in("cut") as place:
            if not place.platform.capabilities(place.platform.model).streaming:
                _run(place, _nothing)
                return
            error = _run(place, lambda p: _failure(_listed(p.stream(self.request(p)))))
            assert error.kind in ("connection", "reply")
            assert error.may_be_billed
            assert error.reply is None or isinstance(error.reply, Reply)
            assert place.requests() == 1

    def test_an_unreadable_answer_is_told_as_such(self) -> None:
        """reply: it was paid for and cannot be used."""
        self._fails("malformed", "reply", billed=True)

    def test_it_works_again_after_a_failure(self) -> None:
        """An error leaves nothing broken behind."""
        with self._in("fails_once") as place:

            async def twice(platform: Platform) -> Reply:
                error = await _failure(platform.send(self.request(platform)))
                assert error.kind == "overloaded"
                return await platform.send(self.request(platform))

            _check_reply(place, _run(place, twice), exact=False)
            assert place.requests() == 2

    # Cancelling and closing.

    def test_cancelling_a_request_leaves_nothing(self) -> None:
        """Neither a task here nor a request there; the cancellation itself is not swallowed."""
        with self._in("hangs") as place:
            _run(place, lambda p: self._cancelled(place, p.send(self.request(p))))
            assert place.requests() == 1

    def test_cancelling_a_stream_leaves_nothing(self) -> None:
        """As `send`."""
        with self._in("hangs") as place:
            if not place.platform.capabilities(place.platform.model).streaming:
                _run(place, _nothing)
                return
            _run(place, lambda p: self._cancelled(place, _listed(p.stream(self.request(p)))))
            assert place.requests() == 1

    def test_leaving_a_stream_early_leaves_nothing(self) -> None:
        """A consumer that has seen enough closes the generator, and that is all it has to do."""
        with self._in("answers") as place:
            if not place.platform.capabilities(place.platform.model).streaming:
                _run(place, _nothing)
                return

            async def first_piece(platform: Platform) -> None:
                before = asyncio.all_tasks()
                async with aclosing(platform.stream(self.request(platform))) as items:  # type: ignore[type-var]  # an async generator in every adapter
                    async for _ in items:
                        break
                await self._until(lambda: asyncio.all_tasks() == before and place.idle())

            _run(place, first_piece)

    def test_closing_twice_is_closing_once(self) -> None:
        """Several Orchestrators may share a platform; each closes it."""
        with self._in("answers") as place:

            async def used(platform: Platform) -> None:
                await platform.send(self.request(platform))
                await platform.close()
                await platform.close()

            _run(place, used)

            async def unused(platform: Platform) -> None:
                await platform.close()

            with self._in("answers") as fresh:
                _run(fresh, unused)

    # How they are checked.

    @contextmanager
    def _in(self, situation: str) -> Iterator[Place]:
        reason = self.not_applicable.get(situation)
        if reason is not None:
            import pytest

            pytest.skip(f"not applicable: {SITUATIONS[situation]} ({reason})")
        with self.platform(situation) as place:
            yield place

    def _fails(self, situation: str, *kinds: str, billed: bool = False, requests: int = 1) -> PlatformError:
        with self._in(situation) as place:
            error = _run(place, lambda p: _failure(p.send(self.request(p))))
            assert error.kind in kinds, f"{error.kind}: {error}"
            assert error.may_be_billed is billed
            assert str(error)
            assert place.requests() == requests, "one send is one request, whatever comes of it"
            return error

    async def _ended(self, platform: Platform, situation: str, place: Place) -> BaseException:
        """Return the error of one request, cancelled where it hangs."""
        task = asyncio.ensure_future(platform.send(self.request(platform)))
        if situation == "hangs":
            await self._until(lambda: place.requests() == 1)
            task.cancel()
        try:
            await task
        except (PlatformError, asyncio.CancelledError) as error:
            return error
        raise AssertionError(f"{situation}: the request was answered")

    async def _cancelled(self, place: Place, work: Awaitable[object]) -> None:
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(work)
        await self._until(lambda: place.requests() == 1)
        task.cancel()
        await asyncio.wait([task], timeout=self.bound_s)
        assert task.cancelled(), "cancelled, and not turned into an error or an answer"
        await self._until(lambda: asyncio.all_tasks() == before and place.idle())

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(self.bound_s):
            while not condition():  # noqa: ASYNC110  # the far side is another process or thread
                await asyncio.sleep(0.005)


def _run(place: Place, contract: Callable[[Platform], Awaitable[T]]) -> T:
    """Run one contract on a loop of its own and close the platform on it."""

    async def closed_after() -> T:
        try:
            return await contract(place.platform)
        finally:
            await place.platform.close()

    return asyncio.run(closed_after())


async def _nothing(_: Platform) -> None:
    pass


async def _listed(items: AsyncIterator[str | Reply]) -> list[str | Reply]:
    return [item async for item in items]


async def _outcome(work: Awaitable[T]) -> T | PlatformError:
    try:
        return await work
    except PlatformError as error:
        return error


async def _failure(work: Awaitable[object]) -> PlatformError:
    outcome = await _outcome(work)
    assert isinstance(outcome, PlatformError), f"an error was expected, not {outcome!r}"
    return outcome


def _attributes(value: object) -> dict[str, object]:
    return dict(getattr(value, "__dict__", {}))


def _check_reply(place: Place, reply: Reply, *, exact: bool = True) -> None:
    """Usage is told as inclusive totals: parts never exceed the whole."""
    assert isinstance(reply, Reply)
    assert reply.text
    assert reply.finish_reason in ("stop", "length", "filter", "tool", None)
    usage = reply.usage
    assert usage.source != "none", "a platform that cannot count says `estimated`"
    counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens)
    assert all(count is None or (type(count) is int and count >= 0) for count in (*counts, usage.reasoning_tokens))
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    assert usage.input_tokens is None or cached <= usage.input_tokens
    assert usage.output_tokens is None or (usage.reasoning_tokens or 0) <= usage.output_tokens
    assert reply.model is None or re.search(r"\S", reply.model)
    if exact and place.usage is not None:
        assert usage == place.usage
