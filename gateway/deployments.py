"""The providers and models of a configuration, made ready to use once: adapters loaded, options decoded, time-outs merged."""

from collections.abc import Callable, Iterator, Mapping

from adapters import registry
from adapters.interface import Adapter, ContinuingAdapter, CredentialSpec, Target
from adapters.params import GATEWAY_PARAMS, PARAMS
from config.loader import ConfigError
from config.schema import Config, Params, Provider, PublicModel, TimeoutOverrides, Timeouts
from config.schema import Deployment as DeploymentConfig

from .call import Deployment, Route
from .errors import InvalidRequest
from .timeouts import merged, within
from .upstream.head import OURS, lines, locate
from .validation import validate_chat

NO_DEFAULT = GATEWAY_PARAMS | {
    "messages",
    "n",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "modalities",
    "audio",
}
"""What an answer is read or accounted by: it must be what the client sees itself ask for."""
FRAMING = "the gateway writes this header itself, or sends it to nobody"
UNWRITABLE = "a header's name is one word, and its value has no line break (many a secret of a file ends in one) and nothing beyond Latin-1"


def routes(config: Config, check: Callable[[CredentialSpec], None] | None = None) -> dict[str, Route]:
    """Every public model with its deployments; raises ConfigError naming every provider that cannot work.

    ``check`` raises ValueError for a credential whose settings lack something.
    """
    problems: list[str] = []
    loaded = {name: _load(name, provider, problems) for name, provider in config.providers.items()}
    for name, provider in loaded.items():
        if check is not None and provider is not None and provider.credential is not None:
            try:
                check(provider.credential)
            except ValueError as exc:
                problems.append(f"providers.{name}.options: {exc}")
    for name, model in config.models.items():
        problems += (f"models.{name}.params.{problem}" for problem in wrong_parameters(model.params))
    if problems:
        raise ConfigError(problems)
    made = {
        name: Route(
            name,
            model,
            tuple(_deployment(config, name, d, loaded[d.provider]) for d in model.deployments),
        )
        for name, model in config.models.items()
    }
    if problems := [*cannot_continue(made)]:
        raise ConfigError(problems)
    return made


def cannot_continue(table: Mapping[str, Route]) -> Iterator[str]:
    """Deployments that are declared to go on with a begun answer and whose provider would begin another."""
    probe = {"messages": [{"role": "user", "content": "x"}]}
    for name, route in table.items():
        for i, d in enumerate(route.deployments):
            goes_on = isinstance(d.adapter, ContinuingAdapter) and d.adapter.continuing(probe, "x", d.target)
            if d.config.continuation and not goes_on:
                yield (
                    f"models.{name}.deployments[{i}].continuation: {d.provider} begins every answer of "
                    f"'{d.target.model}' anew"
                )


def wrong_parameters(params: Params) -> Iterator[str]:
    """What a model's parameter policy cannot mean: defaults that clients would be refused, or that are not defaults."""
    for name in params.allow:
        if name in PARAMS:
            yield f"allow: '{name}' is a parameter of the API, not an extension; see `unsupported`"
    for name in params.default:
        if name in NO_DEFAULT:
            yield f"default: '{name}' is the client's or the gateway's to choose"
    own = {name: value for name, value in params.default.items() if name not in NO_DEFAULT}
    try:
        validate_chat(
            {"model": "x", "messages": [{"role": "user", "content": "json"}], **own},
            allow=frozenset(own) - frozenset(PARAMS),
        )
    except InvalidRequest as exc:
        yield f"default: {exc.message}"


class _Loaded:
    """A provider with its adapter and decoded options."""

    def __init__(self, config: Provider, adapter: Adapter, options: object) -> None:
        self.config = config
        self.adapter = adapter
        self.options = options
        self.base_url = (config.base_url or adapter.base_url).rstrip("/")
        self.headers = {name.lower(): value.get_secret_value() for name, value in config.headers.items()}
        given = config.api_key is not None or "authorization" in self.headers
        self.credential = None if given else adapter.credential(options)


