"""Options of the Gemini providers, as the configuration gives them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

Safety = tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Options:
    safety: Safety = ()
    """``safety_settings``: a list of ``{category, threshold}``, sent with every request."""


def known(raw: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise ValueError for an option that there is not."""
    if foreign := sorted(set(raw) - set(names)):
        raise ValueError(f"no such option '{foreign[0]}'; there are: {', '.join(sorted(names))}")


def text(raw: Mapping[str, Any], name: str) -> str | None:
    """An optional text; raises ValueError naming it when it is none, or empty."""
    value = raw.get(name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"'{name}' must be a text")
    return value


def safety(raw: Mapping[str, Any]) -> Safety:
    """The ``safety_settings``; raises ValueError for one that is not ``{category, threshold}``."""
    settings = raw.get("safety_settings") or []
    fits = isinstance(settings, list) and all(
        isinstance(setting, Mapping) and {"category", "threshold"} <= set(setting) for setting in settings
    )
    if not fits:
        raise ValueError("'safety_settings' must be a list of {category, threshold}")
    return tuple(dict(setting) for setting in settings)
