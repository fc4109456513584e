"""JSON Schema as providers need it: an object at the root, closed objects, no other document; and its columns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from orchestrai.errors import InvalidSchema

VALUE: Final = "value"
"""The one property of the object that carries an answer which is no object."""

_ONE_SCHEMA: Final = frozenset(
    {"items", "additionalProperties", "additionalItems", "unevaluatedItems", "unevaluatedProperties", "contains"}
    | {"propertyNames", "not", "if", "then", "else", "contentSchema"}
)
_LIST_OF_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_MAP_OF_SCHEMAS: Final = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
_DEFINITIONS: Final = ("$defs", "definitions")
_COMBINED: Final = frozenset({"allOf", "not", "if", "then", "else", "dependentSchemas"})  # apply beside the rest
_NOT_CLOSED: Final = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties", "$ref", "$dynamicRef", "anyOf", "oneOf"}
) | (_COMBINED - {"not"})
_SAYS_NOTHING: Final = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples"})

_DTYPES: Final = {"string": "string", "integer": "Int64", "number": "float64", "boolean": "boolean"}
_JSON_TYPES: Final = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}

Step = tuple[str | int, ...]


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Yield each schema directly inside a schema, and the way to it; data such as `default` and `enum` is none."""
    for key, value in schema.items():
        if key in _ONE_SCHEMA and isinstance(value, dict):
            yield (key,), value
        elif key in _LIST_OF_SCHEMAS and isinstance(value, list):
            yield from (((key, i), item) for i, item in enumerate(value) if isinstance(item, dict))
        elif key in _MAP_OF_SCHEMAS and isinstance(value, dict):
            yield from (((key, name), item) for name, item in value.items() if isinstance(item, dict))


