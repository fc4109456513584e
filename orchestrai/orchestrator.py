"""The orchestrator: the thin API. Every method delegates."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack

from orchestrai import intake as intake_module
from orchestrai.attachments import Attachment
from orchestrai.engine.batch import Run
from orchestrai.engine.books import RunOptions
from orchestrai.engine.call import Call
from orchestrai.engine.engine import (
    Engine,
    close_engine,
    close_engines,
    give_back_platforms,
    open_engine,
    take_platforms,
)
from orchestrai.engine.loop import EngineLoop, Errand, engine_loop, rare_collections
from orchestrai.engine.prepare import Prepared, Preparer
from orchestrai.errors import BatchStopped, InvalidInput, LedgerError, nearest
from orchestrai.handle import Handle
from orchestrai.intake import Intake
from orchestrai.ledger.queries import newest_quota
from orchestrai.ledger.rows import QuotaRow
from orchestrai.options import CallOptions, OnError, ProgressMode, TaskOptions, check_call, signature_of
from orchestrai.platforms import discovery
from orchestrai.platforms.catalogue import with_settings
from orchestrai.platforms.discovery import Finding
from orchestrai.platforms.listing import PlatformListing
from orchestrai.platforms.protocol import Platform, QuotaReading
from orchestrai.pricing import PriceList
from orchestrai.progress_line import show_progress
from orchestrai.result import Result
from orchestrai.results import frames
from orchestrai.results.batch_result import BatchResult
from orchestrai.routing.offers import Router
from orchestrai.schemas import answer_schema
from orchestrai.settings import Settings, load, project_of
from orchestrai.streams import AnswerStream, completed
from orchestrai.task import TASK_OPTIONS, Effort, Task, TaskType
from orchestrai.version import __version__

T = TypeVar("T")

_CALL_ONLY = ("prompt", "into", "missing", "mix", "concurrency", "on_error", "reuse", "name", "progress")
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

    Raises:
        InvalidSettings: A setting is unknown or of the wrong type.
    """

    def __init__(
        self,
        project: str | Path | None = None,
        *,
        platforms: Sequence[Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        start = Path(project) if project is not None else Path.cwd()
        self.settings: Settings = load(start, settings)
        self.project, _ = project_of(start)
        self._folder = _ledger_folder(project, self.settings)
        self._isolated = project is not None
        self._given = platforms
        self._findings: list[Finding] | None = None
        self._router: Router | None = None
        self._prices = PriceList(self.settings.prices)
        self._engine: Engine | None = None
        self._platforms: tuple[Platform, ...] = ()  # those that are open with it
        self._forgotten: weakref.finalize[..., Orchestrator] | None = None
        self._opening = threading.Lock()
        self._runs: weakref.WeakSet[Run] = weakref.WeakSet()
        self.last_batch: BatchResult | None = None
        """The newest batch of this orchestrator, also after an interrupt."""
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
        type: TaskType | None = None,
        priority: int | None = None,
        tags: Mapping[str, str] | None = None,
        on_error: Literal["raise", "continue"] = "raise",
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
            chain: Chain it belongs to.
            type: Kind of work; orders platforms of equal cost.
            priority: 0 first … 10 last.
            tags: Free labels that reach the ledger.
            on_error: "raise", or "continue" to return a failed Result.
            reuse: False asks again even when the ledger has the answer.

        Returns:
            A coroutine; awaited, the Result.

        Raises:
            TaskFailed: There is no answer; `.result` says why.
            InvalidInput: The prompt or an option cannot be used.
            NoPlatform: Nothing is configured that could answer.
        """
        options = _task_options(locals())
        return Call("orch.run", lambda: self._run(prompt, options, on_error, reuse))

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
        type: TaskType | None = None,
        priority: int | None = None,
        tags: Mapping[str, str] | None = None,
        concurrency: int | None = None,
        on_error: Literal["continue", "stop"] = "continue",
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
            chain: Chain the tasks belong to.
            type: Kind of work; orders platforms of equal cost.
            priority: 0 first … 10 last.
            tags: Free labels that reach the ledger.
            concurrency: Ceiling over all platforms.
            on_error: "stop" cancels the rest at the first failure.
            reuse: False asks again even when the ledger has an answer.
            missing: "skip" leaves rows without a value unsent; "error" refuses the call.
            name: Name of the batch; the same name and tasks continue an unfinished batch.
            progress: "auto" (a text line in a terminal), "text", "off".

        Returns:
            A coroutine; awaited, the BatchResult.

        Raises:
            BatchStopped: A task failed under `on_error="stop"`; `.result` has what was finished.
            InvalidInput: The prompts, the template or an option cannot be used; nothing was sent.
            NoPlatform: Nothing is configured that could answer.
            LedgerError: The ledger cannot be written; `.result` has what was answered.
        """
        given = dict(locals())
        options = _task_options(given)
        call = {name: given[name] for name in _CALL_ONLY}
        return Call("orch.batch", lambda: self._batch(prompts, options, call))

    @signature_of(batch)
    def start(self, prompts: Any, **options: Unpack[CallOptions]) -> Handle:
        """Start a batch in the background and return its handle at once: `h.cancel()`, `h.result`, `await h`.

        Takes every option of `batch` and raises what `batch` raises before anything is sent.
        """
        task_options, call = _split(options)
        run, prepared, intake = self._planned(prompts, task_options, call)
        finish = self._finisher(run, prepared, intake, call)
        self.last_batch = finish()

        async def work() -> None:
            with show_progress(run.progress, call.get("progress") or self.settings.progress):
                await self._settled(run, run.execute(prepared.items, prepared.refused), finish)

        return Handle(run, Errand(engine_loop(), work(), run.stop), finish)

    @signature_of(batch)
    def as_completed(self, prompts: Any, **options: Unpack[CallOptions]) -> AsyncIterator[Result]:
        """Yield results as they finish: `async for r in orch.as_completed(prompts)`.

        The input may be any iterable or async iterable, endless ones too: at most 1,000 prompts are read ahead,
        and no finished result is kept. Leaving the loop ends what is under way. Takes the options of `batch`.

        Returns:
            An async iterator of Results, in the order in which they finish; `Result.index` is their place in the
            input.
        """
        task_options, call = _split(options)
        check_call(call)
        preparer = Preparer(self._routing(), mix=call.get("mix") is not False)
        run_options = self._run_options("as_completed", call)

        def make(on_result: Any) -> Run:
            return self._new_run(run_options, on_result=on_result)

        return completed(
            prompts,
            make,
            preparer,
            prompt=call.get("prompt"),
            missing=call.get("missing") or "skip",
            options=self._with_defaults(task_options),
            stop_at_failure=call.get("on_error") == "stop",
        )

    def stream(self, prompt: Any, *, reuse: bool | None = None, **options: Unpack[TaskOptions]) -> AnswerStream:
        """Answer one prompt piece by piece: `async for text in orch.stream("…")`.

        Takes the task options of `run`. After the last piece `.result` is the settled Result; a stream that ends
        without an answer raises TaskFailed.
        """
        _, task_options = _checked(options, ())
        prepared = Preparer(self._routing(), streaming=True).prepare([self._one_task(prompt, task_options)])
        run_options = self._run_options("stream", {"reuse": reuse})

        def make(on_piece: Any) -> Run:
            return self._new_run(run_options, on_piece=on_piece)

        return AnswerStream(make, prepared)

    @signature_of(run)
    def run_sync(self, prompt: Any, **options: Any) -> Result:
        """Answer one prompt without `await`: from scripts, and from cells whose loop is running."""
        engine_loop().refuse_inside()
        call, task_options = _checked(options, ("on_error", "reuse"))
        on_error = call.get("on_error") or "raise"
        check_call({"on_error": on_error}, on_error=("raise", "continue"))
        return _result_of(self._single(prompt, task_options, call.get("reuse")).wait_sync(), on_error)

    @signature_of(batch)
    def batch_sync(self, prompts: Any, **options: Unpack[CallOptions]) -> BatchResult:
        """Answer many prompts without `await`; an interrupt keeps what is finished in `last_batch`."""
        engine_loop().refuse_inside()
        return self.start(prompts, **options).wait()

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Return the value of any awaitable, from code that cannot await.

        Inside a running loop it runs on a loop of its own, in another thread; an interrupt cancels it there.
        """
        engine_loop().refuse_inside()
        waiting: list[asyncio.Task[Any] | None] = []

        async def value() -> T:
            waiting.append(asyncio.current_task())
            return await awaitable

        try:
            asyncio.get_running_loop()
        except RuntimeError:
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
        with self._opening:
            engine, self._engine = self._engine, None
        if engine is not None:
            assert self._forgotten is not None
            self._forgotten.detach()
            unused = give_back_platforms(self._platforms)
            engine.loop.submit(_close_all(list(self._runs), unused)).result()
            close_engine(engine)

    def _start_anew(self) -> None:
        self._engine = None
        if self._forgotten is not None:
            self._forgotten.detach()
        self._opening = threading.Lock()
        self._runs = weakref.WeakSet()

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

    # How calls are made.

    async def _run(self, prompt: Any, options: dict[str, Any], on_error: str, reuse: bool | None) -> Result:
        check_call({"on_error": on_error}, on_error=("raise", "continue"))
        return _result_of(await self._single(prompt, options, reuse).wait(), on_error)

    def _single(self, prompt: Any, options: dict[str, Any], reuse: bool | None) -> Errand[Result]:
        prepared = Preparer(self._routing()).prepare([self._one_task(prompt, options)])
        run = self._new_run(self._run_options("run", {"reuse": reuse}))

        async def work() -> Result:
            try:
                await run.execute(prepared.items, prepared.refused)
            except LedgerError as error:
                error.result = run.results[0] if run.results else None
                raise
            result = run.results[0]
            assert result is not None
            return result

        return Errand(engine_loop(), work(), run.stop)

    def _one_task(self, prompt: Any, options: dict[str, Any]) -> Task:
        task = intake_module.take_one(prompt, options=self._with_defaults(options))
        if (task.samples or 1) > 1:
            raise InvalidInput("One prompt is answered once here; several samples of it are a batch.")
        return task

    async def _batch(self, prompts: Any, options: dict[str, Any], call: dict[str, Any]) -> BatchResult:
        with rare_collections:
            run, prepared, intake = self._planned(prompts, options, call)
            finish = self._finisher(run, prepared, intake, call)
            errand = Errand(engine_loop(), run.execute(prepared.items, prepared.refused), run.stop)
            with show_progress(run.progress, call["progress"] or self.settings.progress):
                return await self._settled(run, errand.wait(), finish)

    async def _settled(self, run: Run, work: Awaitable[object], finish: Callable[[], BatchResult]) -> BatchResult:
        """Return the result of a batch once its work ends, and keep it however that ends."""
        try:
            await work
        except LedgerError as error:
            error.result = finish()
            raise
        finally:
            result = self.last_batch = finish()
        _raise_if_stopped(run, result)
        return result

    def _planned(self, prompts: Any, options: dict[str, Any], call: Mapping[str, Any]) -> tuple[Run, Prepared, Intake]:
        """Read the whole input and decide what each task is to do; nothing is sent."""
        check_call(call)
        intake = intake_module.take(
            prompts,
            prompt=call.get("prompt"),
            missing=call.get("missing") or "skip",
            options=self._with_defaults(options),
        )
        preparer = Preparer(self._routing(), mix=call.get("mix") is not False)
        frames.check_columns(intake.frame, call.get("into"), preparer.schema(options.get("schema")), intake.columns)
        prepared = preparer.prepare(intake.tasks, refused=intake.refused, labels=intake.labels)
        return self._new_run(self._run_options("batch", call)), prepared, intake

    def _finisher(
        self, run: Run, prepared: Prepared, intake: Intake, call: Mapping[str, Any]
    ) -> Callable[[], BatchResult]:
        """Return what makes the BatchResult of a call, at any time of it."""
        schemas = {task.schema if task.schema.__hash__ else id(task.schema) for task in intake.tasks}
        schema = answer_schema(intake.tasks[0].schema) if len(schemas) == 1 and intake.tasks[0].schema else None
        refused = prepared.refused
        sampled = any((task.samples or 1) > 1 for task in intake.tasks)

        again = {name: call[name] for name in ("mix", "concurrency", "reuse", "progress") if call.get(name) is not None}

        async def retry(tasks: list[Task]) -> list[Result]:
            newest = self.last_batch
            try:
                return list(await self.batch(tasks, **again))
            finally:
                self.last_batch = newest  # the merged result is the caller's; this part of it is nobody's

        def finish() -> BatchResult:
            places = [(i, sample) for i, task in enumerate(intake.tasks) for sample in range(task.samples or 1)]
            so_far = run.results or [refused.get(position) for position in range(len(places))]
            results = [
                result if result is not None else _unfinished(intake, index, sample)
                for (index, sample), result in zip(places, so_far, strict=True)
            ]
            return BatchResult(
                results,
                status=run.status,
                duration_s=run.progress.elapsed_s,
                frame=intake.frame,
                into=call.get("into"),
                schema=schema,
                batch_id=run.books.batch_id,
                name=call.get("name"),
                project=self.project,
                ledger_path=str(self.ledger_path),
                sampled=sampled,
                retry=retry,
            )

        return finish

    def _new_run(self, options: RunOptions, **outlets: Any) -> Run:
        from orchestrai.limits.retry import RetryPolicy  # tenacity is loaded by the first call, not by the import

        retry = RetryPolicy(attempts=self.settings.attempts)
        run = Run(self._opened(), self._prices, retry, options, **outlets)
        self._runs.add(run)
        return run

    def _run_options(self, kind: str, call: Mapping[str, Any]) -> RunOptions:
        reuse = call.get("reuse")
        return RunOptions(
            kind=kind,
            name=call.get("name"),
            project=self.project,
            reuse=self.settings.reuse if reuse is None else reuse,
            on_error="stop" if call.get("on_error") == "stop" else "continue",
            concurrency=call.get("concurrency") or self.settings.concurrency,
            repair_attempts=self.settings.repair_attempts,
            keep_texts=self.settings.keep_texts,
            described={key: value for key, value in call.items() if isinstance(value, str | int | float)},
        )

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"timeout_s": self.settings.timeout_s, **options}

    def _routing(self) -> Router:
        if self._router is None:
            platforms, waiting, barred = discovery.chosen(self.findings)
            missing = {finding.name: finding.why for finding in self.findings if finding.platform is None}
            catalogue = with_settings(self.settings.catalogue)
            self._router = Router(platforms, self._prices, waiting, missing, barred, catalogue)
        return self._router

    def _opened(self) -> Engine:
        with self._opening:
            if self._engine is None:
                if self._isolated:
                    _mark_private(self._folder)
                self._engine = open_engine(self._folder, __version__)
                self._platforms = tuple(f.platform for f in self.findings if f.platform is not None)
                take_platforms(self._platforms)
                self._forgotten = weakref.finalize(self, _let_go, self._engine.loop, self._platforms)
                self._forgotten.atexit = False  # what is there at exit is closed, not let go
            return self._engine


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


def _result_of(result: Result, on_error: OnError | str) -> Result:
    return result.raise_for_failure() if on_error == "raise" else result


def _raise_if_stopped(run: Run, result: BatchResult | None) -> None:
    if run.options.on_error == "stop" and run.first_failure is not None:
        failed = run.first_failure
        raise BatchStopped(f"task {failed.index} failed ({failed.error_class}): {failed.error}", result)


def _unfinished(intake: Intake, index: int, sample: int) -> Result:
    return Result(
        intake.tasks[index],
        status="cancelled",
        error="not finished",
        error_class="cancelled",
        index=index,
        row=intake.labels[index] if intake.labels is not None else None,
        sample=sample,
    )


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


def _let_go(loop: EngineLoop, platforms: tuple[Platform, ...]) -> None:
    """End the connections of an orchestrator that was dropped unclosed; its ledger is closed with the process.

    The garbage collector calls it, in any thread, so it waits for nothing.
    """
    loop.submit(_close_all((), give_back_platforms(platforms)))


async def _close_all(runs: Sequence[Run], platforms: Sequence[Any]) -> None:
    """End what is under way, keep what it has, then end the connections."""
    for run in runs:
        run.stop()
        await run.ended()
    for platform in platforms:
        await platform.close()


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
