"""Tool schemas for Nova, which knows ``type``, ``properties`` and ``required`` at the root of one, and no references.

Source: the user guide of Amazon Nova, "Troubleshooting tool calling". Other words there are a 400, or make it ignore the tool.
"""

from collections.abc import Mapping
from typing import Any

from ..anthropic.schemas import tool_input
from ..errors import UnsupportedParameter
from ..interface import JSON
from ..references import target

_ROOT = ("type", "properties", "required")
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
"""Keywords whose keys are names."""
_VALUES = frozenset({"enum", "const", "default", "examples", "required"})
"""Keywords that hold no schema."""
_DEFINITIONS = frozenset({"$defs", "definitions"})
_DEPTH = 64
_NODES = 20_000
"""The most schemas that one may grow to: references multiply as they are inlined."""


def plain(schema: Mapping[str, Any]) -> JSON:
    """The schema of a tool's arguments with its references inlined; raises UnsupportedParameter for one too deep or too large."""
    root = tool_input(dict(schema)) or dict(schema)
    inlined = _Inliner(schema).schema(root, 0, ())
    return {key: inlined[key] for key in _ROOT if key in inlined}


class _Inliner:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _NODES

    def schema(self, node: Any, depth: int, above: tuple[str, ...]) -> Any:
        """``above``: the references on the way here. One that recurs is cut to an object of any kind."""
        if isinstance(node, list):
            return [self.schema(item, depth + 1, above) for item in node]
        if not isinstance(node, dict):
            return node
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            raise UnsupportedParameter("tools", "Invalid schema in 'tools': it is nested too deep or too large.")
        if isinstance(ref := node.get("$ref"), str):
            rest = {key: value for key, value in node.items() if key != "$ref"}
            if ref in above:
                return self.schema({"type": "object", **rest}, depth + 1, above)
            return self.schema({**(target(self._root, ref) or {}), **rest}, depth + 1, (*above, ref))
        return {
            key: self._inside(key, value, depth + 1, above) for key, value in node.items() if key not in _DEFINITIONS
        }

    def _inside(self, key: str, value: Any, depth: int, above: tuple[str, ...]) -> Any:
        if key in _NAMED and isinstance(value, dict):
            return {name: self.schema(inner, depth, above) for name, inner in value.items()}
        return value if key in _VALUES else self.schema(value, depth, above)
