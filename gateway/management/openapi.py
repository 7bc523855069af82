"""The admin API described for machines: OpenAPI 3.1, made from the operations themselves."""

from collections.abc import Iterable
from typing import Any

from .operation import JSON, Operation

_REF = "#/components/schemas/{model}"


def document(operations: Iterable[Operation]) -> JSON:
    paths: dict[str, JSON] = {}
    schemas: JSON = {"Error": _ERROR}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sluice admin API", "version": "1"},
        "paths": paths,
        "security": [{"key": []}],
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _described(operation: Operation, schemas: JSON) -> JSON:
    words = [operation.method.lower(), *(p for p in operation.path.split("/")[3:] if p != "{id}")]
    parameters: list[JSON] = [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in operation.query.items()
    ]
    if "{id}" in operation.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    refused = {"description": "Refused", "content": _content({"$ref": _REF.format(model="Error")})}
    described: JSON = {
        "operationId": "_".join(words) + ("_one" if operation.path.endswith("{id}") else ""),
        "summary": operation.summary,
        "description": f"Needs the role `{operation.level}`.",
        "parameters": parameters,
        "responses": {
            str(operation.status): {"description": "Done", "content": _content({"type": "object"})},
            "default": refused,
        },
    }
    if operation.body is not None:
        schema: dict[str, Any] = operation.body.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[operation.body_name] = _changes(schema, operation) if operation.method == "PATCH" else schema
        reference = {"$ref": _REF.format(model=operation.body_name)}
        described["requestBody"] = {"required": True, "content": _content(reference)}
    return described


def _changes(schema: JSON, operation: Operation) -> JSON:
    """A body of which anything may be left out: what is named changes, and null brings its default back."""
    required = schema.get("required", ())
    properties: JSON = {}
    for name, what in schema["properties"].items():
        told = {word: value for word, value in what.items() if word != "default"}
        if name not in required and {"type": "null"} not in told.get("anyOf", ()):
            told = {"anyOf": [told, {"type": "null"}]}
        if name not in operation.fixed:
            properties[name] = told
    return {"title": operation.body_name, "type": "object", "additionalProperties": False, "properties": properties}


def _content(schema: JSON) -> JSON:
    return {"application/json": {"schema": schema}}


_ERROR: JSON = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
