"""A model that runs inside this process, without a server and without a network: llama.cpp through xllamacpp.

Every request runs on a daemon thread of its own and is stopped from its streaming callback, so that a cancelled
request stops computing within one batch of tokens, and so do all of them when the process ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import os
import secrets
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import orjson

from orchestrai.errors import InvalidInput, ModelMissing, PlatformError
from orchestrai.platforms import chat_completions, grammars, model_file, wire
from orchestrai.platforms.protocol import Capabilities, DataUse, Reply, Request, Transport
from orchestrai.result import NO_USAGE, Tier

DEMO_MODEL: Final = "smollm2-135m-instruct"
"""The name of the embedded demo model."""

INSTALL: Final = 'pip install "orchestrai[local]"'
FETCH: Final = "orchestrai model fetch"

_DEFAULT_MAX_TOKENS: Final = 256  # small models repeat themselves until something stops them
_DEMO_SAMPLING: Final = {"repeat_penalty": 1.1, "repeat_last_n": 12}
"""Without a penalty the demo model fills open lists and free text with one phrase up to the limit; with llama.cpp's
window of 64 tokens it avoids the words of the prompt, labels among them (38 of 52 right in the demo, not 50)."""
_BATCH_TOKENS: Final = 64  # tokens between two looks at `stop`: 0.7 s of a slow core; larger batches measured no faster
_CONTEXT_STEP: Final = 256  # tokens
_GRACE_S: Final = 2.0  # how long a cancelled request is waited for; only a model that is being loaded takes longer
_LOOK_EVERY_S: Final = 0.1  # for a request that waits for a free slot
_FINISH: Final = {"stop": "stop", "length": "length", "tool_calls": "tool"}


class LocalModel:
    """A GGUF model in this process: by default SmolLM2-135M, a demo model that proves the pipeline.

    It is loaded by the first request (0.3 s for the demo model, during which llama.cpp holds Python's lock) and
    dropped by `close`. Answers are greedy and at most 256 tokens long unless a task says otherwise. Control tokens of
    the model's chat template that stand in a prompt are read as such by llama.cpp.

    Args:
        name: Its name among the configured platforms.
        model: Path of a GGUF file; None is the embedded demo model, or the file that ORCHESTRAI_GGUF names.
        context_tokens: Context window of each request, prompt and answer together [tokens]; rounded up to a multiple
            of 256, as llama.cpp does.
        parallel: Requests computed at once; on one or two cores more of them only share the same speed.
        threads: Threads that compute; None leaves one core to the rest of the process.

    Raises:
        InvalidInput: A number is below 1.
    """

    tier: Tier = "local"
    transport: Transport = "local"
    provider = "local"
    account: str | None = None
    address: str | None = None
    data_use: DataUse = "none"

    def __init__(
        self,
        name: str = "local",
        *,
        model: str | Path | None = None,
        context_tokens: int = 2048,
        parallel: int = 2,
        threads: int | None = None,
    ) -> None:
        for argument, value in (("context_tokens", context_tokens), ("parallel", parallel), ("threads", threads)):
            if value is not None and value < 1:
                raise InvalidInput(f"LocalModel: {argument} is a whole number of at least 1, not {value!r}.")
        self.name = name
        self.concurrency = parallel
        self._file = model_file.named_file() if model in (None, DEMO_MODEL) else Path(str(model)).expanduser()
        self.demo = self._file is None or model_file.is_demo(self._file)
        self.model = DEMO_MODEL if self.demo or self._file is None else self._file.stem
        self._context_tokens = -(-context_tokens // _CONTEXT_STEP) * _CONTEXT_STEP
        self._threads = threads if threads is not None else max(1, _cores() - 1)
        self._slots = threading.BoundedSemaphore(parallel)
        self._loading = threading.Lock()
        self._loaded: _Loaded | None = None
        self._under_way: set[_Job] = set()
        _PLATFORMS.add(self)

    def serves(self, model: str) -> bool:
        """Return True for the one model it holds."""
        return model == self.model

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 - the same for its one model
        """Return that it constrains, streams and limits its answers, and takes text alone."""
        return Capabilities(images=False, effort=False, context_tokens=self._context_tokens)

    def check(self) -> Path:
        """Return the file that would be loaded; nothing is imported or read for it.

        Raises:
            ModelMissing: The file, or the package that runs it, is not on this machine; the message says what to do.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModelMissing(f"xllamacpp is not installed. Run: {INSTALL}" + (f" && {FETCH}" if self.demo else ""))
        path = self._file if self._file is not None else model_file.find_model()
        if path is None:
            size_mb = model_file.SOURCE.download_bytes / 1e6
            raise ModelMissing(
                f"The embedded demo model is not on this machine. Run: {INSTALL} && {FETCH} ({size_mb:.0f} MB, once)"
            )
        if not path.is_file():
            raise ModelMissing(f"{path}: there is no such model file. Correct `model=` or {model_file.VARIABLE}.")
        return path

    async def send(self, request: Request) -> Reply:
        """Answer one request; cancelling stops the computation.

        Raises:
            PlatformError: request: it does not fit the context, holds an image, or its schema is beyond what the
                decoder can constrain; reply: the answer came without its end.
        """
        job = self._begin(request)
        try:
            return _reply(await asyncio.wrap_future(job.outcome))
        finally:
            await job.ended()

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Yield the answer as it is computed, then the Reply; leaving early stops the computation.

        Raises:
            PlatformError: As `send`.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def say(piece: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = self._begin(request, say)
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield _reply(job.outcome.result())
        finally:
            await job.ended()

    async def close(self) -> None:
        """Stop what is being computed and drop the model; a later request loads it again."""
        jobs = tuple(self._under_way)
        for job in jobs:
            job.stop.set()
        for job in jobs:
            await asyncio.wait([asyncio.wrap_future(job.outcome)])
        self._drop()

    def _drop(self) -> None:
        """Free the model: its server ends with the last reference to it."""
        if self._loaded is not None:
            self._loaded.server = None  # the frames of a kept traceback may still hold the rest
            self._loaded = None

    def __repr__(self) -> str:
        return f"LocalModel({self.name!r}, model={self.model!r})"

    def _begin(self, request: Request, say: Callable[[str | None], None] | None = None) -> _Job:
        job = _Job(say)
        self._under_way.add(job)
        if _ENDING.is_set():
            job.stop.set()
        threading.Thread(target=self._run, args=(job, request), name=f"orchestrai-{self.name}", daemon=True).start()
        return job

    def _run(self, job: _Job, request: Request) -> None:
        """Make the answer, on the request's own thread; the job gets an outcome whatever happens."""
        outcome: Reply | PlatformError = PlatformError("reply", f"{self.name}: the model's thread ended early")
        try:
            while not self._slots.acquire(timeout=_LOOK_EVERY_S):
                job.raise_if_stopped()
            try:
                outcome = self._answer(job, request)
            finally:
                self._slots.release()
        except PlatformError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - whatever the native server raises ends this one request
            outcome = PlatformError("reply", f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self._under_way.discard(job)
            job.outcome.set_result(outcome)
            job.tell(None)

    def _answer(self, job: _Job, request: Request) -> Reply:
        job.raise_if_stopped()
        loaded = self._load()
        body = self._body(loaded, request)
        job.raise_if_stopped()
        try:
            loaded.server.handle_chat_completions(body, job.hear)
        except (TypeError, ValueError, RuntimeError) as error:  # how the server refuses a body
            raise PlatformError("request", f"{self.name} refuses the request: {error}") from error
        job.raise_if_stopped()
        return job.reply(self.model)

    def _body(self, loaded: _Loaded, request: Request) -> dict[str, Any]:
        """Return the request as llama.cpp's server takes it.

        Raises:
            PlatformError: request: it cannot be put that way.
        """
        if any(part.is_image for message in request.messages for part in message.images):
            raise PlatformError("request", f"{self.name}: {self.model} takes no images.")
        limited = replace(
            request,
            temperature=request.temperature if request.temperature is not None else 0.0,
            max_tokens=min(request.max_tokens or _DEFAULT_MAX_TOKENS, self._context_tokens),
        )
        try:
            body = chat_completions.body(limited, stream=True, limit_field="max_tokens", response_format=None)
        except InvalidInput as error:  # a text file that changed, or is none
            raise PlatformError("request", str(error)) from error
        if request.choices:
            body["grammar"] = grammars.one_of(request.choices)
        elif request.json_schema is not None:
            body["grammar"] = loaded.json_grammar(request.json_schema)
        sampling = _DEMO_SAMPLING if self.demo and not request.choices else {}
        # Progress is told after every batch of the prompt; without it a long prompt could not be stopped.
        return sampling | body | {"return_progress": True}

    def _load(self) -> _Loaded:
        """Return the loaded model; several threads that need it at once load it once."""
        with self._loading:
            if self._loaded is None:
                try:
                    path = self.check()
                except ModelMissing as error:  # it was there when it was discovered
                    raise PlatformError("request", str(error)) from error
                self._loaded = _Loaded(self._serve(path), self.model)
            return self._loaded

    def _serve(self, path: Path) -> Any:
        """Start llama.cpp's server in this process.

        Source: measured with xllamacpp 2026.10.11549. With libgomp's default spinning, two threads on two busy cores
        were eight times slower per CPU second than one.
        """
        os.environ.setdefault("GOMP_SPINCOUNT", "0")  # read by libgomp when the import below loads it
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = self.concurrency
        params.n_ctx = self._context_tokens * self.concurrency  # it is divided among the slots
        params.n_batch = params.n_ubatch = max(_BATCH_TOKENS, self.concurrency)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.n_gpu_layers = 0  # the same answers on every machine
        params.fit_params = params.ui = params.warmup = False
        params.endpoint_metrics = True  # for the question below
        params.verbosity = -1  # nothing on stderr
        params.cache_ram_mib = 0  # by default it keeps up to 8 GiB of prompts
        # It listens in any case: on loopback, on a free port, behind a key that nobody has.
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [secrets.token_hex(32)]
        try:
            server = xllamacpp.Server(params)
        except RuntimeError as error:  # which does not say why
            raise PlatformError(
                "request", f"{self.name}: {path} cannot be loaded: no whole GGUF file, or too little memory for it."
            ) from error
        # Its loop starts in a thread of its own, and a server that is dropped before that waits for ever, with Python's
        # lock in its hand: the loop forgets that it was told to end. What it has answered shows that it runs.
        server.handle_metrics()
        return server


class _Loaded:
    """A loaded model, with the grammars that were made for its schemas."""

    def __init__(self, server: Any, model: str) -> None:
        self.server = server
        self._model = model
        self._grammars: dict[bytes, str | None] = {}

    def json_grammar(self, schema: Mapping[str, Any]) -> str:
        """Return the grammar of compact JSON that fits the schema.

        Raises:
            PlatformError: request: the decoder cannot constrain it. It ignores in silence what it cannot compile, so
                every new schema is tried with one token (30 ms) behind a mark that only a grammar in force writes.
        """
        key = orjson.dumps(schema)
        if key not in self._grammars:
            tried = (rules for rules in grammars.json_rules(schema) if self._is_in_force(grammars.marked(rules)))
            found = next(tried, None)
            self._grammars[key] = grammars.json_text(found) if found is not None else None
        grammar = self._grammars[key]
        if grammar is None:
            raise PlatformError(
                "request",
                f"the schema cannot be constrained by {self._model}: it has a type, reference or keyword that "
                "llguidance does not know.",
            )
        return grammar

    def _is_in_force(self, grammar: str) -> bool:
        asked = {"prompt": "1", "n_predict": 1, "temperature": 0, "grammar": grammar, "cache_prompt": False}
        said = self.server.handle_completions(asked)
        return any(choice.get("text", "").startswith(grammars.MARK) for choice in said.get("choices", ()))


@dataclass(eq=False, slots=True)
class _Job:
    """One request under way: told to stop by one thread, filled with the answer by another."""

    say: Callable[[str | None], None] | None
    stop: threading.Event = field(default_factory=threading.Event)
    outcome: Future[Reply | PlatformError] = field(default_factory=Future)
    started: float = field(default_factory=time.perf_counter)
    pieces: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)  # what the chunks said beside the text; later words win
    ttft_ms: float | None = None

    def __post_init__(self) -> None:
        self.outcome.set_running_or_notify_cancel()  # from here on cancelling a waiter does not cancel the outcome

    def hear(self, chunk: Mapping[str, Any]) -> bool:
        """Take one chunk of the server's stream; return True to stop it."""
        choice = (chunk.get("choices") or [{}])[0]
        self.told |= {key: chunk[key] for key in ("id", "usage", "error") if chunk.get(key)}
        if choice.get("finish_reason"):
            self.told["finish_reason"] = choice["finish_reason"]
        text = choice.get("delta", {}).get("content")
        if text and not self.stop.is_set():
            if self.ttft_ms is None:
                self.ttft_ms = (time.perf_counter() - self.started) * 1000
            self.pieces.append(text)
            self.tell(text)
        return self.stop.is_set()

    def tell(self, piece: str | None) -> None:
        """Pass a piece, or None at the end, to the loop that reads the stream."""
        if self.say is not None:
            try:
                self.say(piece)
            except RuntimeError:  # that loop is closed: nobody listens
                self.stop.set()

    def raise_if_stopped(self) -> None:
        """Raise when the request was cancelled, whose waiter is gone, or the platform was closed."""
        if self.stop.is_set():
            raise PlatformError("connection", "the platform was closed while it answered.", reply=self._heard(None))

    def reply(self, model: str) -> Reply:
        """Return the whole answer.

        Raises:
            PlatformError: The server refused the request, or the answer has no end.
        """
        error = self.told.get("error")
        if error:
            raise _refusal(error, model)
        heard = self._heard(model)
        if "finish_reason" not in self.told:
            raise PlatformError("reply", "the answer ended without its end mark.", reply=heard)
        return heard

    def _heard(self, model: str | None) -> Reply:
        usage = self.told.get("usage")
        return Reply(
            "".join(self.pieces),
            model=model,
            usage=chat_completions.usage(usage) if usage else NO_USAGE,
            finish_reason=_FINISH.get(self.told.get("finish_reason", "")),
            response_id=self.told.get("id"),
            ttft_ms=self.ttft_ms,
            usage_raw=wire.kept_usage(usage),
        )

    async def ended(self) -> None:
        """Stop the computation if it still runs, and wait until it has."""
        self.stop.set()
        if not self.outcome.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(self.outcome), _GRACE_S)


def _reply(outcome: Reply | PlatformError) -> Reply:
    if isinstance(outcome, PlatformError):
        raise outcome
    return outcome


def _refusal(error: Mapping[str, Any], model: str) -> PlatformError:
    """Return the typed error for an error object of llama.cpp's server."""
    if error.get("type") == "exceed_context_size_error":
        return PlatformError(
            "request",
            f"the prompt has {error.get('n_prompt_tokens')} tokens, but {model} has a context of "
            f"{error.get('n_ctx')} here: shorten it, or use LocalModel(context_tokens=…).",
        )
    code = error.get("code")
    refused = isinstance(code, int) and 400 <= code < 500
    return PlatformError("request" if refused else "reply", f"{model}: {error.get('message', error)}")


_PLATFORMS: Final[weakref.WeakSet[LocalModel]] = weakref.WeakSet()
_ENDING: Final = threading.Event()


@atexit.register
def _end_all() -> None:
    """Bring every thread out of the native code, and end the native threads, while Python is still whole.

    A daemon thread that comes back from C++ into a finalised interpreter aborts the process (before Python 3.14), and
    a server that still computes while the process unloads its libraries makes it crash; a thread that is no daemon
    would keep the process until its answer is complete.
    """
    _ENDING.set()
    platforms = tuple(_PLATFORMS)
    jobs = [job for platform in platforms for job in tuple(platform._under_way)]  # noqa: SLF001 - this module's own
    for job in jobs:
        job.stop.set()
    for job in jobs:
        job.outcome.result()
    for platform in platforms:
        platform._drop()  # noqa: SLF001 - this module's own


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
