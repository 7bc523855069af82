"""Our resources as the rows that LiteLLM's endpoints answer with, and its request bodies as ours."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import InvalidRequest
from .settings import JSON, budgets, mapping, money, name, owner, seconds

_DURATIONS = {"total": None, "month": "1mo", "week": "7d", "day": "1d"}
_LIMITS = {"rpm": "rpm_limit", "tpm": "tpm_limit", "tpd": "tpd_limit", "concurrency": "max_parallel_requests"}
_TYPES: Mapping[str, tuple[type, str]] = {
    **dict.fromkeys(("models", "tags", "teams", "keys", "key_aliases"), (list, "a list")),
    **dict.fromkeys(
        ("metadata", "aliases", "model_rpm_limit", "model_tpm_limit", "model_max_budget"), (dict, "an object")
    ),
    **dict.fromkeys(("blocked", "auto_create_key"), (bool, "true or false")),
}
"""A limit of another type must not be taken for none."""
_OWNER = frozenset(
    {
        "models",
        "max_budget",
        "budget_duration",
        *_LIMITS.values(),
        "model_rpm_limit",
        "model_tpm_limit",
        "model_max_budget",
    }
    | {"metadata", "tags", "blocked", "organization_id"}
)
_KEY = _OWNER | {"key", "key_alias", "key_type", "team_id", "user_id", "aliases", "duration"}
KNOWN: Mapping[str, frozenset[str]] = {
    "/key/generate": _KEY,
    "/key/update": _KEY,
    "/key/delete": frozenset({"keys", "key_aliases"}),
    "/key/block": frozenset({"key"}),
    "/key/unblock": frozenset({"key"}),
    "/team/new": _OWNER | {"team_id", "team_alias"},
    "/user/new": _OWNER
    | {"user_id", "user_email", "teams", "auto_create_key", "user_role", "user_alias", "send_invite_email"},
}
"""What may be said where; of a user's role, other name and invitation nothing comes. All else would limit or free a key in a way that is
not known here, and is refused, never dropped in silence."""
_BUDGET = frozenset({"budget_limit", "max_budget", "time_period", "budget_duration"})
_PER_MODEL = {"model_rpm_limit": "rpm", "model_tpm_limit": "tpm", "model_max_budget": "budget"}


def check(body: Mapping[str, Any], path: str) -> None:
    """Raise InvalidRequest for what has no meaning here, a misspelt limit among it."""
    for option in sorted(body.keys() - KNOWN[path]):
        if not _says_nothing(option, body[option]):
            raise InvalidRequest(f"'{option}' is not supported.", param=option, code="unsupported_parameter")
    if body.get("key_type") not in (None, "default", "llm_api"):
        raise InvalidRequest("'key_type' is not supported.", param="key_type", code="unsupported_parameter")
    for option, (kind, word) in _TYPES.items():
        if body.get(option) is not None and not isinstance(body[option], kind):
            raise InvalidRequest(f"Invalid '{option}': expected {word}.", param=option, code="invalid_type")
    if body.get("max_budget") is not None and money(body["max_budget"]) is None:
        raise InvalidRequest(
            "Invalid 'max_budget': US dollars, 0 to 9000000.", param="max_budget", code="invalid_value"
        )
    if body.get("budget_duration") is not None and seconds(str(body["budget_duration"])) is None:
        raise InvalidRequest("Invalid 'budget_duration': like 1d, 7d, 1mo.", param="budget_duration")
    _check_budgets(body)


def _says_nothing(option: str, value: Any) -> bool:
    """Whether it is what LiteLLM's own clients send of all that was not set. A limit of 0 is one."""
    return value in (None, "", [], {}) or value is False or (option == "spend" and value == 0)


def _check_budgets(body: Mapping[str, Any]) -> None:
    """Of single models: one that is not understood must not be none."""
    if any(isinstance(told, dict) and told.keys() - _BUDGET for told in mapping(body.get("model_max_budget")).values()):
        message = f"Invalid 'model_max_budget': of {', '.join(sorted(_BUDGET))}."
        raise InvalidRequest(message, param="model_max_budget", code="invalid_value")
    for model, amount, span in budgets(body):
        if model is not None and (money(amount) is None or (span is not None and seconds(str(span)) is None)):
            message = "Invalid 'model_max_budget': US dollars, 0 to 9000000, for so long: 1d, 7d, 1mo."
            raise InvalidRequest(message, param="model_max_budget", code="invalid_value")


def key_body(body: Mapping[str, Any], label: str, now: datetime) -> JSON:
    """``/key/generate`` as the body of a new key."""
    told = {"name": name(body.get("key_alias") or label), **_owner(body)}
    for theirs, ours in (("team_id", "team"), ("user_id", "user")):
        if body.get(theirs):
            told[ours] = name(body[theirs])
    if body.get("organization_id"):
        told["organization"] = name(body["organization_id"])
    if body.get("aliases"):
        told["aliases"] = body["aliases"]
    if (duration := body.get("duration")) is not None:
        told["expires"] = _expires(duration, now)
    if (given := body.get("key")) is not None:
        if not isinstance(given, str) or len(given) < 16:
            raise InvalidRequest("Invalid 'key': at least 16 characters.", param="key", code="invalid_value")
        told["digest"] = "sha256:" + hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()
    return told


