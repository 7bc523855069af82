"""What would be done with a request, without doing it: its route, its plan, what each deployment would be sent, its cost.

Nothing is reserved and nothing is sent. No credential is shown: targets have none here, and only the names of headers
and the path of an address are told.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.errors import UnsupportedParameter
from adapters.usage import Usage

from . import tiers
from .call import Call, CallRecord, Deployment, Plan, Principal, Route
from .errors import GatewayError, InvalidRequest, ResourceNotFound
from .intake import read_call, read_embeddings
from .limits.amounts import COST
from .limits.estimate import Bound
from .limits.headers import dollars
from .limits.rules import NAMES
from .management.operation import JSON, Asked, Operation
from .management.owners import BASE
from .metering import NO_PRICE, Meter
from .outgoing import outgoing
from .routing import Router

ANYBODY = Principal("nobody", "default")
"""Who asks when no key is named: nobody's limits, every model."""
Principals: TypeAlias = Callable[[str], Awaitable[Principal | None]]
"""Finds the principal of a key by the key's name or id."""


class Question(BaseModel):
    """A request to explain, and who would make it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    request: dict[str, Any] = Field(description="The body of a request for a completion or embeddings.")
    key: str | None = Field(None, description="Name or id of a virtual key; absent: nobody's limits apply.")


@dataclass(frozen=True, slots=True)
class Explainer:
    router: Router
    meter: Meter
    allow: frozenset[str]
    principals: Principals

    def operations(self) -> Iterator[Operation]:
        summary = "What would be done with a request, without doing it"
        yield Operation("POST", f"{BASE}/explain", "operator", summary, self._answer, body=Question)

    async def explain(self, request: Mapping[str, Any], key: str | None = None) -> JSON:
        """The decision, as far as it goes: ``refused`` tells why it ends. Raises ResourceNotFound for an unknown key."""
        principal = ANYBODY if key is None else await self.principals(key)
        if principal is None:
            raise ResourceNotFound(f"No key is called '{key[:128] if key else ''}'.", param="key")
        told: JSON = {"object": "explanation", "model": request.get("model"), "key": key, "refused": None}
        try:
            self._decide(request, principal, told)
        except GatewayError as exc:
            told["refused"] = {"status": exc.status, **exc.to_openai()["error"]}
        return told

    async def _answer(self, asked: Asked) -> JSON:
        question = _question(asked.body)
        return await self.explain(question.request, question.key)

    def _decide(self, request: Mapping[str, Any], principal: Principal, told: JSON) -> None:
        """The steps of ``Pipeline.run`` that decide, each telling what it found."""
        read = read_embeddings if "input" in request and "messages" not in request else read_call
        call = read("explained", orjson.dumps(request), principal, self.allow)
        route = self.router.resolve(call.model, principal)
        told["route"] = route.name
        record = CallRecord(call.id, requested_tier=call.request.get("service_tier"))
        record.effective_tier = tiers.effective(call.request, principal)
        plan = tiers.fitting(self.router.plan(route, call), record, principal)
        tier = record.effective_tier
        told["service_tier"] = {"requested": record.requested_tier, "effective": tier}
        limits = self.meter.limiter.applies(principal, route.name, tier)
        told["limits"] = [
            {
                "scope": limit.scope,
                "limit": NAMES[limit.field],
                "cap": f"${dollars(limit.cap)}" if limit.unit == COST else limit.cap,
            }
            for limit in (limits.limits if limits is not None else ())
        ]
        hard = limits is not None and bool(limits.budgets)
        bound = self.meter.estimator.bound(call, plan, route.config.params.default, hard=hard)
        worst = max((self.meter.worst_case(d, bound, tier) for d in plan), default=0)
        told["reserves"] = {
            "requests": 1,
            "input_tokens": bound.input_tokens,
            "output_tokens": bound.output_tokens,
            "cost_usd": dollars(worst),
        }
        told["plan"] = [self._deployment(call, route, d, tier, bound, hard=hard) for d in plan]
        told["otherwise"] = self._otherwise(route, principal, plan)

    def _deployment(
        self, call: Call, route: Route, deployment: Deployment, tier: str, bound: Bound, *, hard: bool
    ) -> JSON:
        told: JSON = {"deployment": deployment.id, "provider": deployment.provider, "refused": None}
        price = self.meter.prices.price(deployment)
        if price is None and hard:
            return {**told, "refused": {"param": "model", "message": NO_PRICE}}
        if price is not None:
            prompt = self.meter.prices.cost(deployment, Usage(input=bound.input_tokens), tier)
            most = self.meter.worst_case(deployment, bound, tier)
            told["cost_usd"] = {"likely_prompt": dollars(prompt), "at_most": dollars(most)}
        target = replace(deployment.target, api_key="", headers=dict.fromkeys(deployment.target.headers, ""))
        try:
            request, chosen = outgoing(call, route, deployment, tier, bound.max_output, tiers.attempt(deployment, tier))
            told["service_tier"] = chosen.sent
            told["timeouts"] = deployment.tier_timeouts.get(chosen.expected, deployment.timeouts).model_dump()
            sent = call.operation.prepare(deployment.adapter, request, target)
        except UnsupportedParameter as exc:
            return {**told, "refused": {"param": exc.param, "message": exc.message}}
        return {
            **told,
            "url": _without_secrets(sent.url),
            "headers": sorted(sent.headers),
            "request": orjson.loads(sent.body),
            "dropped": list(sent.dropped),
        }

    def _otherwise(self, route: Route, principal: Principal, plan: Plan) -> JSON:
        """What comes after the plan: other models by kind of failure, and instead of a refusal by a limit."""
        cheaper = self.router.cheaper(route, principal)
        return {
            "fallbacks": {kind: list(names) for kind, names in route.config.fallbacks if names},
            "cheaper": cheaper.name if cheaper is not None else None,
            "left_out": sorted({d.id for d in route.deployments} - {d.id for d in plan}),
        }


def _question(body: Any) -> Question:
    try:
        return Question.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])[:128] or "body"
        raise InvalidRequest(f"Invalid '{path}': {first['msg']}.", param=path, code="invalid_value") from None


def _without_secrets(url: str) -> str:
    """An address without what may hold a credential: query and fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"
