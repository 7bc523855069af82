"""Tools, web search and the tool that stands for a JSON schema -> ``tools`` and ``tool_choice``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import tools as shared
from ..errors import UnsupportedParameter
from ..interface import JSON
from . import schemas
from .models import Gates
from .omitted import Omitted
from .parts import cache_control

WEB_SEARCH = "web_search"
ANSWER = "json_answer"
_CHOICES = {"none": "none", "auto": "auto", "required": "any", "named": "tool"}


@dataclass(slots=True)
class Toolbox:
    """The tools of one request, and what their calls must be read with."""

    tools: list[JSON] = field(default_factory=list)
    choice: JSON | None = None
    custom: frozenset[str] = frozenset()
    answer: str | None = None
    """The tool that stands for a JSON schema: its arguments are the answer's content."""

    @property
    def forced(self) -> bool:
        return self.choice is not None and self.choice["type"] in ("any", "tool")

    def names(self) -> set[str]:
        return {tool["name"] for tool in self.tools}


def toolbox(request: Mapping[str, Any], gates: Gates, web_search: str, omitted: Omitted, room: schemas.Room) -> Toolbox:
    """Translate ``tools`` or ``functions`` and everything that says which of them may be called."""
    given = shared.read(request)
    made = Toolbox([_tool(tool) for tool in given.tools], custom=given.custom)
    _make_strict(made, given, omitted, room if gates.schemas else None)
    if given.choice != "auto":
        _choose(made, given, gates, omitted)
    if given.tools and (not given.parallel or given.legacy):
        made.choice = made.choice or {"type": "auto"}
        if made.choice["type"] != "none":
            made.choice["disable_parallel_tool_use"] = True
    search = request.get("web_search_options")
    if isinstance(search, Mapping):
        _add_web_search(made, search, web_search, omitted)
    return made


def _tool(tool: shared.Tool) -> JSON:
    schema = schemas.tool_input(tool.parameters)
    if schema is None:
        raise UnsupportedParameter(
            "tools", f"Invalid schema for function '{tool.name}': the parameters must be a schema of an object."
        )
    made: JSON = {"name": tool.name, "input_schema": schema}
    if tool.description:
        made["description"] = tool.description
    if mark := cache_control(tool.cache):
        made["cache_control"] = mark
    return made


def _make_strict(made: Toolbox, given: shared.Tools, omitted: Omitted, room: schemas.Room | None) -> None:
    """Strict where it was asked for and can be had; elsewhere the schema is followed as well as the model can."""
    for tool, source in zip(made.tools, given.tools, strict=True):
        if not source.strict:
            continue
        schema = room.strict(tool["input_schema"], tool=True) if room else None
        if schema is None:
            omitted.hint("tools.function.strict")
            continue
        tool["input_schema"], tool["strict"] = schema, True


def _choose(made: Toolbox, given: shared.Tools, gates: Gates, omitted: Omitted) -> None:
    made.choice = {"type": _CHOICES[given.choice]}
    if given.choice == "named":
        made.choice["name"] = given.named
    if made.forced and not gates.forced_tools:
        omitted.essential("tool_choice", "This model cannot be forced to call a tool: use 'auto' or 'none'.")
        made.tools = [tool for tool in made.tools if given.choice != "named" or tool["name"] == given.named]
        made.choice = {"type": "auto"}


def _add_web_search(made: Toolbox, search: Mapping[str, Any], version: str, omitted: Omitted) -> None:
    if WEB_SEARCH in made.names():
        raise UnsupportedParameter(
            "web_search_options", "'web_search_options' cannot stand beside a tool called 'web_search'."
        )
    tool: JSON = {"type": version, "name": WEB_SEARCH}
    location = search.get("user_location")
    place = location.get("approximate") if isinstance(location, dict) else None
    if isinstance(place, dict):
        known = {key: place[key] for key in ("city", "country", "region", "timezone") if place.get(key)}
        tool["user_location"] = {"type": "approximate", **known}
    if search.get("search_context_size") not in (None, "medium"):
        omitted.hint("web_search_options.search_context_size")
    made.tools.append(tool)


def add_answer(made: Toolbox, schema: Any, description: str | None) -> None:
    """Add the tool whose arguments are the answer, and see that it or a real tool is called.

    Where the client forces a tool of its own, that call is the answer and no further tool is added.
    """
    if made.forced:
        return
    root = schemas.tool_input(schema)
    if root is None:
        raise UnsupportedParameter("response_format", "The schema of 'response_format' must be one of an object.")
    name = ANSWER
    while name in made.names():
        name += "_"
    told = "Give the final answer by calling this tool: its arguments are the answer."
    only = not made.tools or (made.choice or {}).get("type") == "none"
    made.answer = name
    made.tools.append(
        {"name": name, "description": f"{told} {description}" if description else told, "input_schema": root}
    )
    made.choice = {"type": "tool", "name": name} if only else {"type": "any"}
    made.choice["disable_parallel_tool_use"] = True
