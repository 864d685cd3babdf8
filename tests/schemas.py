"""The schemas of docs/schemas, as the tests ask them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from referencing import Registry, Resource

_DIRECTORY = Path(__file__).parents[1] / "docs" / "schemas"
SCHEMAS: dict[str, Any] = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text())
    for path in sorted(_DIRECTORY.glob("*.schema.json"))
}
_REGISTRY: Registry[Any] = Registry().with_resources(
    (f"{name}.schema.json", Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)


def check(name: str, answer: Any) -> None:
    """Raise jsonschema.ValidationError unless ``answer`` is as the schema ``name`` says."""
    validator = jsonschema.Draft202012Validator(
        SCHEMAS[name], registry=_REGISTRY, format_checker=jsonschema.FormatChecker()
    )
    validator.validate(answer)


def objects(name: str, answer: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every object of ``answer``: where it stands, its part of the schema ``name``, itself."""
    yield from _objects(name, SCHEMAS[name], answer, "")


def _objects(file: str, schema: Any, value: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if "$ref" in schema:
        other, _, place = schema["$ref"].partition("#/$defs/")
        file = other.removesuffix(".schema.json") or file
        schema = SCHEMAS[file]["$defs"][place]
    for choice in schema.get("oneOf", ()):
        if value is not None:
            yield from _objects(file, choice, value, where)
    if isinstance(value, dict) and "properties" in schema:
        yield where, schema, value
        for key, part in schema["properties"].items():
            if key in value:
                yield from _objects(file, part, value[key], f"{where}.{key}")
    if isinstance(value, list):
        for each in value:
            yield from _objects(file, schema.get("items", {}), each, f"{where}[]")
