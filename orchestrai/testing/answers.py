"""Answers made from the prompt alone, so that every run and every process gives the same ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

_DEEPEST: Final = 8  # levels after which a schema that contains itself is answered as briefly as it allows
_FORMATS: Final = {
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "date-time": "2026-01-02T03:04:05Z",
    "email": "a@example.org",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


def answer_to(prompt: str) -> str:
    """Return the default answer: a sentence with the first 12 hex digits of the prompt's SHA-256."""
    return f"Answer {hashlib.sha256(prompt.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}."


def instance_of(schema: Mapping[str, Any], prompt: str) -> Any:
    """Return a value that validates against the schema, chosen by the prompt.

    It knows type, enum, const, anyOf, oneOf, allOf, local `$ref`, the bounds of numbers, strings and arrays, and
    the common formats; a `pattern` is not solved.
    """
    chooser = int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:4])
    return _Instance(schema, chooser).of(schema, 0)


class _Instance:
    def __init__(self, root: Mapping[str, Any], chooser: int) -> None:
        self._root = root
        self._chooser = chooser

    def of(self, schema: Any, depth: int) -> Any:
        """Return a value for this part of the schema."""
        if not isinstance(schema, Mapping):
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._choice(schema["enum"])
        if "$ref" in schema:
            return self.of(self._target(schema["$ref"]), depth + 1)
        if "allOf" in schema:
            return self.of(_merged([schema, *schema["allOf"]]), depth)
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                # Deep inside, the alternative without further levels (null, a plain value) ends the recursion.
                plain = [s for s in schema[key] if not {"$ref", "properties", "items"} & s.keys()]
                return self.of(self._choice(plain if plain and depth >= _DEEPEST else schema[key]), depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        kind = self._choice(kind) if isinstance(kind, list) else kind
        if kind == "object":
            required = set(schema.get("required", ()))
            properties = schema.get("properties", {})
            return {k: self.of(v, depth + 1) for k, v in properties.items() if k in required or depth < _DEEPEST}
        if kind == "array":
            count = max(schema.get("minItems", 0), 0 if depth >= _DEEPEST else 1)
            count = min(count, schema.get("maxItems", count))
            prefix = schema.get("prefixItems", [])
            items = [*prefix, *([schema.get("items", {})] * max(0, count - len(prefix)))][: max(count, len(prefix))]
            return [self.of(item, depth + 1) for item in items]
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            return bool(self._chooser & 1)
        return None if kind == "null" else self._text(schema)

    def _text(self, schema: Mapping[str, Any]) -> str:
        text = _FORMATS.get(schema.get("format", ""), f"text {self._chooser:08x}")
        text = text.ljust(schema.get("minLength", 0), "x")
        return text[: schema.get("maxLength", len(text))]

    def _choice(self, options: Any) -> Any:
        return options[self._chooser % len(options)]

    def _target(self, ref: str) -> Any:
        found: Any = self._root
        for step in ref.removeprefix("#").strip("/").split("/"):
            found = found[step.replace("~1", "/").replace("~0", "~")] if step else found
        return found


def _merged(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required":
                merged[key] = [*merged.get(key, []), *value]
            elif key != "allOf":
                merged[key] = value
    return merged


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    low = schema.get("exclusiveMinimum", schema.get("minimum"))
    high = schema.get("exclusiveMaximum", schema.get("maximum"))
    step = schema.get("multipleOf", 1 if whole else None)
    if step is None:  # anywhere strictly between the bounds
        low = low if low is not None else (high or 0) - 1
        return float(low + (high if high is not None else low + 2)) / 2
    if low is not None:
        count = math.floor(low / step) + 1 if "exclusiveMinimum" in schema else math.ceil(low / step)
    elif high is not None:
        count = math.ceil(high / step) - 1 if "exclusiveMaximum" in schema else math.floor(high / step)
    else:
        count = 0
    value: float = step * count
    return int(value) if whole else value
