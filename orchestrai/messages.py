"""Messages: the one form in which a prompt reaches a platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from orchestrai import attachments
from orchestrai.attachments import Attachment
from orchestrai.errors import InvalidInput, InvalidPrompt, nearest

Role = Literal["system", "user", "assistant"]
Part = str | Attachment
"""A part of a message: text, or an image or file."""

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `content` is a string, or parts in order."""

    role: Role
    content: str | tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text of the message, its parts joined by line breaks, images left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part for part in self.content if isinstance(part, str))

    @property
    def images(self) -> tuple[Attachment, ...]:
        """The images of the message, in order."""
        return () if isinstance(self.content, str) else tuple(p for p in self.content if isinstance(p, Attachment))


Prompt = str | tuple[Message, ...]
"""A prompt after checking: plain text (one user message), or messages."""


def prompt_from(value: Any, where: str = "prompt") -> Prompt:
    """Return the prompt in its checked form.

    Args:
        value: A string, or a list of messages `{"role", "content"}` where content is a string or a list of
            parts: strings, `{"type": "text", "text": …}`, `{"type": "image", "image": path | bytes | PIL}`,
            `{"type": "image_url", "image_url": {"url": "data:…"}}`.
        where: What to call it in an error ("prompt of row 3").

    Raises:
        InvalidPrompt: It is something else; the message says where and what to write instead.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Message):
        return (value,)
    if isinstance(value, Mapping):
        raise InvalidPrompt(f"{where}: a message stands in a list: [{{'role': 'user', 'content': …}}].")
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        if not value:
            raise InvalidPrompt(f"{where}: the list of messages is empty.")
        return tuple(_message(message, f"{where}, message {i}") for i, message in enumerate(value))
    raise InvalidPrompt(f"{where}: a prompt is a string or a list of messages, not {type(value).__name__}.")


def _message(value: Any, where: str) -> Message:
    if isinstance(value, Message):
        return value
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        raise InvalidPrompt(f"{where}: a message is a dict with 'role' and 'content'.")
    role = _ROLES.get(value["role"])
    if role is None:
        raise InvalidPrompt(f"{where}: unknown role {value['role']!r}.{nearest(value['role'], _ROLES)}")
    content = value["content"]
    if isinstance(content, str):
        return Message(cast(Role, role), content)
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        return Message(cast(Role, role), tuple(_part(part, f"{where}, part {i}") for i, part in enumerate(content)))
    raise InvalidPrompt(f"{where}: content is a string or a list of parts, not {type(content).__name__}.")


def _part(value: Any, where: str) -> Part:
    if isinstance(value, str | Attachment):
        return value
    if isinstance(value, Mapping):
        kind = value.get("type", "text" if "text" in value else "image" if "image" in value else None)
        if kind in ("text", "input_text") and isinstance(value.get("text"), str):
            return cast(str, value["text"])
        for key in ("image", "image_url"):
            if kind in (key, "input_image") and key in value:
                return attachments.image(value[key])
        raise InvalidPrompt(f"{where}: a part is {{'type': 'text', 'text': …}} or {{'type': 'image', 'image': …}}.")
    return attachments.image(value)


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """Return the prompt as messages: plain text is one user message."""
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def canonical(prompt: Prompt) -> Any:
    """Return the prompt as plain JSON values, images by their digest: what is hashed and what is stored."""
    if isinstance(prompt, str):
        return prompt
    return [
        {
            "role": message.role,
            "content": message.content
            if isinstance(message.content, str)
            else [part if isinstance(part, str) else described(part) for part in message.content],
        }
        for message in prompt
    ]


def described(attachment: Attachment) -> dict[str, Any]:
    """Return what is kept of a file or image: its type, digest and size, never its bytes."""
    return {"type": attachment.media_type, "sha256": attachment.digest, "bytes": attachment.size}


def lone_surrogate(text: str) -> int | None:
    """Return the position of the first lone surrogate, which no JSON in UTF-8 can carry; None without one."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def check_characters(where: str, text: str) -> None:
    """Refuse a text that neither a request nor the ledger can hold.

    Args:
        where: What to call it in the error.
        text: The text.

    Raises:
        InvalidInput: It holds a lone surrogate, which is half of a character.
    """
    if not text.isascii() and (at := lone_surrogate(text)) is not None:
        around = text[max(0, at - 20) : at + 20]
        raise InvalidInput(f"{where} holds half of a character (a lone surrogate) at position {at}: {around!r}.")
