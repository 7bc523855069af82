"""Budgets, limits, durations and models as LiteLLM's keys, teams and users have them."""

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

JSON = dict[str, Any]
_DURATION = re.compile(r"([0-9]+)(s|m|h|d|w|mo)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "mo": 2_592_000}
_CALENDAR = frozenset({86_400, 604_800, 2_592_000, 2_678_400})
"""Durations that are a day, a week or a month (of 30 or 31 days)."""
_RATES = {"rpm_limit": "rpm", "tpm_limit": "tpm", "tpd_limit": "tpd", "max_parallel_requests": "concurrency"}
_PER_MODEL = {"model_rpm_limit": "rpm", "model_tpm_limit": "tpm"}
ALL_MODELS = frozenset({"all-proxy-models", "all-team-models", "all-org-models"})
_BAD = re.compile(r"[\s|{}\x00-\x1f]+")


def name(text: Any) -> str:
    """A name as ours may be: no blanks, bars or braces."""
    return _BAD.sub("-", str(text))[:128] or "-"


def seconds(duration: str) -> int | None:
    """``30s``, ``12h``, ``30d``, ``1w``, ``1mo``; None for what is no duration."""
    found = _DURATION.fullmatch(duration.strip())
    return int(found[1]) * _SECONDS[found[2]] if found else None


def window(duration: Any) -> str:
    """The calendar window nearest to a duration; none at all is a total."""
    length = seconds(str(duration)) if duration else None
    if length is None:
        return "total"
    return "day" if length <= 86_400 else "week" if length <= 604_800 else "month"


def surprises(row: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of the budgets of a row that nobody would expect."""
    for model, amount, span in budgets(row):
        what = "max_budget" if model is None else f"model_max_budget of {model}"
        if amount is not None and money(amount) is None:
            yield f"{what} is left out: not an amount up to $9000000"
        elif amount is not None and span and seconds(str(span)) not in _CALENDAR:
            yield f"{what} is for {span}; here it holds for a {window(str(span))}".replace("a total", "ever")
        if model is not None and money(amount):
            yield f"{what} begins with nothing spent: LiteLLM's database does not tell it"


def budgets(row: Mapping[str, Any]) -> Iterator[tuple[str | None, Any, Any]]:
    """(of which model, how much, for how long)."""
    yield None, row.get("max_budget"), row.get("budget_duration")
    for model, budget in mapping(row.get("model_max_budget")).items():
        told = budget if isinstance(budget, dict) else {"budget_limit": budget}
        amount = told.get("budget_limit", told.get("max_budget"))
        yield str(model), amount, told.get("time_period", told.get("budget_duration"))


def money(value: Any) -> str | None:
    """US dollars, exact to the nano-dollar; None for what is no amount."""
    try:
        amount = Decimal(str(value)).quantize(Decimal("1e-9")).normalize()
    except InvalidOperation:
        return None
    return format(amount, "f") if 0 <= amount <= 9_000_000 else None


def mapping(value: Any) -> JSON:
    """A JSON column: a mapping, or its text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """An array column: a list, or its text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []


def limits(row: Mapping[str, Any]) -> JSON:
    """``config.schema.Limits`` of a row, which holds its budget's columns too where it refers to one."""
    found: JSON = {ours: int(row[theirs]) for theirs, ours in _RATES.items() if row.get(theirs) is not None}
    if row.get("max_budget") is not None and (amount := money(row["max_budget"])) is not None:
        found["budget"] = {window(row.get("budget_duration")): amount}
    metadata = mapping(row.get("metadata"))
    per_model: dict[str, JSON] = {}
    for theirs, ours in _PER_MODEL.items():
        for model, value in mapping(row.get(theirs) or metadata.get(theirs)).items():
            if value is not None:
                per_model.setdefault(name(model), {})[ours] = int(value)
    for public, dollars, span in budgets(row):
        if public is not None and (amount := money(dollars)) is not None:
            per_model.setdefault(name(public), {})["budget"] = {window(span): amount}
    if per_model:
        found["per_model"] = per_model
    return found


def models(row: Mapping[str, Any]) -> list[str] | None:
    """Models that may be used; None for all that the owner above may."""
    given = [name(model) for model in listing(row.get("models"))]
    return None if not given or ALL_MODELS & set(given) else given


def owner(row: Mapping[str, Any]) -> JSON:
    """What keys, teams and users have alike, as the admin API takes it."""
    metadata = mapping(row.get("metadata"))
    tags = [str(tag) for tag in listing(row.get("tags") or metadata.get("tags"))]
    told: JSON = {"limits": limits(row), "blocked": bool(row.get("blocked"))}
    if (allowed := models(row)) is not None:
        told["models"] = allowed
    if tags:
        told["tags"] = tags
    kept = {
        k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items() if k not in ("tags", *_PER_MODEL)
    }
    return {**told, "metadata": kept} if kept else told