def _load(name: str, provider: Provider, problems: list[str]) -> "_Loaded":
    path = f"providers.{name}"
    try:
        adapter = registry.load(provider.adapter)
    except LookupError as exc:
        problems.append(f"{path}.adapter: {exc.args[0]}")
        return None  # type: ignore[return-value]  # never used: the problems are raised before
    except ImportError as exc:
        problems.append(f"{path}.adapter: '{provider.adapter}' needs a package that is not installed: {exc.name}")
        return None  # type: ignore[return-value]  # as above
    try:
        options = adapter.options(provider.options)
    except ValueError as exc:
        problems.append(f"{path}.options: {exc}")
        return None  # type: ignore[return-value]  # as above
    if not provider.base_url and not adapter.base_url:
        problems.append(f"{path}.base_url: this adapter has no address of its own; name one")
    problems += (f"{path}.{problem}" for problem in unsendable(provider))
    return _Loaded(provider, adapter, options)


def unsendable(provider: Provider) -> Iterator[str]:
    """What no request can be written with: every one would fail as if the provider were away."""
    if provider.base_url is not None:
        try:
            locate(provider.base_url)
        except ValueError as exc:
            yield f"base_url: {exc}"
    key = provider.api_key
    given = {"api_key": ("authorization", key)} if key is not None else {}
    for where, (name, value) in {**given, **{f"headers.{n}": (n, v) for n, v in provider.headers.items()}}.items():
        try:
            lines([(name, value.get_secret_value())])
        except ValueError:
            yield f"{where}: cannot be sent: {FRAMING if name.lower() in OURS else UNWRITABLE}"


def _deployment(config: Config, name: str, deployment: DeploymentConfig, provider: _Loaded) -> Deployment:
    model, key = config.models[name], provider.config.api_key
    target = Target(
        base_url=provider.base_url,
        model=deployment.model,
        api_key=key.get_secret_value() if key is not None else "",
        options=provider.options,
        unsupported=model.params.unsupported,
        allow=frozenset(model.params.allow),
        max_output=deployment.max_output,
        headers=provider.headers,
    )
    general = TimeoutOverrides(**config.timeouts.model_dump(exclude_unset=True))
    chosen = (general, provider.config.timeouts, model.timeouts, deployment.timeouts)
    base = merged(*chosen)
    own_address = provider.config.base_url is None or provider.base_url == provider.adapter.base_url.rstrip("/")
    return Deployment(
        id=deployment.name or f"{deployment.provider}/{deployment.model}",
        provider=deployment.provider,
        adapter=provider.adapter,
        target=target,
        config=deployment,
        timeouts=within(base, base.request),
        credential=provider.credential,
        trusted_tiers=own_address or deployment.tiers is not None,
        pool=name if model.queue is not None else None,
        takes_priority=getattr(provider.options, "send_priority", None) is True,
        resumable=any(d.continuation for d in model.deployments),
        tier_timeouts=_tier_timeouts(model, base, chosen),
    )


FLEX = TimeoutOverrides(first_byte=900, response=900, request=900, progress=900)
"""Flex is slow by contract: OpenAI advises fifteen minutes (checklist C-466)."""


def _tier_timeouts(model: PublicModel, base: Timeouts, chosen: tuple[TimeoutOverrides, ...]) -> dict[str, Timeouts]:
    """Longer ones for flex, then what the model says of each tier."""
    longest = {name: max(getattr(base, name), value) for name, value in FLEX.model_dump(exclude_none=True).items()}
    flex = (*chosen, TimeoutOverrides(**longest))
    own = model.timeouts_per_tier
    found = {tier: merged(*(flex if tier == "flex" else chosen), of_tier) for tier, of_tier in own.items()}
    found.setdefault("flex", merged(*flex))
    return {tier: within(timeouts, timeouts.request) for tier, timeouts in found.items()}