def _rebuilt(schema: dict[str, Any], change: Callable[[Step, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return a copy of a schema with each schema directly inside it changed."""
    copy = dict(schema)
    for (key, *rest), child in _children(schema):
        changed = change((key, *rest), child)
        if not rest:
            copy[str(key)] = changed
            continue
        if copy[str(key)] is schema[str(key)]:
            copy[str(key)] = schema[str(key)].copy()
        copy[str(key)][rest[0]] = changed
    return copy


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    for key in ("$ref", "$dynamicRef", "$recursiveRef"):
        if isinstance(schema.get(key), str):
            yield schema[key]
    for _, child in _children(schema):
        yield from _references(child)


def check_references(schema: dict[str, Any]) -> None:
    """Make sure that the schema stands on its own: nothing is ever fetched.

    Raises:
        InvalidSchema: It refers to another document, or to a place that it does not have.
    """
    import referencing.exceptions
    import referencing.jsonschema

    resource = referencing.Resource.from_contents(schema, default_specification=referencing.jsonschema.DRAFT202012)
    base = resource.id() or ""
    resolver = referencing.Registry().with_resource(base, resource).resolver(base)
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise InvalidSchema(
                f"The JSON Schema refers to {reference[:200]!r}. Other documents are never fetched: "
                "copy what is needed under $defs and refer to '#/$defs/…'."
            )
        try:
            resolver.lookup(reference)
        except referencing.exceptions.Unresolvable:
            raise InvalidSchema(f"The JSON Schema refers to {reference!r}, which is not in it.") from None


def pointed(document: Mapping[str, Any], reference: str) -> dict[str, Any] | None:
    """Return the schema that a JSON Pointer (RFC 6901, as a URI fragment) leads to; None when there is none."""
    found: Any = document
    for step in reference.removeprefix("#").split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isdigit() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def root(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with a reference that is its whole root replaced by what it refers to."""
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str) and reference not in seen:
        seen.add(reference)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        target = pointed(schema, reference)
        if target is None or beside.keys() - _SAYS_NOTHING - frozenset(_DEFINITIONS):
            break
        schema = {**target, **beside}
    return schema


def is_object(schema: Mapping[str, Any]) -> bool:
    """Return True when every answer under the schema is an object."""
    return bool(schema.get("type", "object" if "properties" in schema else None) == "object")


def wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of an object whose one property has the given schema, its references moved along."""

    def moved(inner: dict[str, Any]) -> dict[str, Any]:
        copy = _rebuilt(inner, lambda _, child: moved(child))
        reference = inner.get("$ref")
        stays = isinstance(reference, str) and reference.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS))
        if isinstance(reference, str) and re.match("#(/|$)", reference) and not stays:
            copy["$ref"] = f"#/properties/{VALUE}{reference[1:]}"
        return copy

    whole = moved(schema)
    definitions: dict[str, Any] = {key: whole.pop(key) for key in _DEFINITIONS if key in whole}
    value = {key: item for key, item in whole.items() if key not in ("$schema", "$id")}
    return {
        "type": "object",
        "properties": {VALUE: value},
        "required": [VALUE],
        "additionalProperties": False,
        **definitions,
    }


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with `additionalProperties: false` on each object that does not say otherwise.

    Constrained decoding needs it. Objects that are combined with others (`allOf`, `if` …) stay open, also when they
    stand elsewhere and are referred to: closed on their own, no answer could fit all of them.
    """
    combined: set[str] = set()

    def close(inner: dict[str, Any], path: str, is_open: bool) -> dict[str, Any]:
        is_open = is_open or path in combined
        if isinstance(inner.get("$ref"), str) and (is_open or "properties" in inner):
            combined.add(unquote(inner["$ref"]))
        beside = is_open or "properties" in inner or len(inner.get("allOf", ())) > 1

        def change(step: Step, child: dict[str, Any]) -> dict[str, Any]:
            # A single member of `allOf` is only a way to write a reference (pydantic before 2.9).
            alone = step[0] == "allOf" or step[0] in ("anyOf", "oneOf")
            stays_open = beside if alone else step[0] in _COMBINED
            return close(child, "/".join((path, *map(str, step))), stays_open)

        copy = _rebuilt(inner, change)
        kinds = inner.get("type", "object")
        of_objects = "properties" in inner and (kinds == "object" or (isinstance(kinds, list) and "object" in kinds))
        if of_objects and not is_open and not inner.keys() & _NOT_CLOSED:
            copy["additionalProperties"] = False
        if copy.get("uniqueItems") and isinstance(copy.get("default"), list):
            copy["default"] = sorted(copy["default"], key=json.dumps)  # a set's order differs between processes
        return copy

    start = {"type": "object", **{key: item for key, item in schema.items() if key not in ("$schema", "$id")}}
    while True:
        known = len(combined)
        shaped = close(start, "#", is_open=False)
        if len(combined) == known:
            return shaped


def dtype(schema: Any, document: Mapping[str, Any], depth: int = 0) -> str:
    """Return the pandas dtype of a column for the values of a schema: see `schemas.AnswerField`.

    Args:
        schema: The schema of one property.
        document: The whole schema, in which its references are looked up.
        depth: How many references were followed.
    """
    if not isinstance(schema, dict) or depth > 10:
        return "object"
    if isinstance(reference := schema.get("$ref"), str):
        return dtype(pointed(document, reference), document, depth + 1)
    if isinstance(options := schema.get("anyOf", schema.get("oneOf")), list):
        return _joined({dtype(option, document, depth + 1) for option in options if option != {"type": "null"}})
    kinds: Any = schema.get("type")
    if kinds is None and ("enum" in schema or "const" in schema):
        values = schema.get("enum", [schema.get("const")])
        kinds = [_JSON_TYPES.get(type(value), "object") for value in values]
    named = kinds if isinstance(kinds, list) else [kinds]
    return _joined({_DTYPES.get(str(kind), "object") for kind in named if kind != "null"})


def _joined(dtypes: set[str]) -> str:
    if dtypes == {"Int64", "float64"}:
        return "float64"
    return dtypes.pop() if len(dtypes) == 1 else "object"
