"""Adapters by name: the rows of ``compatible``, then the entry-point group ``sluice.adapters``."""

from functools import lru_cache
from importlib.metadata import entry_points

from .compatible import ROWS
from .interface import Adapter
from .openai import OpenAI

GROUP = "sluice.adapters"


@lru_cache
def load(name: str) -> Adapter:
    """The adapter of that name, imported only now; raises LookupError naming the nearest one."""
    if name in ROWS:
        return OpenAI(ROWS[name])
    for entry_point in entry_points(group=GROUP, name=name):
        adapter: Adapter = entry_point.load()()
        return adapter
    known = names()
    import difflib  # for who has made a mistake

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"installed: {', '.join(known)}"
    raise LookupError(f"no adapter '{name}'; {hint}")


def names() -> list[str]:
    """Every adapter that is installed."""
    return sorted({e.name for e in entry_points(group=GROUP)} | ROWS.keys())
