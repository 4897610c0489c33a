"""The OpenAPI document and the table of problems as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from textwrap import indent
from typing import Any

from agegender.api import problems
from agegender.main import create_app
from agegender.settings import Settings
from markdown_tables import code, table

_FILE = {"type": "string", "format": "binary"}


def problem_types() -> str:
    """Every kind of problem, with a detail that it may come with: what was wrong, and what to do."""
    kinds = [kind for kind in vars(problems).values() if isinstance(kind, problems.Kind)]
    rows = [
        (f'<a id="{kind.name}"></a>`{kind.type}`', kind.status, kind.title, kind.example)
        for kind in sorted(kinds, key=lambda kind: kind.status)
    ]
    return table(("type", "status", "title", "detail, for example"), rows)


def routes() -> str:
    """Every route of the OpenAPI document: what it takes, and what it answers."""
    # No variable begins like this: whatever is set where the site is built, it shows all routes.
    document = create_app(Settings(_env_prefix="NO_SETTING_")).openapi()
    parts = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts += [
                f"### {method.upper()} {path}",
                f"{route['summary'].rstrip('.?')}. {route.get('description', '')}",
            ]
            if "parameters" in route:
                parts.append(_parameters(route["parameters"]))
            if "requestBody" in route:
                parts.append(_body(route["requestBody"]))
            parts.append(_answers(route["responses"], document["components"]["schemas"]))
    return "\n\n".join(parts)


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = [
        (
            code(parameter["name"]) + ("" if parameter["in"] == "query" else ", in the path"),
            _values(parameter["schema"]).removesuffix(" or null"),  # null: it is left out
            code(parameter["schema"].get("default", "")),
            parameter.get("description", ""),
        )
        for parameter in parameters
    ]
    return table(("parameter", "values", "default", "meaning"), rows)


def _body(body: dict[str, Any]) -> str:
    """A request's body: what it may hold, by media type."""
    holding: dict[str, list[str]] = {}
    for media_type, content in body["content"].items():
        properties = content["schema"].get("properties", {})
        parts = ", ".join(f"`{name}`: {_values(schema)}" for name, schema in properties.items())
        holding.setdefault(parts or "the file's bytes", []).append(code(media_type))
    rows = [(", ".join(media_types), held) for held, media_types in holding.items()]
    return f"Body: {body.get('description', '')}\n\n{table(('Content-Type', 'holds'), rows)}"


def _answers(responses: dict[str, Any], schemas: dict[str, Any]) -> str:
    """A route's answers: an example and the fields of the good one, and the problems by status."""
    (good,) = responses["200"]["content"].items()
    media_type, content = good
    schema = content.get("schema", {})
    example = content.get("example", _choices(schema, schemas)[0].get("example"))
    shown = example if isinstance(example, str) else written(_in_order(example, schema, schemas))
    kind = "json" if media_type == "application/json" else "text"
    parts = [f"200, `{media_type}`:", f"```{kind}\n{shown.strip()}\n```"]
    fields = dict.fromkeys(_fields(schema, schemas))
    if fields:
        parts.append(f'??? note "Fields"\n\n{indent(table(("field", "type", "meaning"), fields), "    ")}')
    rows = []
    for status, response in sorted(responses.items()):
        for examples in (content.get("examples", {}) for content in response["content"].values()):
            rows += [
                (status, f"[`{name}`](#{name})", example["summary"]) for name, example in examples.items()
            ]
    parts.append(table(("status", "problem", "title"), rows))
    return "\n\n".join(parts)


def _in_order(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """`value` with its names in the order of the answer's, which the OpenAPI document has by the alphabet."""
    if isinstance(value, list):
        return [_in_order(each, schema.get("items", {}), schemas) for each in value]
    if not isinstance(value, dict):
        return value
    for choice in _choices(schema, schemas):
        properties = choice.get("properties", {})
        if value.keys() <= properties.keys():
            return {
                name: _in_order(value[name], properties[name], schemas)
                for name in properties
                if name in value
            }
    return value


def written(value: Any) -> str:
    """JSON with short lists on one line."""
    return re.sub(r"\[\s+(\S+)\s+(\S+)\s+\]", r"[\1 \2]", json.dumps(value, indent=2))


def _fields(
    schema: dict[str, Any], schemas: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each field of an answer, from the outermost inwards."""
    for choice in _choices(schema, schemas):
        for name, field in choice.get("properties", {}).items():
            about = [field, *_choices(field, schemas)]
            meaning = next((each["description"] for each in about if "description" in each), "")
            yield f"`{prefix}{name}`", _values(field), meaning
            yield from _fields(field, schemas, f"{prefix}{name}.")
        if "items" in choice:
            yield from _fields(choice["items"], schemas, f"{prefix.removesuffix('.')}[].")


def _choices(schema: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema itself or, where it refers to others, those."""
    choices = [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    referred = [schemas[each["$ref"].rpartition("/")[2]] for each in choices if "$ref" in each]
    return referred or [schema]


def _values(schema: dict[str, Any]) -> str:
    """What a value may be, in a few words."""
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(_values(each) for each in schema[choice]))
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "$ref" in schema:
        return "object"
    if schema == _FILE:
        return "a file"
    if schema["type"] == "array" and "items" in schema:
        return "files" if schema["items"] == _FILE else f"array of {_values(schema['items'])}"
    limits = [f"{schema[key]:g}" for key in ("minimum", "maximum") if key in schema]
    return f"{schema['type']} from {' to '.join(limits)}" if len(limits) == 2 else str(schema["type"])
