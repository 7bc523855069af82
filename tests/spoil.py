"""Puts something else in the place of one part of a JSON value: what upstreams may do to what they document."""

from typing import Any

from hypothesis import strategies as st


def spoil(data: st.DataObject, value: Any) -> Any:
    """The value with one part of it replaced by something else."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, inner in list(node.items() if isinstance(node, dict) else enumerate(node)):
            places.append((node, key))
            if isinstance(inner, dict | list):
                walk(inner)

    walk(value)
    node, key = data.draw(st.sampled_from(range(len(places))).map(lambda at: places[at]))
    node[key] = data.draw(st.sampled_from([None, 5, -1, "x", [], {}, [5], {"type": "x"}, True, 1e300, ["x", None]]))
    return value
