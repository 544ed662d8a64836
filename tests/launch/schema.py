"""A check of values against a structural schema of Kubernetes (OpenAPI v3): the part of it that such schemas use."""

import re
from typing import Any

KINDS = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
KNOWN = {"type", "properties", "required", "enum", "items", "additionalProperties", "pattern", "minimum", "maxItems", "anyOf"}
KNOWN |= {"format", "default", "x-kubernetes-int-or-string"}  # that restrict nothing here


def problems(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Returns what is wrong with a value. An unknown field is a problem: the API server refuses it or, worse, drops it."""
    assert schema.keys() <= KNOWN, f"{path}: the schema has {schema.keys() - KNOWN}, which is not understood here"
    if schema.get("x-kubernetes-int-or-string"):
        fits = type(value) is int or (isinstance(value, str) and re.search(schema.get("pattern", ""), value))
        return [] if fits else [f"{path}: {value!r} is no quantity"]
    kind = KINDS[schema["type"]]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return [f"{path}: {value!r} is no {schema['type']}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is not one of {schema['enum']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{path}: {value!r} is less than {schema['minimum']}")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        found.append(f"{path}: more than {schema['maxItems']}")
    if kind is list:
        for place, each in enumerate(value):
            found += problems(each, schema["items"], f"{path}[{place}]")
    if kind is dict and ("properties" in schema or "additionalProperties" in schema):
        known = schema.get("properties", {})
        found += [f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, each in value.items():
            if name not in known and "additionalProperties" not in schema:
                found.append(f"{path}: unknown field {name}")
            else:
                found += problems(each, known.get(name) or schema["additionalProperties"], f"{path}.{name}")
    return found
