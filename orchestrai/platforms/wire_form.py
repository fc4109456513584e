"""The seam between an API platform and the protocol it speaks: a `WireForm` writes requests, an `Answer` takes replies.

A further protocol is one module with these two (`chat_completions`, `responses`), and a platform that names it. Nothing
here sends anything: `api.ApiPlatform` does, once for all protocols.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from orchestrai.errors import InvalidInput, PlatformError
from orchestrai.platforms import wire
from orchestrai.platforms.http import Event, Response
from orchestrai.platforms.protocol import RateLimits, Reply, Request
from orchestrai.result import Usage

if TYPE_CHECKING:
    from yarl import URL


class WireForm(Protocol):
    """How requests of one protocol are written, and what reads its replies; one per platform, without any I/O."""

    def url(self, model: str, *, stream: bool) -> URL:
        """Return the address of a request; asked for each one."""

    def constraint(self, schema: Mapping[str, Any]) -> Any:
        """Return the constraint to a JSON Schema as a JSON value; made once per schema."""

    def body(self, request: Request, *, stream: bool, constraint: Any) -> Mapping[str, Any]:
        """Return the body of a request.

        Args:
            request: What to ask.
            stream: Ask for the answer piece by piece, with the usage in it.
            constraint: What `constraint` made, already in JSON (an `orjson.Fragment`); None without a schema.

        Raises:
            InvalidInput: A file that goes with it cannot be read.
        """

    def answer(self, response: Response, secrets: wire.Secrets) -> Answer:
        """Return what takes a reply with status 200; the body of `response` is empty where it is a stream."""

    def refusal(self, response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
        """Return the typed error of a reply with another status.

        Args:
            response: The reply.
            document: Its body as a JSON value; None when it is none.
            model: The model asked for.
            secrets: Returns what the message must not quote.
        """


class Answer(abc.ABC):
    """What has arrived of one answer: filled at once by a whole reply, event by event by a stream.

    A stream is whole when `ended` is set, or when it ends after `finish` is.
    """

    FINISH: ClassVar[Mapping[str, str]]
    """The provider's words for why the model stopped, and ours: stop, length, filter, tool."""

    __slots__ = (
        "ended",
        "finish",
        "id",
        "model",
        "pieces",
        "refusal",
        "response",
        "secrets",
        "tier",
        "ttft_ms",
        "usage",
    )

    def __init__(self, response: Response, secrets: wire.Secrets) -> None:
        self.response = response
        self.secrets = secrets
        self.pieces: list[str] = []
        self.refusal = ""
        self.finish: Any = None
        self.usage: Any = None
        self.model: Any = None
        self.tier: Any = None
        self.id: Any = None
        self.ttft_ms: float | None = None
        self.ended = False

    @abc.abstractmethod
    def read(self, document: Any) -> None:
        """Take a whole reply.

        Raises:
            PlatformError: It holds an error.
        """

    @abc.abstractmethod
    def event(self, event: Event) -> str:
        """Take one event of a stream and return the text in it (often empty).

        Raises:
            PlatformError: It is an error, or cannot be read.
        """

    @abc.abstractmethod
    def tokens(self) -> Usage:
        """Return the tokens of the usage object as inclusive totals; what is missing or absurd is unknown."""

    @abc.abstractmethod
    def rate_limits(self) -> RateLimits | None:
        """Return what the headers of the reply say of the limits."""

    @property
    def finish_reason(self) -> str | None:
        """stop, length, filter or tool; None when the provider says something else."""
        return self.FINISH.get(self.finish) if isinstance(self.finish, str) else None

    def reply(self) -> Reply:
        """Return what has arrived in the form of the protocol."""
        response = self.response
        return Reply(
            "".join(self.pieces),
            wire.word(self.model),
            self.tokens(),
            self.finish_reason,
            wire.word(self.tier),
            wire.word(self.id),
            wire.request_id(response.headers),
            self.rate_limits(),
            self.ttft_ms,
            wire.kept_usage(self.usage),
            response.status,
        )

    def whole(self) -> Reply:
        """Return the finished answer; an empty text is an answer (reasoning may have used up the whole limit).

        Raises:
            PlatformError: There is no text, because the model refused, was filtered or called a tool; or none or an
                empty one, and nothing says that the limit was reached or that the model stopped.
        """
        if not any(self.pieces):
            finish = self.finish_reason
            if self.refusal:
                raise self.unusable(f"the model refused: {self.refusal}")
            if finish == "filter":
                raise self.unusable("the content filter removed the answer.")
            if finish == "tool":
                raise self.unusable("the model called a tool instead of answering.")
            if finish is None or (not self.pieces and finish != "length"):
                raise self.unusable("the reply holds no text.")
        return self.reply()

    def unusable(self, message: str) -> PlatformError:
        """Return the error of an answer that came, was paid for and cannot be used; it carries what arrived."""
        error = wire.refused(self.response, "reply", message, self.secrets)
        error.reply = self.reply()
        return error

    def json(self, data: bytes) -> dict[str, Any]:
        """Return the JSON object in the data of an event.

        Raises:
            PlatformError: It is none.
        """
        try:
            given = wire.document(data)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise self.unusable("an event of the stream is no JSON object, or was cut.")
        return given


def fenced(name: str, text: str) -> str:
    """Return a text file as a named block, behind a fence that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"File: {' '.join(name.split())}\n{fence}\n{text}{end}{fence}"


def system_text(request: Request) -> str | None:
    """Return the system prompt and the system messages within the conversation, for a protocol that knows only one.

    Raises:
        InvalidInput: One of them holds an image.
    """
    texts = [] if request.system is None else [request.system]
    for message in request.messages:
        if message.role == "system":
            for part in (message.content,) if isinstance(message.content, str) else message.content:
                if not isinstance(part, str) and part.is_image:
                    raise InvalidInput(
                        f"{part.name}: a system message holds text; an image goes into a user's message."
                    )
                texts.append(part if isinstance(part, str) else fenced(part.name, part.text()))
    return "\n\n".join(texts) if texts else None


def add_extra(fields: dict[str, Any], extra: Mapping[str, Any]) -> None:
    """Put a provider's own fields into a body: they win, and what both hold as objects is joined."""
    for name, value in extra.items():
        known = fields.get(name)
        fields[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, Mapping) else value
