"""The orchestrator: the thin API. Every method delegates."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, get_args

from orchestrai.attachments import Attachment
from orchestrai.bridge import Bridge, is_in_loop, wait_nested
from orchestrai.calls import BatchCall, planned, read_batch, refuse_stale
from orchestrai.chains.chain import Chain
from orchestrai.confirmation import Preflight
from orchestrai.engine.batch import Run
from orchestrai.engine.call import Call
from orchestrai.engine.draft import Draft
from orchestrai.engine.engine import (
    Engine,
    close_engine,
    close_engines,
    give_back_platforms,
    open_engine,
    take_platforms,
)
from orchestrai.engine.item import Item
from orchestrai.engine.loop import EngineLoop, Errand, engine_loop, rare_collections
from orchestrai.engine.origins import Origins
from orchestrai.errors import BatchStopped, InvalidInput, LedgerError, OrchestraiError, nearest, shown_as
from orchestrai.explanation import Explanation
from orchestrai.handle import Handle
from orchestrai.ids import now_us
from orchestrai.intake import Intake
from orchestrai.ledger.chain_steps import runs_of_chains
from orchestrai.ledger.chains import chain_of, find_chain
from orchestrai.ledger.history import explanation_of
from orchestrai.ledger.housekeeping import Forgotten
from orchestrai.ledger.queries import newest_quota
from orchestrai.ledger.rows import QuotaRow
from orchestrai.limits.budget import budgets_from
from orchestrai.memory.store import MemoryStore
from orchestrai.memory_calls import Memories, close_stores
from orchestrai.messages import check_characters
from orchestrai.options import (
    CallOptions,
    Confirm,
    ProgressMode,
    TaskOptions,
    check_call,
    signature_of,
)
from orchestrai.overview import Overview, cost_today
from orchestrai.plan import Plan, Quota
from orchestrai.platforms import discovery
from orchestrai.platforms.catalogue import with_settings
from orchestrai.platforms.discovery import Finding
from orchestrai.platforms.listing import PlatformListing
from orchestrai.platforms.protocol import Platform, QuotaReading
from orchestrai.pricing import PriceList
from orchestrai.progress_display import interrupted, open_screen, showing
from orchestrai.progress_view import Watch
from orchestrai.result import Result
from orchestrai.results.batch_result import BatchResult
from orchestrai.routing.explain import sheet
from orchestrai.routing.offers import Router
from orchestrai.routing.windows import configured_windows
from orchestrai.settings import Settings, load, project_of
from orchestrai.streams import AnswerStream, completed
from orchestrai.surroundings import Surroundings
from orchestrai.task import TASK_OPTIONS, Effort, Task, TaskType
from orchestrai.version import __version__

if TYPE_CHECKING:
    from orchestrai.costs.costs import Costs

T = TypeVar("T")

_SPENDING = ("max_cost", "deadline", "confirm")
_CALL_ONLY = ("prompt", "into", "missing", "mix", "concurrency", "on_error", "reuse", "name", "progress", *_SPENDING)
_live: weakref.WeakSet[Orchestrator] = weakref.WeakSet()


class Orchestrator:
    """Sends tasks to the platforms a person has, and records every attempt.

    Making one reads settings only; platforms and the ledger are opened by the first call. Several orchestrators of
    a process on the same ledger share their places at each platform.

    Args:
        project: Folder of a project that is to have a ledger of its own, in `project/.orchestrai`. Without it the
            ledger is the person's, shared by all projects, because quotas belong to accounts.
        platforms: Platforms, async functions `(request) -> str`, or names of built-in platforms; without it, what
            the settings and the environment offer.
        settings: Settings that win over files and environment.
        bridge: How calls without `await` wait inside a running loop: "thread" blocks it and patches nothing; "nest" applies
            `nest_asyncio` to it, for ever, so that it goes on meanwhile (see `orchestrai.bridge`).

    Raises:
        InvalidSettings: A setting is unknown or of the wrong type.
    """

    def __init__(
        self,
        project: str | Path | None = None,
        *,
        platforms: Sequence[Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        bridge: Bridge = "thread",
    ) -> None:
        if bridge not in get_args(Bridge):
            raise InvalidInput(f"bridge is one of {', '.join(get_args(Bridge))}, not {bridge!r}.")
        self._nests = bridge == "nest"
        start = Path(project) if project is not None else Path.cwd()
        self.settings: Settings = load(start, settings)
        self.project, _ = project_of(start)
        self._folder = _ledger_folder(project, self.settings)
        self._isolated = project is not None
        self._given = platforms
        self._findings: list[Finding] | None = None
        self._router: Router | None = None
        self._windows = configured_windows(self.settings.windows)
        self._around = Surroundings(
            self.settings,
            self.project,
            str(self.ledger_path),
            PriceList(self.settings.prices),
            budgets_from(self.settings.budgets, "budgets"),
            lambda: self.findings,
            self._routing,
            self._opened,
        )
        self._preflight = Preflight(self._around)
        self._costs: Costs | None = None
        self.memory = Memories(self._opened, self.settings.memory)
        """Texts that one AI leaves for another: add, get, search, list, delete."""
        self._engine: Engine | None = None
        self._platforms: tuple[Platform, ...] = ()  # those that are open with it
        self._forgotten: weakref.finalize[..., Orchestrator] | None = None
        self._opening = threading.Lock()
        self._closed = False
        self._runs: weakref.WeakSet[Run] = weakref.WeakSet()
        self.last_batch: BatchResult | None = None
        """The newest batch of this orchestrator, also after an interrupt."""
        self.last_plan: Plan | None = None
        """The newest plan, also of a call that was not confirmed."""
        _live.add(self)

    # Calls.

    def run(
        self,
        prompt: Any,
        *,
        system: str | None = None,
        platform: str | Sequence[str] | None = None,
        strict: bool = False,
        model: str | None = None,
        schema: Any = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        files: Sequence[str | Path | Attachment] = (),
        chain: str | None = None,
        parent: Any = None,
        depends_on: Any = None,
        type: TaskType | None = None,
        priority: int | None = None,
        tags: Mapping[str, str] | None = None,
        on_error: Literal["raise", "continue"] = "raise",
        max_cost: Decimal | float | str | None = None,
        deadline: float | datetime | None = None,
        confirm: Confirm | None = None,
        reuse: bool | None = None,
    ) -> Call[Result]:
        """Answer one prompt: `r = await orch.run("…")`.

        Args:
            prompt: A string, a list of messages, or a Task (its own fields win over the options).
            system: System prompt.
            platform: Platform tried first; a tuple is an order.
            strict: With `platform`: never fall back to another.
            model: A requirement: never replaced by another model.
            schema: Pydantic model, dataclass, TypedDict, Literal or JSON Schema dict; the validated value is
                `Result.parsed`.
            max_tokens: Output limit [tokens].
            temperature: Sampling temperature.
            effort: Reasoning effort.
            timeout_s: Wall clock of one attempt [s]; 300 by default.
            extra: `{platform: {field: value}}`, passed to that provider as it is.
            files: Text files and images that go with the prompt.
            chain: Chain it belongs to: its name, or the id of one of its runs.
            parent: Whose answers it works with: Results, ids of tasks or HandoffContexts. Their texts take the place of
                `{parent}` or `{parents}`, or stand at the end of the prompt.
            depends_on: Tasks that have to have succeeded: Results or ids.
            type: Kind of work; orders platforms of equal cost.
            priority: 0 first … 10 last.
            tags: Free labels that reach the ledger.
            on_error: "raise", or "continue" to return a failed Result.
            max_cost: Hard cap on the cash of this call [USD]; 0: nothing that costs cash may run.
            deadline: Seconds or a datetime until which tasks may wait for a quota window to begin anew; past it they are
                "skipped".
            confirm: "auto" asks only when quota, cash or data use call for it; "always", "never".
            reuse: False asks again even when the ledger has the answer.

        Returns:
            A coroutine; awaited, the Result.

        Raises:
            TaskFailed: There is no answer; `.result` says why.
            InvalidInput: The prompt or an option cannot be used.
            NoPlatform: Nothing is configured that could answer.
            ConfirmationNeeded: A person would have to agree first, and nobody could answer.
        """
        given = dict(locals())
        call = {name: given[name] for name in ("on_error", "reuse", *_SPENDING)}
        return Call("orch.run", lambda: self._run(prompt, _task_options(given), call))

    def batch(
        self,
        prompts: Any,
        *,
        prompt: str | None = None,
        into: str | None = None,
        system: str | None = None,
        platform: str | Sequence[str] | None = None,
        strict: bool = False,
        model: str | None = None,
        mix: bool = True,
        schema: Any = None,
        samples: int | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        effort: Effort | None = None,
        timeout_s: float | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        files: Sequence[str | Path | Attachment] = (),
        chain: str | None = None,
        parent: Any = None,
        depends_on: Any = None,
        type: TaskType | None = None,
        priority: int | None = None,
        tags: Mapping[str, str] | None = None,
        concurrency: int | None = None,
        on_error: Literal["continue", "stop"] = "continue",
        max_cost: Decimal | float | str | None = None,
        deadline: float | datetime | None = None,
        confirm: Confirm | None = None,
        reuse: bool | None = None,
        missing: Literal["skip", "error"] = "skip",
        name: str | None = None,
        progress: ProgressMode | None = None,
    ) -> Call[BatchResult]:
        """Answer many prompts in parallel: `res = await orch.batch(df, prompt="…{column}…")`.

        Results come in input order, and one task's failure is its own. An answer is in the ledger before it is
        shown: running the same call again costs nothing for what is finished.

        Args:
            prompts: DataFrame, Series, or an iterable of strings, lists of messages, Tasks or dicts.
            prompt: Template for rows: `{Any column label}` is replaced by the cell's text.
            into: Name of the answer column and prefix of its meta columns; "output" by default.
            system: System prompt.
            platform: Platform tried first; a tuple is an order.
            strict: With `platform`: never fall back to another.
            model: A requirement: never replaced by another model.
            mix: False: one model answers the whole call.
            schema: Pydantic model, dataclass, TypedDict, Literal or JSON Schema dict; one column per field.
            samples: Independent answers per prompt; 1 by default.
            max_tokens: Output limit [tokens].
            temperature: Sampling temperature.
            effort: Reasoning effort.
            timeout_s: Wall clock of one attempt [s]; 300 by default.
            extra: `{platform: {field: value}}`, passed to that provider as it is.
            files: Text files and images that go with each prompt.
            chain: Chain the tasks belong to: its name, or the id of one of its runs.
            parent: Whose answers every task works with: Results, ids of tasks or HandoffContexts. Their texts take the
                place of `{parent}` or `{parents}`, or stand at the end of the prompt. Tasks may name others of the same
                batch as their parents: `Task(…, parent=other)`.
            depends_on: Tasks that have to succeed before any of these starts; of their texts these are given nothing.
            type: Kind of work; orders platforms of equal cost.
            priority: 0 first … 10 last.
            tags: Free labels that reach the ledger.
            concurrency: Ceiling over all platforms.
            on_error: "stop" cancels the rest at the first failure.
            max_cost: Hard cap on the cash of this call [USD]; 0: nothing that costs cash may run.
            deadline: Seconds or a datetime until which tasks may wait for a quota window to begin anew; past it they are
                "skipped".
            confirm: "auto" asks only when quota, cash or data use call for it; "always", "never".
            reuse: False asks again even when the ledger has an answer.
            missing: "skip" leaves rows without a value unsent; "error" refuses the call.
            name: Name of the batch; the same name and tasks continue an unfinished batch.
            progress: "auto" (a panel in a notebook, a text line in a terminal), "widget", "text", "off".

        Returns:
            A coroutine; awaited, the BatchResult.

        Raises:
            BatchStopped: A task failed under `on_error="stop"`; `.result` has what was finished.
            InvalidInput: The prompts, the template or an option cannot be used; nothing was sent.
            NoPlatform: Nothing is configured that could answer.
            ConfirmationNeeded: A person would have to agree first, and nobody could answer; `.plan` says to what.
            NotConfirmed: The person who was asked did not agree.
            LedgerError: The ledger cannot be written; `.result` has what was answered.
        """
        given = dict(locals())
        options = _task_options(given)
        call = {name: given[name] for name in _CALL_ONLY}
        return Call("orch.batch", lambda: self._batch(prompts, options, call))

    @signature_of(batch)
    def plan(self, prompts: Any, **options: Unpack[CallOptions]) -> Plan:
        """Return what a batch would do, and send nothing: who answers what, why, at what cost, out of which quota.

        Takes every option of `batch` and raises what `batch` raises before anything is sent.

        Returns:
            The Plan; it shows itself, `.to_pandas()` takes it apart, `await plan.run()` runs it.
        """
        engine_loop().refuse_inside()
        task_options, call = _split(options)
        batch = self._batch_call(read_batch(self._around, prompts, task_options, call), call)
        self.last_plan = batch.plan(self._drafted(batch).wait_sync())
        return self.last_plan

    @signature_of(batch)
    def start(self, prompts: Any, **options: Unpack[CallOptions]) -> Handle:
        """Start a batch in the background and return its handle at once: `h.cancel()`, `h.result`, `await h`.

        Takes every option of `batch` and raises what `batch` raises before anything is sent; a person is asked in a
        terminal alone.
        """
        task_options, call = _split(options)
        batch = self._batch_call(read_batch(self._around, prompts, task_options, call), call)
        run = batch.run
        draft = self._drafted(batch).wait_sync()
        self.last_plan = batch.plan(draft)
        self._preflight.pass_sync(self.last_plan, call.get("confirm"))
        self.last_batch = batch.finish()

        work = self._settled(batch, run.execute(batch.prepared.items, batch.prepared.refused, draft))
        errand = Errand(engine_loop(), work, run.stop)
        watch = self._watch(run)
        screen = open_screen(watch, call.get("progress") or self.settings.progress, errand.stop, keep=True)
        return Handle(run, errand, batch.finish, watch, screen)

    @signature_of(batch)
    def as_completed(self, prompts: Any, **options: Unpack[CallOptions]) -> AsyncIterator[Result]:
        """Yield results as they finish: `async for r in orch.as_completed(prompts)`.

        The input may be any iterable or async iterable, endless ones too: at most 1,000 prompts are read ahead,
        and no finished result is kept. Leaving the loop ends what is under way. Takes the options of `batch`; quotas
        and `max_cost` hold, but nothing is asked, as nobody knows how much there is to come.

        Returns:
            An async iterator of Results, in the order in which they finish; `Result.index` is their place in the
            input.
        """
        task_options, call = _split(options)
        check_call(call)
        return completed(
            prompts,
            lambda on_result: self._new_run("as_completed", call, on_result=on_result),
            self._around.preparer(),
            prompt=call.get("prompt"),
            missing=call.get("missing") or "skip",
            options=self._around.with_defaults(task_options),
            stop_at_failure=call.get("on_error") == "stop",
        )

    def stream(
        self,
        prompt: Any,
        *,
        max_cost: Decimal | float | str | None = None,
        reuse: bool | None = None,
        **options: Unpack[TaskOptions],
    ) -> AnswerStream:
        """Answer one prompt piece by piece: `async for text in orch.stream("…")`.

        Takes the task options of `run`, `max_cost` and `reuse`. After the last piece `.result` is the settled Result; a
        stream that ends without an answer raises TaskFailed.
        """
        _, task_options = _checked(options, ())
        task = self._around.one_task(prompt, task_options)
        prepared = self._around.preparer(streaming=True).prepare([task])
        call = {"max_cost": max_cost, "reuse": reuse}
        check_call(call)
        return AnswerStream(lambda on_piece: self._new_run("stream", call, on_piece=on_piece), prepared)

    @signature_of(run)
    def run_sync(self, prompt: Any, **options: Any) -> Result:
        """Answer one prompt without `await`: from scripts, and from cells whose loop is running."""
        engine_loop().refuse_inside()
        if self._nests and is_in_loop():
            return wait_nested(self.run(prompt, **options))
        call, task_options = _checked(options, ("on_error", "reuse", *_SPENDING))
        run, work = self._single(prompt, task_options, call)
        draft = Errand(engine_loop(), run.draft(work.items)).wait_sync()
        self._preflight.pass_sync(self._plan_of_one(run, draft, work), call.get("confirm"))
        return _result_of(Errand(engine_loop(), work.done(draft), run.stop).wait_sync(), call)

    @signature_of(batch)
    def batch_sync(self, prompts: Any, **options: Unpack[CallOptions]) -> BatchResult:
        """Answer many prompts without `await`; an interrupt keeps what is finished in `last_batch`."""
        engine_loop().refuse_inside()
        if self._nests and is_in_loop():
            return wait_nested(self.batch(prompts, **options))  # type: ignore[arg-type]  # its options are checked by it
        return self.start(prompts, **options).wait()

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Return the value of any awaitable, from code that cannot await.

        Inside a running loop it runs on a loop of its own, in another thread; an interrupt cancels it there.
        """
        engine_loop().refuse_inside()
        if self._nests and is_in_loop():
            return wait_nested(awaitable)
        waiting: list[asyncio.Task[Any] | None] = []

        async def value() -> T:
            waiting.append(asyncio.current_task())
            return await awaitable

        if not is_in_loop():
            return asyncio.run(value())
        from concurrent.futures import ThreadPoolExecutor
        from contextvars import copy_context

        with ThreadPoolExecutor(1, thread_name_prefix="orchestrai-wait") as thread:
            done = thread.submit(copy_context().run, asyncio.run, value())
            try:
                return done.result()
            except KeyboardInterrupt:
                for task in waiting:
                    if task is not None:
                        task.get_loop().call_soon_threadsafe(task.cancel)
                raise

    # Chains.

    def chain(self, name: str, *, new: bool = False) -> Chain:
        """Return the newest run of a chain in this project, from whatever kernel it was begun; made where there is none.

        Args:
            name: Name of the chain, or the id of one of its runs.
            new: Begin a new run of it.

        Raises:
            InvalidInput: The name is empty, or the ledger keeps no texts.
            LedgerError: The ledger cannot be used.
        """
        if not isinstance(name, str) or not name.strip():
            raise InvalidInput(f"A chain has a name, a text that is not empty; not {name!r}.")
        check_characters("The name of a chain", name)
        if not self.settings.keep_texts:
            raise InvalidInput("Chains hand texts on, and keep_texts = false keeps none. Turn it on in the settings.")
        ledger, project = self._opened().ledger, self.project
        row = None if new else ledger.read(lambda c: find_chain(c, name, project))
        if row is None:
            now = now_us()
            row = ledger.file.write(lambda c: chain_of(c, name, project, now, new=new))
        return Chain(row, self, self._opened)

    def chains(self) -> list[dict[str, Any]]:
        """Return every run of every chain in the ledger, the newest first.

        Returns:
            For each run `chain_id, name, project, created_at` [µs since 1970], `tasks` (asked), `attempts`, `depth`,
            `cost, list_cost` [pico-USD], `unpriced` (requests of unknown cost), `last_at` [µs since 1970].
        """
        return self._opened().ledger.read(runs_of_chains)

    @property
    def origins(self) -> Origins:
        """What looks up parents in the ledger, for those who spawn children."""
        return self._around.origins()

    def continue_each(self, batch: BatchResult, prompt: str, options: dict[str, Any]) -> Call[BatchResult]:
        """Answer one prompt for each result of a batch; `Chain.map` is the way in."""
        task_options, call = _split(options)
        call = {**dict.fromkeys(_CALL_ONLY), **call}
        frame = batch.frame
        if frame is None:
            rows, call["prompt"] = [prompt] * len(batch), None
            return Call("chain.map", lambda: self._batch(rows, task_options, call, [*batch]))
        return Call("chain.map", lambda: self._batch(frame, task_options, {**call, "prompt": prompt}, [*batch]))

    # What there is.

    @property
    def findings(self) -> list[Finding]:
        """What was found of each platform, and why the others were not."""
        if self._findings is None:
            self._findings = discovery.find(self.settings, self._given)
        return self._findings

    @property
    def platforms(self) -> PlatformListing:
        """Every platform, found or not and why: model, tier, version, login, limits, quota left, data use."""
        told: list[QuotaRow] = []
        if self.ledger_path.exists():
            with contextlib.suppress(LedgerError):  # the next call says what is wrong with it
                told = self._opened().ledger.read(newest_quota)
        return PlatformListing(self.findings, [(row.platform, row.account, QuotaReading(*row[2:])) for row in told])

    @property
    def quota(self) -> Quota:
        """The meters of every quota window and budget: used, reserved, of how much, until when, and who says so."""
        return self._around.quota()

    @property
    def costs(self) -> Costs:
        """What was spent, saved and waited for: questions, plots, SQL, exports, and what is to be forgotten."""
        if self._costs is None:
            from orchestrai.costs.costs import Costs

            self._costs = Costs(lambda: self._opened().ledger, self._around.prices)
        return self._costs

    def explain(self, result: Result | str) -> Explanation:
        """Return every attempt, wait, route and price of one task.

        Args:
            result: Its result, or its id in the ledger.

        Raises:
            InvalidInput: The result was never recorded, because its task was never sent.
            LedgerError: The ledger cannot be read.
        """
        task_id = result if isinstance(result, str) else result.task_id
        if task_id is None:
            assert isinstance(result, Result)
            raise InvalidInput(f"This task was never sent, so the ledger knows nothing of it: {result.error}")
        return self._opened().ledger.read(lambda c: explanation_of(c, task_id))

    def calls(self, since_us: int) -> list[dict[str, Any]]:
        """Return the calls under way in every process that shares the ledger, and those begun since a moment.

        Args:
            since_us: The moment [µs since 1970].

        Raises:
            LedgerError: The ledger cannot be read.
        """
        return self._opened().ledger.calls_since(since_us)

    def resumable(self, batch: str | None = None) -> dict[str, Any] | None:
        """Return the batch that `orchestrai resume` would go on with, or None.

        Args:
            batch: Its id or name; None for the newest of a shell that ended without all its answers.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        return self._opened().ledger.resumable(batch)

    def forget(
        self,
        *,
        task: Result | str | None = None,
        batch: BatchResult | str | None = None,
        tag: Mapping[str, str] | str | None = None,
    ) -> Forgotten:
        """Remove the texts of a task, a batch or a tag from the ledger for good; what they cost stays on record.

        Prompts, answers, errors and templates go, with system prompts that nothing else uses and the memories that these
        answers are; also the texts of earlier tasks whose answers were reused here, as they are the same. They are
        overwritten in the file. What is forgotten is asked again, not reused. `keep_texts = false` keeps none from the start.

        Args:
            task: Its id, or its result.
            batch: Its id, its name (every batch of that name), or its result.
            tag: `{"team": "red"}` or `"team=red"`.

        Returns:
            How many `prompts` and `answers` were removed.

        Raises:
            InvalidInput: Not exactly one is named, or the ledger knows nothing of it.
            LedgerError: The ledger cannot be written; the same call again goes on.
        """
        return self.costs.forget(task, batch, tag)

    def read_quota(self) -> None:
        """Ask the clients of plans how much of them is left, so that `platforms` shows it; no model is asked.

        What replies and refusals tell is kept anyway. Called from a loop of its own or none, as the sync calls.

        Raises:
            LedgerError: What was told cannot be recorded.
        """
        from orchestrai.engine.quota import read_quota

        found = [finding.platform for finding in self.findings if finding.platform is not None]
        Errand(engine_loop(), read_quota(self._opened(), found)).wait_sync()

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is, or will be."""
        return self._folder / "ledger.db"

    def close(self) -> None:
        """End connections, make everything durable and let go of the ledger; closing twice is harmless."""
        if self._engine is not None:
            self._engine.loop.refuse_inside()
        if self._costs is not None:
            self._costs.close()
        with self._opening:
            engine, self._engine = self._engine, None
            self._closed = True
        if engine is not None:
            assert self._forgotten is not None
            self._forgotten.detach()
            unused = give_back_platforms(self._platforms)
            engine.loop.submit(_close_all(list(self._runs), unused, self.memory.stores)).result()
            close_engine(engine)

    def _start_anew(self) -> None:
        self._engine = None
        if self._forgotten is not None:
            self._forgotten.detach()
        self._opening = threading.Lock()
        self._runs = weakref.WeakSet()
        if self._costs is not None:
            self._costs.start_anew()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def __repr__(self) -> str:
        try:
            names = ", ".join(f"{f.name} ({f.platform.model})" for f in self.findings if f.platform is not None)
        except Exception as error:  # noqa: BLE001 - a traceback with locals may show it half made; a repr never raises
            return f"<Orchestrator: not ready ({type(error).__name__})>"
        return f"<Orchestrator: {names or 'no platform'}; ledger {self.ledger_path}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's protocol
        try:
            findings = self.findings
        except OrchestraiError as error:  # a mistake in the settings: the next call raises it
            return {"text/plain": f"<Orchestrator: not ready: {error}>"}
        quota, today = Quota((), ()), "$0.00, no request yet"
        if self.ledger_path.exists():  # looking does not make one
            try:
                quota, today = self.quota, self._opened().ledger.read(cost_today)
            except LedgerError as error:
                today = f"unknown: {error}"
        shown = Overview(findings, quota, today, str(self.ledger_path))
        return {"text/plain": shown.as_text(), "text/html": shown.as_html()}

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_") or name.startswith("__")]

    # How calls are made.

    async def _run(self, prompt: Any, options: dict[str, Any], call: Mapping[str, Any]) -> Result:
        run, work = self._single(prompt, options, call)
        draft = await Errand(engine_loop(), run.draft(work.items)).wait()
        await self._preflight.pass_(self._plan_of_one(run, draft, work), call.get("confirm"))
        return _result_of(await Errand(engine_loop(), work.done(draft), run.stop).wait(), call)

    def _single(self, prompt: Any, options: dict[str, Any], call: Mapping[str, Any]) -> tuple[Run, _One]:
        check_call({**call, "on_error": call.get("on_error") or "raise"}, on_error=("raise", "continue"))
        prepared = self._around.preparer().prepare([self._around.one_task(prompt, options)])
        run = self._new_run("run", {**call, "on_error": None})
        return run, _One(run, prepared.items, prepared.refused)

    def _plan_of_one(self, run: Run, draft: Draft, work: _One) -> Plan:
        plan = planned(self._around, run, draft, sheet(draft.fresh, draft.reused, draft.copies, work.refused, 1))
        self.last_plan = plan if plan.questions else self.last_plan
        return plan

    async def _batch(
        self, prompts: Any, options: dict[str, Any], call: dict[str, Any], parents: Sequence[Result] | None = None
    ) -> BatchResult:
        with rare_collections:
            batch = self._batch_call(read_batch(self._around, prompts, options, call, parents), call)
            try:
                draft = await self._drafted(batch).wait()
                self.last_plan = batch.plan(draft)
                await self._preflight.pass_(self.last_plan, call["confirm"])
            except BaseException:  # whatever it was, it goes on, and the newest batch is one of which nothing was sent
                self.last_batch = batch.finish()
                raise
            return await self._executed(batch, draft)

    def _drafted(self, batch: BatchCall) -> Errand[Draft]:
        async def draft() -> Draft:
            try:
                return await batch.run.draft(batch.prepared.items)
            except LedgerError as error:
                error.result = batch.finish()
                raise

        return Errand(engine_loop(), draft())

    async def _executed(self, batch: BatchCall, draft: Draft) -> BatchResult:
        """Run a batch whose draft has passed."""
        run, prepared = batch.run, batch.prepared
        errand = Errand(engine_loop(), run.execute(prepared.items, prepared.refused, draft), run.stop)
        with showing(self._watch(run), batch.call.get("progress") or self.settings.progress, errand.stop):
            return await self._settled(batch, errand.wait())

    async def _settled(self, batch: BatchCall, work: Awaitable[object]) -> BatchResult:
        """Return the result of a batch once its work ends, and keep it however that ends."""
        try:
            await work
        except LedgerError as error:
            error.result = batch.finish()
            raise
        except asyncio.CancelledError as error:
            shown_as(error, interrupted(batch.run.progress))
            raise
        finally:
            result = self.last_batch = batch.finish()
        _raise_if_stopped(batch.run, result)
        return result

    def _watch(self, run: Run) -> Watch:
        return Watch(run, lambda: self._around.quota(run.engine))

    def _batch_call(self, intake: Intake, call: Mapping[str, Any]) -> BatchCall:
        batch = BatchCall(self._around, intake, call, self._again, self._run_plan)
        self._runs.add(batch.run)
        return batch

    async def _again(self, tasks: list[Task], call: Mapping[str, Any]) -> BatchResult:
        newest = self.last_batch
        again = await self.batch(tasks, **call)
        self.last_batch = newest  # the merged result is the caller's; interrupted, this part of it is all there is
        return again

    async def _run_plan(self, made: BatchCall, plan: Plan) -> BatchResult:
        """Run what a plan says, made anew from the same input: what has changed since is seen before anything is sent."""
        with rare_collections:
            batch = self._batch_call(made.intake, made.call)
            draft = await self._drafted(batch).wait()
            refuse_stale(plan, batch.plan(draft))
            return await self._executed(batch, draft)

    def _new_run(self, kind: str, call: Mapping[str, Any], **outlets: Any) -> Run:
        run = self._around.run(kind, call, **outlets)
        self._runs.add(run)
        return run

    def _routing(self) -> Router:
        if self._router is None:
            platforms, waiting, barred = discovery.chosen(self.findings)
            missing = {finding.name: finding.why for finding in self.findings if finding.platform is None}
            catalogue = with_settings(self.settings.catalogue)
            plans = {finding.name: finding.plan for finding in self.findings if finding.plan is not None}
            prices = self._around.prices
            self._router = Router(platforms, prices, waiting, missing, barred, catalogue, plans, self._windows)
        return self._router

    def _opened(self) -> Engine:
        with self._opening:
            if self._engine is None:
                if self._isolated:
                    _mark_private(self._folder)
                self._engine = open_engine(self._folder, __version__)
                self._closed = False
                self._platforms = tuple(f.platform for f in self.findings if f.platform is not None)
                take_platforms(self._platforms)
                self._forgotten = weakref.finalize(
                    self, _let_go, self._engine.loop, self._platforms, self.memory.stores
                )
                self._forgotten.atexit = False  # what is there at exit is closed, not let go
            return self._engine


