"""A LiteLLM configuration file becomes one of ours, with a list of what it could not say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.schema import Params

from ..deployments import wrong_parameters
from .extras import PRICES, extras, is_sent, number, whole_weights
from .providers import CONNECTION, Providers, reference
from .settings import JSON, money, name, surprises, window
from .shapes import Shapes, plain_keys

_STRATEGIES = {
    "simple-shuffle": "weighted",
    "least-busy": "least_busy",
    "latency-based-routing": "lowest_latency",
    "cost-based-routing": "lowest_cost",
}
_MODES = (None, "chat", "completion", "embedding", "responses")
_OURS = (
    frozenset({"rpm", "tpm", "max_parallel_requests", "weight", "order", "timeout", "stream_timeout", *PRICES})
    | CONNECTION
)
_ELSEWHERE = frozenset({"max_retries", "num_retries", "tags"})
_INFO = frozenset({"mode", "base_model", "max_input_tokens", "max_output_tokens", "db_model", *PRICES})
"""What is taken of ``model_info``; ``db_model`` says where LiteLLM had it from."""
_FALLBACKS = {
    "fallbacks": "any",
    "context_window_fallbacks": "context_length",
    "content_policy_fallbacks": "content_policy",
}
_SECTIONS = ("model_list", "router_settings", "litellm_settings", "general_settings", "credential_list")


@dataclass(slots=True)
class Converted:
    """``document`` is ready to be written as YAML; ``notes`` are for the operator to read."""

    document: JSON
    notes: list[str] = field(default_factory=list)


def convert(source: Mapping[str, Any]) -> Converted:
    """Never raises for a mapping, whatever is in it: what is not understood is a note."""
    return _Conversion(source).run()


class _Conversion:
    def __init__(self, source: Mapping[str, Any]) -> None:
        self.notes: list[str] = []
        self._shapes = Shapes(self.notes)
        self._source = source = plain_keys(source)
        self._providers = Providers(self.notes)
        self._models: dict[str, JSON] = {}
        self._limits: dict[str, Any] = {}
        """Of deployments that are named after their address."""
        sections = ("router_settings", "litellm_settings", "general_settings")
        router, litellm, general = (dict(self._shapes.mapping(source.get(key), key)) for key in sections)
        self._settings = {**litellm, **router}
        """The router's settings win."""
        self._general = general
        self._credentials = {
            str(item.get("credential_name")): self._shapes.mapping(
                item.get("credential_values"), f"{where}.credential_values"
            )
            for where, item in self._shapes.mappings(source.get("credential_list"), "credential_list")
        }
        self._used: set[str] = set()
        self._exact: set[str] = set()
        """Public names that are names here too."""
        self._renamed: dict[str, str] = {}
        """What became of the others, and of which they are."""

    def run(self) -> Converted:
        listed = list(self._shapes.mappings(self._source.get("model_list"), "model_list"))
        self._exact = {public for _, item in listed if (public := str(item.get("model_name"))) == name(public)}
        for where, item in listed:
            self._deployment(item, where)
        self._defaults()
        self._fallbacks()
        document: JSON = {"providers": self._providers.providers, "models": self._models}
        for section in (self._aliases, self._redis, self._retries, self._timeouts, self._admin, self._budget):
            document.update(section())
        self._unused()
        return Converted(document, self.notes)

    def _take(self, key: str) -> Any:
        self._used.add(key)
        return self._settings.get(key)

    def _number(self, key: str, most: float | None = None) -> float | None:
        """A setting that is a number; says so where it is none, or more than there can be here."""
        given = self._take(key)
        found = number(given)
        if given is not None and found is None:
            self.notes.append(f"{_home(self._source, key)}.{key}: not a number; left out")
        if found is not None and most is not None and found > most:
            self.notes.append(
                f"{_home(self._source, key)}.{key}: {found:g} becomes {most:g}, the most that there can be"
            )
            return most
        return found

    def _deployment(self, item: JSON, where: str) -> None:
        parameters = self._shapes.mapping(item.get("litellm_params"), f"{where}.litellm_params")
        named = parameters.get("litellm_credential_name")
        if named is not None and str(named) not in self._credentials:
            self.notes.append(f"{where}.litellm_params.litellm_credential_name: no '{named}' in credential_list")
        parameters = {**self._credentials.get(str(named), {}), **parameters}
        for key in ("extra_headers", "extra_body"):
            self._shapes.mapping(parameters.get(key), f"{where}.litellm_params.{key}")
        info = self._shapes.mapping(item.get("model_info"), f"{where}.model_info")
        public = str(item.get("model_name") or "")
        if not public or not parameters.get("model"):
            self.notes.append(f"{where}: has no model_name or no litellm_params.model; left out")
            return
        if "*" in public or "*" in str(parameters["model"]):
            self.notes.append(f"{where}: wildcard '{public}': name the models one by one; left out")
            return
        if info.get("mode") not in _MODES:
            self.notes.append(f"{where}: mode '{info['mode']}' is not served; left out")
            return
        if not self._may_be_called(public, where):
            return
        found = self._providers.of(parameters, where)
        if found is None:
            return
        provider, upstream = found
        model = self._models.setdefault(name(public), {"deployments": []})
        told = extras(parameters, info, lambda note: self.notes.append(where + note))
        deployment: JSON = {"provider": provider, "model": upstream, **told}
        taken = {d.get("name") or f"{d['provider']}/{d['model']}" for d in model["deployments"]}
        address, limits = f"{provider}/{upstream}", deployment.get("limits")
        if address in taken or self._limits.setdefault(address, limits) != limits:  # those of one name share limits
            deployment["name"] = f"{name(public)}-{len(taken) + 1}"
        for key in sorted(info.keys() - _INFO):
            self.notes.append(f"{where}.model_info.{key}: not supported, ignored")
        model["deployments"].append(deployment)
        self._parameters(model, parameters, where)

    def _may_be_called(self, public: str, where: str) -> bool:
        """Says what a name becomes that cannot be one here; False where another model has that name."""
        ours = name(public)
        if ours == public:
            return True
        if ours in self._exact or self._renamed.setdefault(ours, public) != public:
            self.notes.append(f"{where}: '{public}' would be '{ours}' here, as another model is; rename it; left out")
            return False
        note = (
            f"model_name '{public}' becomes '{ours}', which clients must ask for: names have no blanks, bars or braces"
        )
        if note not in self.notes:
            self.notes.append(note)
        return True

    def _parameters(self, model: JSON, parameters: JSON, where: str) -> None:
        """Whatever else stands among a deployment's parameters is a default of requests."""
        extra = parameters.get("extra_body")
        rest = {k: v for k, v in parameters.items() if k not in _OURS | _ELSEWHERE | {"extra_body"} and v is not None}
        rest.update(extra if isinstance(extra, dict) else {})
        for key in _ELSEWHERE & parameters.keys():
            self.notes.append(f"{where}.litellm_params.{key}: ignored")
        for key in list(rest):
            if key == "service_tier":
                self.notes.append(f"{where}.litellm_params.{key}: say it as `tiers.default` of keys, teams or users")
                del rest[key]
            elif not is_sent(key):
                self.notes.append(f"{where}.litellm_params.{key}: not supported, ignored")
                del rest[key]
            elif wrong := next(wrong_parameters(Params(default={key: reference(rest[key])})), None):
                self.notes.append(f"{where}.litellm_params.{key}: left out: {wrong.partition(': ')[2]}")
                del rest[key]
        if not rest:
            return
        defaults = model.setdefault("params", {}).setdefault("default", {})
        for key, value in rest.items():
            if key in defaults and defaults[key] != reference(value):
                self.notes.append(f"{where}.litellm_params.{key}: defaults are per model; the first one is kept")
            defaults.setdefault(key, reference(value))
        self.notes.append(f"{where}: taken for request defaults: {', '.join(sorted(rest))}")

    def _defaults(self) -> None:
        strategy = str(self._take("routing_strategy") or "simple-shuffle")
        if strategy not in _STRATEGIES:
            self.notes.append(f"router_settings.routing_strategy: '{strategy}' becomes weighted")
        drop = _truth(self._take("drop_params"))
        for model in self._models.values():
            whole_weights(model["deployments"])
            if len(model["deployments"]) > 1:
                model["strategy"] = _STRATEGIES.get(strategy, "weighted")
            if drop:
                model.setdefault("params", {})["unsupported"] = "drop"

    def _fallbacks(self) -> None:
        edges: dict[str, set[str]] = {}
        for theirs, ours in _FALLBACKS.items():
            for _, item in self._shapes.mappings(self._take(theirs), f"{_home(self._source, theirs)}.{theirs}"):
                for source, targets in item.items():
                    chain = self._shapes.listing(targets, f"{_home(self._source, theirs)}.{theirs} of '{source}'")
                    self._fall_back(name(source), ours, chain, edges)
        where = f"{_home(self._source, 'default_fallbacks')}.default_fallbacks"
        default = self._shapes.listing(self._take("default_fallbacks"), where)
        for model in list(self._models):
            if default and "any" not in self._models[model].get("fallbacks", {}):
                self._fall_back(model, "any", default, edges)

    def _fall_back(self, source: str, kind: str, targets: list[Any], edges: dict[str, set[str]]) -> None:
        if source not in self._models:
            self.notes.append(f"fallbacks of '{source}': no such model")
            return
        for target in map(name, targets):
            if target == source:
                continue
            if target not in self._models or _reaches(target, source, edges):
                why = "it leads back" if target in self._models else "no such model"
                self.notes.append(f"fallback {source} -> {target}: left out, {why}")
                continue
            edges.setdefault(source, set()).add(target)
            chain = self._models[source].setdefault("fallbacks", {}).setdefault(kind, [])
            chain.extend([target] if target not in chain else [])

    def _aliases(self) -> JSON:
        aliases = {}
        where = f"{_home(self._source, 'model_group_alias')}.model_group_alias"
        for alias, told in self._shapes.mapping(self._take("model_group_alias"), where).items():
            if name(alias) != alias:
                self.notes.append(f"{where}: '{alias}' becomes '{name(alias)}', which clients must ask for")
            target = name(told.get("model") if isinstance(told, dict) else told)
            if target in self._models and name(alias) not in self._models:
                aliases[name(alias)] = target
            else:
                self.notes.append(f"model_group_alias.{alias}: left out")
        return {"aliases": aliases} if aliases else {}

    def _redis(self) -> JSON:
        given = {key: reference(self._take(f"redis_{key}")) for key in ("url", "host", "port", "password")}
        given = {key: value if value is None else str(value) for key, value in given.items()}
        if given["url"]:
            if "@" in given["url"] and not given["url"].startswith("${"):
                self.notes.append("router_settings.redis_url has a password in it; set REDIS_URL to it")
                given["url"] = "${REDIS_URL}"
            return {"redis": {"url": given["url"]}}
        if not given["host"]:
            return {}
        secret = f":{given['password']}@" if given["password"] else ""
        if secret and "${" not in secret:
            self.notes.append("router_settings.redis_password stands in the file; set REDIS_PASSWORD")
            secret = ":${REDIS_PASSWORD}@"
        return {"redis": {"url": f"redis://{secret}{given['host']}:{given['port'] or 6379}/0"}}

    def _retries(self) -> JSON:
        told: JSON = {}
        retries, fails, cooldown = (
            self._number("num_retries", 9),
            self._number("allowed_fails"),
            self._number("cooldown_time", 300),
        )
        if retries is not None:
            told["retries"] = {"attempts": int(retries) + 1}
        health: JSON = {}
        if fails is not None:
            health["consecutive_failures"] = int(fails) + 1
        if cooldown:
            health["open_seconds"] = cooldown
        elif cooldown is not None:
            self.notes.append(f"{_home(self._source, 'cooldown_time')}.cooldown_time: 0 is not possible; left out")
        return {**told, "health": health} if health else told

    def _timeouts(self) -> JSON:
        timeout, request = self._number("timeout", 86_400), self._number("request_timeout", 86_400)
        seconds = timeout if timeout is not None else request
        told = {"response": seconds, "first_byte": self._number("stream_timeout", 86_400)}
        found = {key: value for key, value in told.items() if value}
        return {"timeouts": found} if found else {}

    def _admin(self) -> JSON:
        told: JSON = {"auth": {"pepper": "${SLUICE_PEPPER}"}}
        self.notes.append("auth.pepper: set SLUICE_PEPPER to 32 or more random characters and keep them")
        if self._general.pop("master_key", None):
            told["admin"] = {"keys": {"ops": "${SLUICE_ADMIN_KEY}"}, "litellm_compat": True}
            self.notes.append("general_settings.master_key: set SLUICE_ADMIN_KEY, with 32 or more characters, instead")
        if self._general.pop("database_url", None):
            self.notes.append("general_settings.database_url: give it with --database-url to bring keys along")
        return told

    def _budget(self) -> JSON:
        given, span = self._take("max_budget"), self._take("budget_duration")
        self.notes += [
            f"{_home(self._source, 'max_budget')}.{s}"
            for s in surprises({"max_budget": given, "budget_duration": span})
        ]
        amount = money(given)
        return {"organizations": {"default": {"limits": {"budget": {window(span): amount}}}}} if amount else {}

    def _unused(self) -> None:
        for key in self._settings:
            if key not in self._used and key not in ("set_verbose", "json_logs"):
                self.notes.append(f"{_home(self._source, key)}.{key}: not supported, ignored")
        self.notes += [f"general_settings.{key}: not supported, ignored" for key in self._general]
        self.notes += [f"{key}: not supported, ignored" for key in self._source if key not in _SECTIONS]


def _reaches(start: str, end: str, edges: Mapping[str, set[str]]) -> bool:
    seen, stack = set(), [start]
    while stack:
        node = stack.pop()
        if node == end:
            return True
        if node not in seen:
            seen.add(node)
            stack.extend(edges.get(node, ()))
    return False


def _home(source: Mapping[str, Any], key: str) -> str:
    router = source.get("router_settings")
    return "router_settings" if isinstance(router, dict) and key in router else "litellm_settings"


def _truth(value: Any) -> bool:
    return value is True or str(value).lower() == "true"