def update_body(given: Mapping[str, Any], shown: JSON, now: datetime) -> JSON:
    """``/key/update`` as a change of ``shown``: what is not named stays, also limits that LiteLLM has no word for."""
    if given.get("spend") is not None:  # 0 too: it would begin a budget anew
        raise InvalidRequest("'spend' is not supported.", param="spend", code="unsupported_parameter")
    merged = _owner({**row(shown), **given})
    told: JSON = {}
    for theirs, ours in (("team_id", "team"), ("user_id", "user"), ("organization_id", "organization")):
        if given.get(theirs) and name(given[theirs]) != shown[ours]:
            raise InvalidRequest(f"'{theirs}' of a key cannot be changed.", param=theirs, code="unsupported_parameter")
    if given.keys() & {*_LIMITS.values(), "max_budget", "budget_duration", *_PER_MODEL}:
        kept = {
            k: v for k, v in shown["limits"].items() if v is not None and k not in (*_LIMITS, "budget", "per_model")
        }
        changed = {k: v for k, v in merged["limits"].items() if k not in ("budget", "per_model")}
        of_models = _of_models(given, merged["limits"], shown["limits"].get("per_model") or {})
        told["limits"] = {**kept, **changed, "per_model": of_models}
        if budget := _budget(given, merged["limits"], shown["limits"].get("budget") or {}):
            told["limits"]["budget"] = budget
    for option in ("models", "tags", "metadata", "blocked"):
        if option in given:
            told[option] = merged.get(option)
    if given.get("aliases") is not None:
        told["aliases"] = given["aliases"]
    if given.get("key_alias"):
        told["name"] = name(given["key_alias"])
    if given.get("duration") is not None:
        told["expires"] = _expires(given["duration"], now)
    return told


def _budget(given: Mapping[str, Any], merged: JSON, shown: Mapping[str, Any]) -> JSON:
    """The one that LiteLLM has a word for may change; other windows and what may be overdrawn stay."""
    kept = {window: amount for window, amount in shown.items() if amount is not None}
    if not given.keys() & {"max_budget", "budget_duration"}:
        return kept
    kept.pop(next((window for window in _DURATIONS if window in kept), ""), None)
    told = {**kept, **merged.get("budget", {})}
    return told if told.keys() & _DURATIONS.keys() else {}


def _of_models(given: Mapping[str, Any], merged: JSON, shown: Mapping[str, Any]) -> JSON:
    """Of each model the kinds of limits that are named are replaced, others stay."""
    named = {ours for theirs, ours in _PER_MODEL.items() if theirs in given}
    told = {
        model: {k: v for k, v in limits.items() if v is not None and k not in named} for model, limits in shown.items()
    }
    for model, limits in merged.get("per_model", {}).items():
        told.setdefault(model, {}).update({k: v for k, v in limits.items() if k in named})
    return {model: limits for model, limits in told.items() if limits}


def _owner(body: Mapping[str, Any]) -> JSON:
    try:
        return owner(body)
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequest("A limit is not a number.", code="invalid_value") from None


def _expires(duration: Any, now: datetime) -> str:
    length = seconds(duration) if isinstance(duration, str) else None
    if length is None or length > 10**9:
        raise InvalidRequest("Invalid 'duration': like 30s, 12h or 30d.", param="duration", code="invalid_value")
    return (now + timedelta(seconds=length)).isoformat()


def row(shown: Mapping[str, Any], spend: int | None = None) -> JSON:
    """A resource in LiteLLM's words; ``spend`` in nano-dollars."""
    limits = shown["limits"]
    budget = {k: v for k, v in (limits.get("budget") or {}).items() if v is not None}
    span = next((s for s in _DURATIONS if s in budget), None)
    told: JSON = {
        "models": list(shown["models"] or ()),
        "max_budget": float(budget[span]) if span else None,
        "budget_duration": _DURATIONS[span] if span else None,
        **{theirs: limits.get(ours) for ours, theirs in _LIMITS.items()},
        "metadata": shown["metadata"],
        "tags": list(shown["tags"]),
        "blocked": shown["blocked"],
        "organization_id": shown.get("organization"),
        "created_at": shown["created"],
        "updated_at": shown["updated"],
    }
    if spend is not None:
        told["spend"] = spend / 1e9
    if shown["object"] == "key":
        told |= {
            "token": shown["id"],
            "token_id": shown["id"],
            "key_name": shown["preview"],
            "key_alias": shown["name"],
            "team_id": shown["team"],
            "user_id": shown["user"],
            "expires": shown["expires"],
            "aliases": shown["aliases"],
        }
    elif shown["object"] == "team":
        told |= {"team_id": shown["id"], "team_alias": shown["metadata"].get("litellm_alias", shown["id"])}
    else:
        told |= {"user_id": shown["id"], "teams": [shown["team"]] if shown.get("team") else []}
    return told


def log_row(item: Mapping[str, Any]) -> JSON:
    """A row of the ledger as one of ``/spend/logs``."""
    started = datetime.fromisoformat(item["time"])
    prompt = sum(item[b] for b in ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input"))
    completion = item["output"] + item["reasoning"] + item["audio_output"]
    return {
        "request_id": item["request_id"],
        "call_type": "acompletion",
        "api_key": item["key"],
        "user": item["user"],
        "team_id": item["team"],
        "organization_id": item["organization"],
        "model": item["upstream_model"],
        "model_group": item["model"],
        "model_id": item["deployment"],
        "custom_llm_provider": item["provider"],
        "spend": item["cost"] / 1e9,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "startTime": started.astimezone(UTC).isoformat(),
        "endTime": (started + timedelta(microseconds=item["duration"])).astimezone(UTC).isoformat(),
        "request_tags": item["tags"],
        "status": "success" if item["status"] == "ok" else "failure",
    }