class _One:
    """A call of one task.

    Args:
        run: The call.
        items: Its task, unless it is refused.
        refused: The result where it is.
    """

    def __init__(self, run: Run, items: list[Item], refused: Mapping[int, Result]) -> None:
        self.items = items
        self.refused = refused
        self._run = run

    async def done(self, draft: Draft) -> Result:
        """Run it and return its result."""
        run = self._run
        try:
            await run.execute(self.items, self.refused, draft)
        except LedgerError as error:
            error.result = run.results[0] if run.results else None
            raise
        result = run.results[0]
        assert result is not None
        return result


def _task_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task options that were really given, out of a method's arguments."""
    return {
        name: given[name]
        for name in TASK_OPTIONS
        if given.get(name) is not None and given[name] is not False and given[name] != ()
    }


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return task options and options of the call.

    Raises:
        TypeError: An option is unknown.
    """
    call, task_options = _checked(options, _CALL_ONLY)
    return task_options, call


def _checked(options: Mapping[str, Any], call_only: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    known = {*call_only, *TASK_OPTIONS}
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected option {name!r}.{nearest(name, known)}")
    return {name: options[name] for name in call_only if name in options}, _task_options(options)


def _result_of(result: Result, call: Mapping[str, Any]) -> Result:
    return result if call.get("on_error") == "continue" else result.raise_for_failure()


def _raise_if_stopped(run: Run, result: BatchResult | None) -> None:
    if run.options.on_error == "stop" and run.first_failure is not None:
        failed = run.first_failure
        raise BatchStopped(f"task {failed.index} failed ({failed.error_class}): {failed.error}", result)


def _ledger_folder(project: str | Path | None, settings: Settings) -> Path:
    if project is not None:
        return Path(project).expanduser().absolute() / ".orchestrai"
    if settings.data_dir is not None:
        return Path(settings.data_dir).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("orchestrai", appauthor=False))


def _mark_private(folder: Path) -> None:
    """Keep a project's ledger out of its repository."""
    ignore = folder / ".gitignore"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not ignore.exists():
            ignore.touch(mode=0o600)
            ignore.write_text("*\n", encoding="utf-8")
    except OSError:
        return  # opening the ledger says what is wrong with the folder


def _let_go(loop: EngineLoop, platforms: tuple[Platform, ...], stores: list[MemoryStore]) -> None:
    """End the connections of an orchestrator that was dropped unclosed; its ledger is closed with the process.

    The garbage collector calls it, in any thread, so it waits for nothing.
    """
    loop.submit(_close_all((), give_back_platforms(platforms), stores))


async def _close_all(runs: Sequence[Run], platforms: Sequence[Any], stores: list[MemoryStore]) -> None:
    """End what is under way, keep what it has, then end the connections."""
    for run in runs:
        run.stop()
        await run.ended()
    await close_stores(stores)
    for platform in platforms:
        await platform.close()


def open_orchestrators() -> list[Orchestrator]:
    """Return the orchestrators of this process that are not closed and have a ledger."""
    found = [one for one in list(_live) if not one._closed and one.ledger_path.exists()]  # noqa: SLF001 - of this module
    return sorted(found, key=lambda one: one._engine is None)  # noqa: SLF001 - of this module


def _forget() -> None:
    """Give every orchestrator of a forked child a ledger of its own, at its next call."""
    for orchestrator in list(_live):
        orchestrator._start_anew()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _close_at_exit() -> None:
    for orchestrator in list(_live):
        orchestrator.close()
    close_engines()
