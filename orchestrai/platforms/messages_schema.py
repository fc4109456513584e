"""JSON Schema as Anthropic's decoder knows it: a subset, of closed objects and without recursion.

What only narrows an answer (a minimum, a pattern) is left out of the constraint and told in its description: the answer
is validated when it is here. What the decoder would make impossible (an open object) cannot be left out.

Source: platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations", and
`transform_schema` of anthropic 2.12.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from orchestrai.json_schema import pointed

_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_KNOWN: Final = ("title", "type", "enum", "const", "required")
_STRUCTURE: Final = frozenset(
    {"description", "properties", "additionalProperties", "items", "anyOf", "oneOf", "allOf", "$ref", "$defs"}
    | {"definitions"}
)
_NARROWING: Final = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"}
    | {"format", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties"}
)
_SAYS_NOTHING: Final = frozenset(
    {"$schema", "$id", "$comment", "readOnly", "writeOnly", "deprecated", "discriminator", "default", "examples"}
)


class _NotDecodable(Exception):
    """An answer that the schema allows would be impossible under every constraint that the decoder knows."""


def decodable(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema as the decoder knows it; None when it cannot: then it is asked for in words."""
    try:
        return _Decodable(schema).of(schema, frozenset())
    except _NotDecodable:
        return None


class _Decodable:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._followed: set[str] = set()

    def of(self, schema: Any, inside: frozenset[str]) -> dict[str, Any]:
        """Return a part of the schema; `inside` are the references that lead to it."""
        if not isinstance(schema, Mapping) or schema.keys() - set(_KNOWN) - _STRUCTURE - _NARROWING - _SAYS_NOTHING:
            raise _NotDecodable
        if isinstance(schema.get("type"), list):
            return {"anyOf": [self.of({**schema, "type": kind}, inside) for kind in schema["type"]]}
        shaped: dict[str, Any] = {key: schema[key] for key in _KNOWN if key in schema}
        for key in ("$defs", "definitions"):
            if key in schema:
                shaped[key] = dict(self._definitions(schema[key], inside))
        if "$ref" in schema:
            self._follow(schema["$ref"], inside)
            shaped["$ref"] = schema["$ref"]
            return shaped
        if alternatives := schema.get("anyOf") or schema.get("oneOf"):
            shaped["anyOf"] = [self.of(item, inside) for item in alternatives]
        if schema.get("allOf"):
            shaped["allOf"] = [self.of(item, inside) for item in schema["allOf"]]
        if schema.get("type") == "object" or "properties" in schema:
            if schema.get("additionalProperties") is not False:
                raise _NotDecodable  # an object of any names
            properties = {name: self.of(item, inside) for name, item in schema.get("properties", {}).items()}
            shaped.update(type="object", properties=properties, additionalProperties=False)
        elif schema.get("type") == "array":
            shaped["items"] = self.of(schema.get("items"), inside)
        elif not shaped.keys() & {"type", "enum", "const", "anyOf", "allOf"}:
            raise _NotDecodable  # any value
        if any(isinstance(value, dict | list) for value in (*schema.get("enum", ()), schema.get("const"))):
            raise _NotDecodable
        return _with_description(shaped, schema)

    def _definitions(self, given: Mapping[str, Any], inside: frozenset[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the definitions that are decodable; a reference to another one is refused where it stands."""
        for name, schema in given.items():
            with contextlib.suppress(_NotDecodable):
                yield name, self.of(schema, inside)

    def _follow(self, reference: str, inside: frozenset[str]) -> None:
        if reference in inside:
            raise _NotDecodable  # it contains itself
        if reference not in self._followed:
            target = pointed(self._root, reference)
            if target is None or target is self._root:
                raise _NotDecodable
            self.of(target, inside | {reference})
            self._followed.add(reference)


def _with_description(shaped: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part with what narrows its answers: as keywords that the decoder knows, else in words."""
    told = {key: schema[key] for key in schema if key in _NARROWING}
    if told.get("format") in _FORMATS and schema.get("type") == "string":
        shaped["format"] = told.pop("format")
    if told.get("minItems") in (0, 1):
        shaped["minItems"] = told.pop("minItems")
    words = [schema["description"]] if isinstance(schema.get("description"), str) else []
    if told:
        words.append(json.dumps(told, ensure_ascii=False))
    if words:
        shaped["description"] = "\n\n".join(words)
    return shaped
