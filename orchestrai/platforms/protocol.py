"""What a platform is: one request in, one reply or one typed error out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from orchestrai.messages import Message
from orchestrai.result import NO_USAGE, Tier, Usage

Transport = Literal["api", "cli", "local"]
DataUse = Literal["none", "may_train", "unknown"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a platform can do; a task that needs more is not offered to it.

    Args:
        schema: It can constrain the answer to a JSON Schema.
        images: It accepts images.
        streaming: It can send the answer piece by piece.
        output_limit: It enforces `max_tokens`.
        temperature: It accepts `temperature`.
        effort: It accepts `effort`.
        context_tokens: Size of its context window [tokens]; None when unknown.
    """

    schema: bool = True
    images: bool = False
    streaming: bool = True
    output_limit: bool = True
    temperature: bool = True
    effort: bool = True
    context_tokens: int | None = None


@dataclass(slots=True)  # not frozen: one is made for every attempt, and a frozen one costs three times as much
class Request:
    """One request, complete and ready to be put on a wire.

    Args:
        messages: The conversation without the system prompt; attached files are parts of the last user message.
        model: The model asked for, as the provider names it.
        system: System prompt.
        max_tokens: Output limit [tokens].
        temperature: Sampling temperature.
        effort: Reasoning effort: minimal, low, medium, high.
        json_schema: Constrain the answer to this JSON Schema; its root is always an object.
        choices: Constrain the answer to one of these strings, where the platform can do that more cheaply than
            by `json_schema`, which is then set too.
        extra: Fields of this provider, put into the body as they are.
        timeout_s: Wall clock that the engine gives this attempt [s].
        attempt_id: Id of the attempt in the ledger.
    """

    messages: tuple[Message, ...]
    model: str
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    effort: str | None = None
    json_schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 300.0
    attempt_id: str = ""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a reply's headers say of the limits; None where they say nothing.

    Args:
        requests_limit: Requests allowed in the window.
        requests_left: Requests left in it.
        requests_reset_s: Until it is full again [s].
        tokens_limit: Tokens allowed in the window.
        tokens_left: Tokens left in it.
        tokens_reset_s: Until it is full again [s].
    """

    requests_limit: int | None = None
    requests_left: int | None = None
    requests_reset_s: float | None = None
    tokens_limit: int | None = None
    tokens_left: int | None = None
    tokens_reset_s: float | None = None


@dataclass(frozen=True, slots=True)
class QuotaReading:
    """What an account's quota window was told to be, by whom and when.

    Args:
        window: The window in the provider's own word: five_hour, seven_day, primary, …
        used_percent: How much of it is used [0-100]; None when it was not told.
        resets_at: When it is empty again [µs since 1970, UTC]; None when it was not told.
        source: Who told it: `rate_limit_event`, `app-server`, `error text`, …
        observed_at: When it was told [µs since 1970, UTC].
    """

    window: str
    used_percent: float | None
    resets_at: int | None
    source: str
    observed_at: int


@dataclass(slots=True)  # as Request
class Reply:
    """One answer, with everything the provider said about it.

    Args:
        text: The answer.
        model: The model that answered, as the provider names it; None when it does not say.
        usage: Tokens, normalised to inclusive totals.
        finish_reason: stop, length, filter or tool; None when the provider does not say.
        service_tier: The tier the provider really served, in its own word.
        response_id: The provider's id of the answer.
        request_id: The provider's id of the request, for its support.
        rate_limits: What the headers said; None without any.
        ttft_ms: Time to the first token of a stream [ms].
        usage_raw: The provider's usage object as it came, as JSON.
        http_status: Status of the reply.
        quota: Quota windows as the reply tells them.
    """

    text: str
    model: str | None = None
    usage: Usage = NO_USAGE
    finish_reason: str | None = None
    service_tier: str | None = None
    response_id: str | None = None
    request_id: str | None = None
    rate_limits: RateLimits | None = None
    ttft_ms: float | None = None
    usage_raw: str | None = None
    http_status: int | None = None
    quota: tuple[QuotaReading, ...] = ()


@runtime_checkable
class Platform(Protocol):
    """A place that answers, with one account.

    An adapter is thin: `send` makes exactly one request and returns a `Reply` or raises
    `orchestrai.errors.PlatformError` with its kind. It retries nothing, prices nothing and routes nothing;
    cancelling it ends the request and leaves nothing behind. All of its methods run on the engine's loop.
    """

    @property
    def name(self) -> str:
        """The name it is asked for by; unique among the configured platforms."""

    @property
    def tier(self) -> Tier:
        """Who pays: free, subscription, paid (per token), local."""

    @property
    def model(self) -> str:
        """The model used when a task names none."""

    @property
    def provider(self) -> str:
        """Whose prices and tokenizers apply, in the words of genai-prices: openai, anthropic, google, …"""

    @property
    def transport(self) -> Transport:
        """How it is reached: api, cli or local."""

    @property
    def account(self) -> str | None:
        """A short hash that tells accounts apart; never the key."""

    @property
    def address(self) -> str | None:
        """Host and port that requests go to; None for local and cli platforms."""

    @property
    def concurrency(self) -> int:
        """Requests it is given at once, unless a call says otherwise."""

    @property
    def demo(self) -> bool:
        """True for the embedded demo model, whose answers prove the pipeline and nothing more."""

    @property
    def data_use(self) -> DataUse:
        """What its plan lets the provider do with the data."""

    def serves(self, model: str) -> bool:
        """Return True when it can be asked for this model."""

    def capabilities(self, model: str) -> Capabilities:
        """Return what it can do with this model."""

    async def send(self, request: Request) -> Reply:
        """Make one request and return its reply.

        Raises:
            PlatformError: With its kind; nothing else but CancelledError leaves an adapter.
        """

    def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Make one request and yield the answer's pieces as they come, then the complete Reply.

        Raises:
            PlatformError: As `send`; after pieces were yielded it carries what arrived.
        """

    async def close(self) -> None:
        """End connections and child processes."""
