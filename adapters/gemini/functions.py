"""Tools and the choice among them, in Gemini's words."""

import re
from collections.abc import Mapping
from typing import Any

from .. import tools as openai_tools
from ..interface import JSON
from ..tools import Tools
from . import schema
from .models import Gates

_FIRST = re.compile(r"[A-Za-z_]")
_WORDLESS = frozenset({"type", "title", "description", "$schema", "required"})
"""Words of a schema that make room for no argument."""
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}


def wire_name(name: str) -> str:
    """A function's name as Gemini takes it: it must begin with a letter or an underscore (edge case 36)."""
    return name if _FIRST.match(name) else "_" + name


def notes(tools: Tools) -> dict[str, Any]:
    """What ``call`` must know when the answer comes."""
    names = {wire_name(tool.name): tool.name for tool in tools.tools if wire_name(tool.name) != tool.name}
    return {**tools.notes(), "names": names, "single": not tools.parallel}


def call(call_id: str, name: str, arguments: str, told: Mapping[str, Any]) -> JSON:
    """The client's tool call of a ``functionCall``."""
    return openai_tools.back(call_id, told.get("names", {}).get(name, name), arguments, told)


def declarations(tools: Tools, gates: Gates) -> list[JSON]:
    """The ``functionDeclarations``; raises UnsupportedParameter for a schema that cannot be told."""
    out = []
    for index, tool in enumerate(tools.tools):
        declared: JSON = {"name": wire_name(tool.name)}
        if tool.description:
            declared["description"] = tool.description
        if _takes_arguments(tool.parameters):  # a schema of nothing is refused by some models
            param = f"tools[{index}].function.parameters"
            if gates.json_schema:
                declared["parametersJsonSchema"] = schema.raw(tool.parameters, param)
            else:
                declared["parameters"] = schema.subset(tool.parameters, param)
        out.append(declared)
    return out


def _takes_arguments(parameters: Mapping[str, Any]) -> bool:
    return any(value for key, value in parameters.items() if key not in _WORDLESS)


def config(tools: Tools, gates: Gates) -> JSON | None:
    """The ``functionCallingConfig``; None for the default. ``allowed_tools`` has already filtered the tools.

    VALIDATED is the default with arguments bound to their schema: what ``strict`` asks for.
    """
    if tools.choice == "auto":
        strict = gates.json_schema and all(tool.strict for tool in tools.tools)
        return {"mode": "VALIDATED"} if strict else None
    chosen: JSON = {"mode": _MODES[tools.choice]}
    if tools.choice == "named":
        chosen["allowedFunctionNames"] = [wire_name(tools.named)]
    return chosen
