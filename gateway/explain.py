"""What would be done with a request, without doing it: its route, its plan, what each deployment would be sent, its cost.

Nothing is sent, and nothing is reserved but of limits that nobody has used: it is told what they could never admit, not
what they lack at the moment. No credential is shown: targets have none here, and only the names of headers
and the path of an address are told.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.errors import UnsupportedParameter
from adapters.usage import Usage

from . import tiers
from .call import Call, CallRecord, Deployment, Plan, Principal, Route
from .errors import GatewayError, InvalidRequest, LimitExceeded, ResourceNotFound
from .intake import read_call, read_embeddings
from .limits.amounts import COST, Amounts, Vector
from .limits.estimate import Bound
from .limits.headers import dollars
from .limits.rules import NAMES, Limit
from .management.operation import JSON, Asked, Operation
from .management.owners import BASE
from .metering import NO_PRICE, Meter
from .outgoing import outgoing
from .ramps import Ramps
from .routing import Router

ANYBODY = Principal("nobody", "default")
"""Who asks when no key is named: nobody's limits, every model."""
Principals: TypeAlias = Callable[[str], Awaitable[Principal | None]]
"""Finds the principal of a key by the key's name or id."""


class Question(BaseModel):
    """A request to explain, and who would make it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    request: dict[str, Any] = Field(description="The body of a request for a completion or embeddings.")
    key: str | None = Field(
        None, description="Name of a key of the configuration file or id of another; absent: nobody's limits apply."
    )


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
        """The decision, as far as it goes: ``refused`` tells why it ends, ``instead`` what a cheaper model does. Raises ResourceNotFound for an unknown key."""
        principal = ANYBODY if key is None else await self.principals(key)
        if principal is None:
            called = key[:128] if key else ""
            message = (
                f"No key is called '{called}'; those that are not in the configuration file are named by their id."
            )
            raise ResourceNotFound(message, param="key")
        told: JSON = {"object": "explanation", "model": request.get("model"), "key": key, "refused": None}
        try:
            await self._decide(request, principal, told)
        except GatewayError as exc:
            told["refused"] = _refusal(exc)
        return told

    async def _answer(self, asked: Asked) -> JSON:
        question = _question(asked.body)
        return await self.explain(question.request, question.key)

    async def _decide(self, request: Mapping[str, Any], principal: Principal, told: JSON) -> None:
        """The steps of ``Pipeline.run`` that decide, each telling what it found."""
        read = read_embeddings if "input" in request and "messages" not in request else read_call
        call = read("explained", orjson.dumps(request), principal, self.allow)
        route = self.router.resolve(call.model, principal)
        record = CallRecord(call.id, requested_tier=call.request.get("service_tier"))
        record.effective_tier = tiers.effective(call.request, principal)
        refusal = await self._of_model(call, principal, route, record, told)
        plan = told["plan"]
        if refusal is not None:
            cheaper = self.router.cheaper(route, principal) if isinstance(refusal, LimitExceeded) else None
            if cheaper is None or not await self._instead(call, principal, cheaper, record, told):
                raise refusal
            told["instead"]["because"] = _refusal(refusal)
            route, plan = cheaper, told["instead"]["plan"]
        if none := _none_serves(plan, route):
            raise none

    async def _instead(self, call: Call, principal: Principal, cheaper: Route, record: CallRecord, told: JSON) -> bool:
        """Whether the cheaper model serves what a limit refuses, and how."""
        how: JSON = {}
        try:
            refused = await self._of_model(call, principal, cheaper, record, how)
        except GatewayError:
            return False  # the refusal is about the model that was asked for
        if refused is None:
            told["instead"] = how
        return refused is None

    async def _of_model(
        self, call: Call, principal: Principal, route: Route, record: CallRecord, told: JSON
    ) -> GatewayError | None:
        """Tell what a model would do with the call; the refusal, where its limits could never admit it."""
        told["route"] = route.name
        plan = tiers.fitting(self.router.plan(route, call), record, principal)
        tier = record.effective_tier or "default"
        told["service_tier"] = {"requested": record.requested_tier, "effective": tier}
        meter, refusal = self._untouched(), None
        limits = meter.limiter.applies(principal, route.name, tier)
        hard = limits is not None and bool(limits.budgets)
        bound = meter.estimator.bound(call, plan, route.config.params.default, hard=hard)
        try:
            held = await meter.reserve(call, principal, route, plan, record)
        except GatewayError as exc:
            refusal = exc
        else:
            bound = held.bound
            if held.downgraded:
                told["service_tier"] |= {"runs_at": held.tier, "downgrade": held.downgraded}
                tier, limits = held.tier, meter.limiter.applies(principal, route.name, held.tier)
                hard = limits is not None and bool(limits.budgets)
        worst = max((meter.worst_case(d, bound, tier) for d in plan), default=0)
        amounts = Amounts(1, bound.input_tokens, bound.output_tokens, worst)
        told["limits"] = [_limit(limit, amounts.vector()) for limit in (limits.limits if limits is not None else ())]
        told["reserves"] = {
            "requests": 1,
            "input_tokens": bound.input_tokens,
            "output_tokens": bound.output_tokens,
            "cost_usd": dollars(worst),
        }
        told["plan"] = [await self._deployment(meter, call, route, d, tier, bound, hard=hard) for d in plan]
        told["otherwise"] = self._otherwise(route, principal, plan)
        return refusal

    def _untouched(self) -> Meter:
        """A meter of which nothing was taken yet: what it refuses can never be admitted, and it keeps nothing."""
        own = self.meter
        return Meter(own.limiter.untouched(), own.prices, own.estimator, None, own.pools, Ramps())

    async def _deployment(
        self, meter: Meter, call: Call, route: Route, deployment: Deployment, tier: str, bound: Bound, *, hard: bool
    ) -> JSON:
        told: JSON = {"deployment": deployment.id, "provider": deployment.provider, "refused": None}
        price = meter.prices.price(deployment)
        if price is None and hard:
            return {**told, "refused": {"param": "model", "message": NO_PRICE}}
        most = meter.worst_case(deployment, bound, tier)
        if price is not None:
            prompt = meter.prices.cost(deployment, Usage(input=bound.input_tokens), tier)
            told["cost_usd"] = {"likely_prompt": dollars(prompt), "at_most": dollars(most)}
        target = replace(deployment.target, api_key="", headers=dict.fromkeys(deployment.target.headers, ""))
        try:
            amounts = Amounts(1, bound.input_tokens, bound.output_tokens, most)
            await meter.limiter.reserve_capacity(deployment.id, deployment.id, amounts)
            request, chosen = outgoing(call, route, deployment, tier, bound.max_output, tiers.attempt(deployment, tier))
            told["service_tier"] = chosen.sent
            told["timeouts"] = deployment.tier_timeouts.get(chosen.expected, deployment.timeouts).model_dump()
            sent = call.operation.prepare(deployment.adapter, request, target)
        except (UnsupportedParameter, LimitExceeded) as exc:
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


def _refusal(error: GatewayError) -> JSON:
    return {"status": error.status, **error.to_openai()["error"]}


def _limit(limit: Limit, takes: Vector) -> JSON:
    """A limit, and what the request takes of it."""
    said = {"cap": limit.cap, "takes": takes[limit.unit]}
    if limit.unit == COST:
        return {"scope": limit.scope, "limit": NAMES[limit.field], **{k: f"${dollars(v)}" for k, v in said.items()}}
    return {"scope": limit.scope, "limit": NAMES[limit.field], **said}


def _none_serves(plan: Sequence[JSON], route: Route) -> GatewayError | None:
    """The refusal, where every deployment refuses and nothing comes after them."""
    refusals = [told["refused"] for told in plan]
    if not refusals or not all(refusals):
        return None
    last = refusals[-1]
    if last["param"] is not None:
        return InvalidRequest(last["message"], param=last["param"], code="unsupported_parameter")
    return LimitExceeded(last["message"]) if route.config.fallbacks.is_empty else None


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
