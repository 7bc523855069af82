"""Active checks of upstreams: whether a provider can be reached, found out before a request must.

Off unless ``health.active`` is there. ``connect`` opens a connection (TCP and TLS) and keeps it for the next request; ``models``
lists the provider's models with its credential; neither is billed. ``completion`` asks for a word, which is billed by the
provider and is in no ledger of ours: for those who ask for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
from prometheus_client import CollectorRegistry, Gauge

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import UpstreamRequest
from config.schema import ActiveChecks, Timeouts

from . import series
from .call import Deployment, Route
from .credentials import Credentials
from .fleet import Fleet
from .upstream import Upstream

log = logging.getLogger("sluice.health")

IDLE = 1.0
"""Seconds between two looks whether checks were switched on."""
LISTS = (("/chat/completions", "/models"), ("/v1/messages", "/v1/models"))
"""How the address of a completion ends, and that of the list of models in the same dialect."""
MAX_BODY = 4 * 1024 * 1024
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks see of the configuration that runs."""

    options: ActiveChecks | None
    routes: Mapping[str, Route]
    upstreams: Mapping[str, Upstream]


class ActiveHealth:
    """Checks every deployment's provider once an interval, each origin and credential once."""

    def __init__(
        self, registry: CollectorRegistry, fleet: Fleet, credentials: Credentials, runs: Callable[[], Checked]
    ) -> None:
        self._fleet = fleet
        self._credentials = credentials
        self._runs = runs
        self._down: set[str] = set()
        """Deployments that a check found away."""
        self._told: set[str] = set()
        """Providers that have series."""
        self._task: asyncio.Task[None] | None = None

        def gauge(name: str, text: str, mode: str) -> Gauge:
            return Gauge(name, text, ["provider"], registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]  # a Literal

        self._reachable = gauge(
            "sluice_upstream_reachable", "1 where the last active check of any of its deployments succeeded.", "livemin"
        )
        self._seconds = gauge("sluice_upstream_check_seconds", "What the last active check took.", "livemax")

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def check(self) -> None:
        """Check everything once; never raises for a provider that is away."""
        runs = self._runs()
        options = runs.options
        found = () if options is None else tuple(groups(runs.routes.values(), alone=options.kind == "completion"))
        self._forget_all_but({d.id: d.provider for group in found for d in group})
        if options is None:
            return
        several, answers = asyncio.Semaphore(AT_ONCE), dict[str, list[tuple[bool, float]]]()

        async def one(group: tuple[Deployment, ...]) -> None:
            async with several:
                if (answer := await self._check(group, options, runs)) is not None:
                    answers.setdefault(group[0].provider, []).append(answer)

        try:
            async with asyncio.TaskGroup() as tasks:
                for group in found:
                    tasks.create_task(one(group))
        finally:
            self._tell(answers)

    def _tell(self, answers: Mapping[str, Sequence[tuple[bool, float]]]) -> None:
        """Which providers answered, however many of their deployments were asked: one of these that fails is away alone."""
        for provider, told in answers.items():
            self._told.add(provider)
            self._reachable.labels(provider).set(any(answered for answered, _ in told))
            self._seconds.labels(provider).set(max(took for _, took in told))

    def _forget_all_but(self, checked: Mapping[str, str]) -> None:
        """A reload may have removed what was checked, or the checks: no series tells of it. ``checked``: the provider of each deployment."""
        gone = self._told.difference(checked.values())
        series.end(self._reachable, gone, 1)
        series.end(self._seconds, gone, 0)
        self._told -= gone
        self._down.intersection_update(checked)

    async def _watch(self) -> None:
        while True:
            options = self._runs().options
            try:
                await self.check()
            except Exception:
                log.exception("an active check failed")
            await asyncio.sleep(options.interval if options is not None else IDLE)

    async def _check(
        self, group: tuple[Deployment, ...], options: ActiveChecks, runs: Checked
    ) -> tuple[bool, float] | None:
        """Whether there was an answer, and the seconds until then; None where nothing could be asked."""
        first, began = group[0], time.perf_counter()
        try:
            async with asyncio.timeout(options.timeout):
                await self._ask(first, options, runs.upstreams[first.provider])
            failure = None
        except TimeoutError:
            failure = ProviderError(ErrorKind.TIMEOUT, "The active check was not answered in time.")
        except ProviderError as exc:
            failure = exc
        except UnsupportedParameter:
            return None  # a model that completes nothing: no check can be made of it
        took = time.perf_counter() - began
        if failure is None or not self._credentials.at_fault(first.credential, failure, took):
            for deployment in group:
                self._note(deployment, failure, runs.routes)
        return failure is None, took

    def _note(self, deployment: Deployment, failure: ProviderError | None, routes: Mapping[str, Route]) -> None:
        """A failure counts like one of a request; a success ends only what checks have begun, for it proves less."""
        health = self._fleet[deployment.id].health
        if failure is not None:
            if deployment.id not in self._down:
                told = {"event": "active check failed", "deployment": deployment.id, "kind": failure.kind.value}
                log.warning("%s", orjson.dumps(told).decode())
            self._down.add(deployment.id)
            alone = all(len(r.deployments) == 1 for r in routes.values() if deployment in r.deployments)
            health.failed(failure, last=alone)
        elif deployment.id in self._down:
            self._down.discard(deployment.id)
            health.succeeded()

    async def _ask(self, deployment: Deployment, options: ActiveChecks, upstream: Upstream) -> None:
        timeouts = Timeouts(connect=options.timeout, first_byte=options.timeout, response=options.timeout)
        sent = await self._prepared(deployment)
        listing = models_request(sent) if options.kind == "models" else None
        if options.kind != "completion" and listing is None:
            await upstream.reach(sent.url, options.timeout)
            return
        response = await upstream.open(listing or sent, timeouts, method="GET" if listing else "POST")
        try:
            body = await response.read(MAX_BODY)
        except BaseException:
            response.abort()
            raise
        if response.status >= 400:
            error = deployment.adapter.error(response.status, response.headers, body)
            if error.kind not in (
                ErrorKind.INVALID_REQUEST,
                ErrorKind.NOT_FOUND,
            ):  # it answers, whatever it thinks of us
                raise error

    async def _prepared(self, deployment: Deployment) -> UpstreamRequest:
        target = deployment.target
        if deployment.credential is not None:
            target = replace(target, api_key=await self._credentials.token(deployment.credential))
        sent = deployment.adapter.prepare(
            {"model": target.model, "messages": [{"role": "user", "content": "ping"}], "max_completion_tokens": 16},
            target,
        )
        return await self._credentials.sign(sent, deployment.credential) if deployment.credential is not None else sent


def groups(routes: Iterable[Route], *, alone: bool) -> Iterator[tuple[Deployment, ...]]:
    """Deployments that one check speaks for: all of an account, or each ``alone``."""
    known: dict[str, dict[str, Deployment]] = {}
    for route in routes:
        for deployment in route.deployments:
            known.setdefault(deployment.id if alone else deployment.provider, {})[deployment.id] = deployment
    return (tuple(found.values()) for found in known.values())


def models_request(sent: UpstreamRequest) -> UpstreamRequest | None:
    """The list of models with the same credential; None in a dialect that has none we know."""
    for end, listing in LISTS:
        if sent.url.endswith(end):
            kept = {name: value for name, value in sent.headers.items() if name.lower() != "content-type"}
            return replace(sent, url=sent.url.removesuffix(end) + listing, headers=kept, body=b"", stream=False)
    return None
