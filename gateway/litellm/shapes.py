"""What a hand-written file should hold somewhere, and a note where it holds something else."""

from collections.abc import Iterator, Mapping
from typing import Any

from .settings import JSON


def plain_keys(value: Any) -> Any:
    """Keys of mappings as texts: YAML makes true of a key `on`, and a number of `5`."""
    if isinstance(value, Mapping):
        return {str(key): plain_keys(item) for key, item in value.items()}
    return [plain_keys(item) for item in value] if isinstance(value, list) else value


class Shapes:
    """Gives what has the shape that is asked for, nothing in place of what has another, and tells ``notes`` of that."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def mapping(self, value: Any, where: str) -> JSON:
        return value if self._is(value, dict, "a mapping", where) else {}

    def listing(self, value: Any, where: str) -> list[Any]:
        return value if self._is(value, list, "a list", where) else []

    def mappings(self, value: Any, where: str) -> Iterator[tuple[str, JSON]]:
        """Those of a list, each with its place."""
        for position, item in enumerate(self.listing(value, where)):
            place = f"{where}[{position}]"
            if item is None:
                self._notes.append(f"{place}: empty; left out")
            elif self._is(item, dict, "a mapping", place):
                yield place, item

    def _is(self, value: Any, kind: type, called: str, where: str) -> bool:
        if value is not None and not isinstance(value, kind):
            self._notes.append(f"{where}: not {called}; left out")
        return isinstance(value, kind)
