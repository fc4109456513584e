"""What calls return before they are awaited, and what comes piece by piece: awaitables, lazy inputs, streams."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import tracemalloc
import warnings

import pandas as pd
import pytest
from loopback import openai, orchestrator, upper

from orchestrai import BatchStopped, InvalidInput, InvalidTemplate, LedgerError, NoPlatform, Task, TaskFailed
from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.engine.loop import engine_loop
from orchestrai.errors import PlatformError
from orchestrai.ledger.connection import connect
from orchestrai.platforms import Capabilities
from orchestrai.testing import Fault, ProviderServer, ScriptedPlatform
from orchestrai.testing.answers import answer_to


def at_work():
    """Return the tasks on the engine's loop."""

    async def tasks():
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    return engine_loop().submit(tasks()).result(10)


def comes_to_rest():
    """Wait until nothing is left on the engine's loop."""
    for _ in range(200):
        if not at_work():
            return True
        gc.collect()
        asyncio.run(asyncio.sleep(0.01))
    return False


# --- the awaitable ---------------------------------------------------------------------------------------------------


def test_a_call_that_is_not_awaited_says_so_and_sends_nothing(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        assert repr(orch.run("a")) == "<orch.run: not started: write `await orch.run(…)`>"
        assert repr(orch.batch(["a"])) == "<orch.batch: not started: write `await orch.batch(…)`>"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            orch.run("a")
            orch.batch(["a"])
            gc.collect()
        assert server.requests == []


def test_a_call_is_a_coroutine_for_every_purpose_of_asyncio(tmp_path):
    async def cell(orch):
        task = asyncio.create_task(orch.run("a"), name="mine")
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(orch.run("b"))
        gathered = await asyncio.gather(orch.run("c"), orch.batch(["d"]))
        waited = await asyncio.wait_for(orch.run("e"), 10)
        async with asyncio.timeout(10):
            timed = await orch.run("f")
        shielded = await asyncio.shield(orch.run("g"))
        done, _ = await asyncio.wait([asyncio.ensure_future(orch.run("h"))])
        return [await task, grouped.result(), gathered[0], gathered[1][0], waited, timed, shielded, done.pop().result()]

    with orchestrator(tmp_path, upper) as orch:
        assert [str(r) for r in asyncio.run(cell(orch))] == list("ABCDEFGH")
        assert asyncio.run(orch.run("i")).output == "I"
        assert asyncio.run(orch.batch(["j"]), debug=True).outputs == ["J"]


def test_a_call_is_awaited_once(tmp_path):
    async def twice(call):
        await call
        with pytest.raises(RuntimeError, match=r"orch\.run: cannot reuse an already awaited call"):
            await call
        assert repr(call) == "<orch.run: started>"

    async def twice_as_a_task(call):
        await asyncio.create_task(call)
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await asyncio.create_task(call)

    async def closed(call):
        call.close()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await call

    with orchestrator(tmp_path, upper) as orch:
        for way in (twice, twice_as_a_task, closed):
            asyncio.run(way(orch.run("a")))


def test_an_error_of_the_input_comes_by_the_await_and_from_start_at_once(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        call = orch.batch("one prompt")
        with pytest.raises(InvalidInput, match="put it in a list"):
            asyncio.run(call)
        for now in (orch.start, orch.batch_sync):
            with pytest.raises(InvalidInput, match="put it in a list"):
                now("one prompt")


# --- as_completed: inputs of any length ------------------------------------------------------------------------------


async def _first(results, count):
    found = []
    async for result in results:
        found.append(result)
        if len(found) == count:
            break
    return found


async def _all(results):
    return [result async for result in results]


async def _until_error(values):
    """Return what came before the error, and the error."""
    seen = []
    try:
        async for value in values:
            seen.append(value)  # noqa: PERF401 - a comprehension would lose those before the error
    except Exception as error:  # noqa: BLE001 - it is what is looked at
        return seen, error
    return seen, None


class Endless:
    """Prompts without an end, counted as they are read."""

    def __init__(self):
        self.read = 0
        self.closed = False

    def __iter__(self):
        try:
            for i in itertools.count():
                self.read += 1
                yield f"prompt {i}"
        finally:
            self.closed = True

    async def __aiter__(self):
        try:
            for i in itertools.count():
                self.read += 1
                yield f"prompt {i}"
                await asyncio.sleep(0)
        finally:
            self.closed = True


class EndlessAsync(Endless):
    __iter__ = None


@pytest.mark.parametrize("kind", [Endless, EndlessAsync], ids=["generator", "async generator"])
def test_an_endless_input_is_read_only_as_far_as_needed_and_left_cleanly(tmp_path, kind):
    prompts = kind()
    seen = []

    async def look(orch):
        async for result in orch.as_completed(prompts):
            seen.append(result)
            assert prompts.read <= len(seen) + 1100  # 1,000 ahead, and the chunk that waits for room
            if len(seen) == 300:
                break
        await asyncio.sleep(0.05)

    with orchestrator(tmp_path, upper) as orch:
        asyncio.run(look(orch))
        assert min(seen, key=lambda r: r.index).output == "PROMPT 0"
        assert all(r.output == f"PROMPT {r.index}" for r in seen)
        assert len({r.index for r in seen}) == 300
        assert comes_to_rest()
        read = prompts.read
        gc.collect()
        assert prompts.closed
        assert prompts.read == read


def test_a_slow_consumer_is_not_overtaken_by_more_than_the_look_ahead(tmp_path):
    prompts = Endless()

    async def look(orch):
        results = orch.as_completed(prompts)
        await anext(results)
        await asyncio.sleep(0.5)
        read = prompts.read
        await results.aclose()
        return read

    with orchestrator(tmp_path, upper) as orch:
        assert asyncio.run(look(orch)) <= 1100
        assert comes_to_rest()


def test_nothing_is_sent_after_the_loop_was_left(tmp_path):
    async def look(orch, server):
        await _first(orch.as_completed(Endless(), concurrency=8), 20)
        await asyncio.sleep(0.2)
        before = len(server.requests)
        await asyncio.sleep(0.3)
        return before

    with ProviderServer(latency=0.01) as server, orchestrator(tmp_path, openai(server)) as orch:
        before = asyncio.run(look(orch, server))
        assert 20 <= before < 60
        assert len(server.requests) == before
        assert server.in_flight == 0
        assert comes_to_rest()


def test_memory_does_not_grow_with_what_was_answered(tmp_path):
    async def look(orch, count):
        sizes, n = [], 0
        async for _ in orch.as_completed(f"prompt {i}" for i in range(count)):
            n += 1
            if n % 1000 == 0:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        return sizes

    with orchestrator(tmp_path, upper) as orch:
        asyncio.run(look(orch, 1000))
        tracemalloc.start()
        try:
            sizes = asyncio.run(look(orch, 8000))
        finally:
            tracemalloc.stop()
        # What is read ahead comes and goes (up to 1 MB); half a kilobyte for each of the 4,000 answers would be 2 MB.
        assert max(sizes[4:]) - max(sizes[:4]) < 500_000, sizes


def test_results_come_as_they_finish_and_not_in_the_order_of_the_input(tmp_path):
    with ProviderServer(script={"slow": "slow:0.4"}) as server, orchestrator(tmp_path, openai(server)) as orch:
        results = asyncio.run(_all(orch.as_completed(["slow", "a", "b"])))
        assert [r.index for r in results][-1] == 0
        assert sorted(r.output for r in results) == sorted(answer_to(p) for p in ("slow", "a", "b"))


def test_a_slow_generator_is_answered_as_it_goes(tmp_path):
    seen = []

    def prompts():
        for i in range(8):
            time.sleep(0.05)
            seen.append(len(outputs))
            yield f"{i}"

    outputs = []

    async def look(orch):
        async for result in orch.as_completed(prompts()):
            outputs.append(result.output)  # noqa: PERF401 - the generator looks at it meanwhile

    with orchestrator(tmp_path, upper) as orch:
        asyncio.run(look(orch))
        assert sorted(outputs) == list("01234567")
        assert seen[-1] >= 3  # long before its end


def test_a_generator_may_go_on_with_what_was_answered(tmp_path):
    """An async input that waits for answers to earlier prompts before it gives the next."""

    async def crawl(orch):
        found = asyncio.Queue()

        async def prompts():
            yield "a"
            for _ in range(4):
                yield await found.get() + "b"

        outputs = []
        async for result in orch.as_completed(prompts()):
            outputs.append(result.output)
            await found.put(result.output.lower())
        return outputs

    with orchestrator(tmp_path, upper) as orch:
        assert asyncio.run(asyncio.wait_for(crawl(orch), 20)) == ["A", "AB", "ABB", "ABBB", "ABBBB"]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_an_error_of_the_input_reaches_the_user_after_the_answers_before_it(tmp_path, kind):
    def prompts():
        yield from (f"prompt {i}" for i in range(250))
        raise KeyError("mine")

    async def prompts_async():
        for prompt in prompts():
            yield prompt

    with orchestrator(tmp_path, upper) as orch:
        results = orch.as_completed(prompts() if kind == "generator" else prompts_async())
        seen, error = asyncio.run(_until_error(results))
        assert sorted(r.index for r in seen) == list(range(250))
        assert repr(error) == "KeyError('mine')"
        assert comes_to_rest()


def test_an_error_of_the_input_is_not_reported_to_who_has_left(tmp_path):
    def prompts():
        yield from (f"prompt {i}" for i in range(300))
        raise KeyError("mine")

    async def look(orch):
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async for _ in orch.as_completed(prompts()):
            await asyncio.sleep(0.2)  # the feeder meets the error meanwhile
            break
        await asyncio.sleep(0.2)
        gc.collect()
        return problems

    with orchestrator(tmp_path, upper) as orch:
        assert asyncio.run(look(orch)) == []


def test_refused_rows_are_yielded_too(tmp_path):
    rows = [{"q": "a"}, {"q": None}, {"q": "c"}, {"q": "\ud800"}]
    with orchestrator(tmp_path, upper) as orch:
        results = asyncio.run(_all(orch.as_completed(iter(rows), prompt="say {q}")))
        assert {r.index: r.status for r in results} == {0: "succeeded", 1: "skipped", 2: "succeeded", 3: "skipped"}
        assert {r.output for r in results if r} == {"SAY A", "SAY C"}


def test_an_endless_input_of_refused_rows_is_left_cleanly(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        found = asyncio.run(_first(orch.as_completed(itertools.repeat("")), 2500))
        assert {r.error for r in found} == {"the prompt is empty"}
        assert comes_to_rest()


def test_frames_are_read_lazily_too_with_their_labels(tmp_path):
    frame = pd.DataFrame({"q": ["a", "b"]}, index=["x", "y"])
    with orchestrator(tmp_path, upper) as orch:
        results = asyncio.run(_all(orch.as_completed(frame, prompt="{q}")))
        assert {r.row: r.output for r in results} == {"x": "A", "y": "B"}


def test_more_samples_than_the_look_ahead_are_no_deadlock(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        results = asyncio.run(asyncio.wait_for(_all(orch.as_completed([f"p{i}" for i in range(60)], samples=50)), 60))
        assert len(results) == 3000
        assert len({(r.index, r.sample) for r in results}) == 3000


@pytest.mark.parametrize("empty", [[], (), iter(()), pd.DataFrame({"prompt": []})], ids=["list", "tuple", "iter", "df"])
def test_nothing_in_is_nothing_out(tmp_path, empty):
    with orchestrator(tmp_path, upper) as orch:
        assert asyncio.run(_all(orch.as_completed(empty))) == []


def test_equal_prompts_of_a_lazy_input_are_asked_once(tmp_path):
    platform = ScriptedPlatform(delay_s=0.005)
    with orchestrator(tmp_path, platform) as orch:
        for turn in range(60):  # a repeat may come at any moment of the first one's life
            results = asyncio.run(_all(orch.as_completed(f"{turn} {i % 7}" for i in range(500))))
            assert len(results) == 500
            assert sum(not r.reused for r in results) == 7
    assert len(platform.prompts) == len(set(platform.prompts)) == 60 * 7


def test_a_wrong_row_in_the_middle_names_itself(tmp_path):
    async def look(orch):
        async for _ in orch.as_completed(iter(["a"] * 150 + [7])):
            pass

    with orchestrator(tmp_path, upper) as orch:
        with pytest.raises(InvalidInput, match="row 150"):
            asyncio.run(look(orch))
        with pytest.raises(InvalidInput, match="'b' is not configured"):
            asyncio.run(_all(orch.as_completed([Task("a", platform="b")])))
        with pytest.raises(InvalidTemplate, match="Did you mean 'name'"):
            asyncio.run(_all(orch.as_completed([{"name": 1}], prompt="{nam}")))
        assert comes_to_rest()


def test_stop_ends_a_lazy_call_at_the_first_failure(tmp_path):
    async def look(orch):
        async for _ in orch.as_completed(Endless(), on_error="stop"):
            pass

    platform = ScriptedPlatform(faults={"^prompt 30$": ["request"]}, delay_s=0.001)
    with orchestrator(tmp_path, platform) as orch:
        with pytest.raises(BatchStopped, match="task 30 failed") as caught:
            asyncio.run(look(orch))
        assert caught.value.result.index == 30
        assert comes_to_rest()


def test_one_model_answers_a_lazy_call_that_must_not_mix(tmp_path):
    free = ScriptedPlatform("free", model="small", models=())
    paid = ScriptedPlatform("paid", model="large", models=(), tier="paid")
    tasks = [Task(f"{i}", platform="paid" if i % 3 == 0 else None) for i in range(300)]
    with orchestrator(tmp_path, free, paid) as orch:
        mixed = asyncio.run(_all(orch.as_completed(tasks)))
        assert {r.model for r in mixed} == {"small", "large"}
        one = asyncio.run(_all(orch.as_completed(tasks, mix=False)))
        assert len({r.model for r in one}) == 1
        assert all(r.success for r in one)
        later = [*[Task(f"x{i}") for i in range(150)], Task("y", model="large")]
        last = max(asyncio.run(_all(orch.as_completed(later, mix=False))), key=lambda r: r.index)
        assert (last.status, last.error_class) == ("failed", "request")
        assert "mix=False: small answers" in last.error


def test_a_ledger_that_cannot_be_read_ends_the_call_with_its_error(tmp_path):
    """The reading of answers breaks in the middle of an input: the call ends, and does not wait for ever."""
    import sqlite3

    broken = []

    class Failing(sqlite3.Connection):
        def execute(self, sql, *rest):
            if broken and "FROM answer_keys" in sql:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *rest)

    def failing(path):
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Failing)

    async def look(orch):
        seen = 0
        async for _ in orch.as_completed(Endless()):
            seen += 1
            if seen == 100:
                broken.append(True)

    assert connect is not failing
    orch = orchestrator(tmp_path, upper)
    engine = open_engine(tmp_path / ".orchestrai", "test", failing)
    try:
        with pytest.raises(LedgerError, match="disk I/O error"):
            asyncio.run(asyncio.wait_for(look(orch), 20))
        with pytest.raises(LedgerError, match="disk I/O error") as caught:
            orch.batch_sync(["a", "b"])
        assert len(caught.value.result) == 2
        broken.clear()
        assert orch.run_sync("a").output == "A"
        assert comes_to_rest()
    finally:
        orch.close()
        close_engine(engine)


# --- streams ---------------------------------------------------------------------------------------------------------


async def _pieces(stream):
    return [piece async for piece in stream]


def test_the_pieces_are_the_answer(tmp_path):
    with (
        ProviderServer(replies="one two  three\n\nfour é 🙂", piece_s=0.001) as server,
        orchestrator(tmp_path, openai(server)) as orch,
    ):
        stream = orch.stream("a")
        assert stream.result is None
        pieces = asyncio.run(_pieces(stream))
        assert len(pieces) > 3
        assert "".join(pieces) == stream.result.output == "one two  three\n\nfour é 🙂"
        assert stream.result.success
        assert stream.result.usage.output_tokens
        assert server.requests[0].json["stream"] is True


def test_a_reused_answer_comes_whole(tmp_path):
    with ProviderServer(replies="one two three") as server, orchestrator(tmp_path, openai(server)) as orch:
        orch.run_sync("a")
        stream = orch.stream("a")
        assert asyncio.run(_pieces(stream)) == ["one two three"]
        assert stream.result.reused
        assert len(asyncio.run(_pieces(orch.stream("a", reuse=False)))) > 1
        assert len(server.requests) == 2


async def _first_piece(stream):
    async for piece in stream:
        return piece
    return None


def test_pieces_come_while_the_answer_is_under_way(tmp_path):
    with (
        ProviderServer(replies=" ".join(["word"] * 500), piece_s=0.1) as server,
        orchestrator(tmp_path, openai(server)) as orch,
    ):
        assert asyncio.run(_first_piece(orch.stream("a"))) == "word"  # the whole would take 50 s
        assert comes_to_rest()


async def _left(orch, how):
    stream = orch.stream("a")
    async for _ in stream:
        break
    if how == "dropped":
        del stream
    elif how == "closed":
        await stream.aclose()
        assert stream.result.status == "cancelled"
    await asyncio.sleep(0.3)
    if how == "held":
        assert stream.result.success


@pytest.mark.parametrize(("how", "kept"), [("held", True), ("dropped", False), ("closed", False)])
def test_leaving_a_stream_early_settles_it(tmp_path, how, kept):
    """Who keeps the stream gets its answer in the end; who drops or closes it ends the request."""
    with (
        ProviderServer(replies="one two three four five six", piece_s=0.02) as server,
        orchestrator(tmp_path, openai(server)) as orch,
    ):
        asyncio.run(_left(orch, how))
        assert comes_to_rest()
        assert orch.run_sync("a").reused is kept
        assert len(server.requests) == (1 if kept else 2)


def test_a_stream_that_fails_raises_after_its_pieces_and_keeps_its_result(tmp_path):
    with (
        ProviderServer(replies="one two three four", script={"cut": "cut_stream", "no": 400}) as server,
        orchestrator(tmp_path, openai(server)) as orch,
    ):
        stream = orch.stream("cut")
        pieces, error = asyncio.run(_until_error(stream))
        assert pieces
        assert "one two three four".startswith("".join(pieces))
        assert isinstance(error, TaskFailed)
        assert error.result is stream.result
        # Another attempt would not continue what was shown already.
        assert (stream.result.success, stream.result.attempts) == (False, 1)
        pieces, error = asyncio.run(_until_error(orch.stream("no")))
        assert pieces == []
        assert error.result.error_class == "request"


def test_a_fault_before_the_first_piece_is_tried_again(tmp_path):
    with ProviderServer(script=[500, "429:0"]) as server, orchestrator(tmp_path, openai(server)) as orch:
        stream = orch.stream("a")
        assert "".join(asyncio.run(_pieces(stream))) == answer_to("a")
        assert (stream.result.attempts, len(server.requests)) == (3, 3)


def test_a_stream_with_a_schema_is_validated(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        stream = orch.stream("a", schema=dict[str, int])
        asyncio.run(_pieces(stream))
        assert isinstance(stream.result.parsed, dict)


def test_a_platform_that_cannot_stream_is_not_asked_to(tmp_path):
    mute = ScriptedPlatform("mute", capabilities=Capabilities(streaming=False))
    able = ScriptedPlatform("able", tier="paid")
    with orchestrator(tmp_path, mute, able) as orch:
        stream = orch.stream("a")
        asyncio.run(_pieces(stream))
        assert stream.result.platform == "able"
    with orchestrator(tmp_path, mute) as orch:
        stream = orch.stream("b")
        with pytest.raises(TaskFailed, match="mute: cannot stream"):
            asyncio.run(_pieces(stream))


def test_a_function_streams_its_answer_in_one_piece(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        assert asyncio.run(_pieces(orch.stream("one two"))) == ["ONE TWO"]


def test_an_unknown_option_names_the_nearest(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        for call in (orch.start, orch.as_completed, orch.batch_sync, orch.stream, orch.run_sync):
            with pytest.raises(TypeError, match=r"'temprature'\. Did you mean 'temperature'"):
                call(["a"], temprature=1)
        for call in (orch.run, orch.batch):
            with pytest.raises(TypeError, match="temprature"):
                call(["a"], temprature=1)


# --- async functions as platforms ------------------------------------------------------------------------------------


def test_an_async_function_is_a_platform_with_its_name(tmp_path):
    class Model:
        async def __call__(self, request):
            return f"{request.system}: {request.messages[-1].text}"

    async def echo(request):
        return request.messages[-1].text

    with orchestrator(tmp_path, echo, Model()) as orch:
        assert orch.run_sync("a", platform="echo").output == "a"
        assert orch.run_sync("a", platform="function", system="Sys").output == "Sys: a"
        assert "echo (echo)" in repr(orch)


def test_what_a_function_does_wrong_fails_its_task_alone(tmp_path):
    async def odd(request):
        text = request.messages[-1].text
        if text == "number":
            return 7
        if text == "raises":
            raise ZeroDivisionError("by zero")
        if text == "typed":
            raise PlatformError("balance", "no money")
        if text == "sleeps":
            await asyncio.sleep(60)
        if text == "half":
            return "\ud800"
        return "fine"

    with orchestrator(tmp_path, odd, attempts=1) as orch:
        res = orch.batch_sync(["number", "raises", "typed", "sleeps", "half", "ok"], timeout_s=0.3)
        assert [r.error_class for r in res] == ["reply", "reply", "balance", "timeout", "reply", None]
        assert "int, not a string" in res[0].error
        assert "ZeroDivisionError: by zero" in res[1].error


def test_what_is_no_platform_is_refused(tmp_path):
    def plain(request):
        return "x"

    for wrong, said in ((plain, "async function"), (7, "no platform"), ("opneai", "Did you mean 'openai'")):
        with pytest.raises(NoPlatform, match=said):
            orchestrator(tmp_path, wrong).run_sync("a")
    with pytest.raises(InvalidInput, match="Two platforms are named 'upper'"):
        orchestrator(tmp_path, upper, upper).run_sync("a")


def test_a_refusal_is_told_in_the_providers_words(tmp_path):
    fault = Fault("status", 400, message="context length exceeded")
    with (
        ProviderServer(script=lambda _: fault) as server,
        orchestrator(tmp_path, openai(server)) as orch,
        pytest.raises(TaskFailed, match="context length exceeded"),
    ):
        orch.run_sync("a")
