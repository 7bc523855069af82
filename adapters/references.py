"""References within a JSON schema."""

from collections.abc import Mapping
from typing import Any


def target(root: Mapping[str, Any], reference: str) -> Mapping[str, Any] | None:
    """The schema that a ``$ref`` names within ``root``; None where there is none, or where it is in another document."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        found = found if not name else found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None
