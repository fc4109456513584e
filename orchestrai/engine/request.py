"""Request: what is put to a platform at one attempt of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrai.engine.item import Item, Work
from orchestrai.messages import Message, Prompt, messages_of
from orchestrai.platforms.protocol import Request
from orchestrai.task import attached

_NO_FIELDS: Final[Mapping[str, Any]] = {}


def request_for(item: Item, work: Work, attempt_id: str, prompt: Prompt) -> Request:
    """Return the request of the next attempt.

    Args:
        item: The task.
        work: What is known of it.
        attempt_id: Id of the attempt.
        prompt: The prompt, with what others handed to the task.

    Raises:
        InvalidInput: A file of the task is not what it was.
    """
    task, offer, schema = item.task, item.offer, item.schema
    can = offer.platform.capabilities(offer.model)
    messages = messages_of(prompt)
    system = task.system
    if messages[0].role == "system" and system is None:
        system, messages = messages[0].text, messages[1:]
    if task.files:
        messages = with_parts(messages, attached(task))
    constrain = schema is not None and can.schema and work.constrained
    if schema is not None and not constrain:
        messages = with_parts(messages, (schema.instructions(),))
    return Request(
        messages=(*messages, *work.follow_up),
        model=offer.model,
        system=system,
        max_tokens=task.max_tokens if can.output_limit else None,
        temperature=task.temperature if can.temperature else None,
        effort=task.effort if can.effort else None,
        json_schema=schema.json_schema if schema is not None and constrain else None,
        choices=schema.choices if schema is not None and constrain else None,
        extra=task.extra.get(offer.platform.name, _NO_FIELDS) if task.extra else _NO_FIELDS,
        timeout_s=task.timeout_s or 300.0,
        attempt_id=attempt_id,
    )


def with_parts(messages: tuple[Message, ...], parts: tuple[Any, ...]) -> tuple[Message, ...]:
    """Return the messages with parts added to the last one of the user."""
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
    if last is None:
        return (*messages, Message("user", tuple(parts)))
    content = messages[last].content
    whole = ((content,) if isinstance(content, str) else content) + tuple(parts)
    joined = "\n\n".join(whole) if all(isinstance(part, str) for part in whole) else whole
    return (*messages[:last], Message("user", joined), *messages[last + 1 :])
