"""What a schema cannot say: references between options, cycles, secrets that are too weak."""

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from urllib.parse import urlsplit

from .schema import AsManyAsCpus, Config, Deployment, Key, LimitValues, PublicModel

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s*]+")
MIN_SECRET = 32
"""Characters of a secret below which it can be guessed (256 bits in base62 are 43)."""


def problems(config: Config) -> list[str]:
    """One line for each mistake, each naming its path; empty for a good configuration."""
    checks = (
        _references,
        _cycles,
        _owners,
        _keys,
        _secrets,
        _headers,
        _addresses,
        _origins,
        _identity,
        _capacities,
        _queues,
        _workers,
        _watching,
    )
    return [line for check in checks for line in check(config)]


def _unknown(path: str, what: str, name: str, known: Collection[str]) -> str:
    import difflib  # for who has made a mistake

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"{path}: no {what} '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


def _references(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        if "*" in name:
            yield f'models.{name}: a wildcard is an alias: `aliases: {{"{name}": MODEL}}` maps all such names to one model'
        yield from _model_references(f"models.{name}", model, config)
    for alias, target in config.aliases.items():
        if alias in config.models:
            yield f"aliases.{alias}: is a model already"
        if target not in config.models:
            yield _unknown(f"aliases.{alias}", "model", target, config.models)
    for group, members in config.model_groups.items():
        for i, member in enumerate(members):
            if member not in config.models:
                yield _unknown(f"model_groups.{group}[{i}]", "model", member, config.models)


def _model_references(path: str, model: PublicModel, config: Config) -> Iterator[str]:
    seen: set[str] = set()
    for i, deployment in enumerate(model.deployments):
        if deployment.provider not in config.providers:
            where = f"{path}.deployments[{i}].provider"
            yield _unknown(where, "provider", deployment.provider, config.providers)
        identity = _called(deployment)
        if identity in seen:
            yield f"{path}.deployments[{i}]: a second deployment called '{identity}'; give it a `name` of its own"
        seen.add(identity)
    for kind, targets in model.fallbacks:
        for i, target in enumerate(targets):
            if target not in config.models:
                yield _unknown(f"{path}.fallbacks.{kind}[{i}]", "model", target, config.models)
    if model.cheaper is not None and model.cheaper not in config.models:
        yield _unknown(f"{path}.cheaper", "model", model.cheaper, config.models)


def _called(deployment: Deployment) -> str:
    return deployment.name or f"{deployment.provider}/{deployment.model}"


def _capacities(config: Config) -> Iterator[str]:
    """Deployments of one name share what was bought for them, whichever models they serve."""
    first: dict[str, tuple[str, LimitValues]] = {}
    for name, model in config.models.items():
        for i, deployment in enumerate(model.deployments):
            path, called = f"models.{name}.deployments[{i}]", _called(deployment)
            where, limits = first.setdefault(called, (path, deployment.limits))
            if limits != deployment.limits:
                yield (
                    f"{path}.limits: differ from those of '{called}' at {where}, and deployments of one name share "
                    "theirs; say the same at both, or give one a `name`"
                )


def _cycles(config: Config) -> Iterator[str]:
    """Fallback lists may share models, but a chain must not come back to where it began."""
    edges = {
        name: [t for _, targets in model.fallbacks for t in targets] + ([model.cheaper] if model.cheaper else [])
        for name, model in config.models.items()
    }
    for start in edges:
        if cycle := _find_cycle(start, edges):
            yield f"models.{start}.fallbacks: a cycle: {' -> '.join(cycle)}"


def _find_cycle(start: str, edges: dict[str, list[str]]) -> list[str] | None:
    stack = [(start, [start])]
    seen = set()
    while stack:
        node, path = stack.pop()
        for following in edges.get(node, []):
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                stack.append((following, [*path, following]))
    return None


def _owners(config: Config) -> Iterator[str]:
    organizations = {*config.organizations, "default"}
    for name, team in config.teams.items():
        if team.organization not in organizations:
            yield _unknown(f"teams.{name}.organization", "organization", team.organization, organizations)
    for name, user in config.users.items():
        if user.team is not None and user.team not in config.teams:
            yield _unknown(f"users.{name}.team", "team", user.team, config.teams)
    owners: list[tuple[str, Iterable[str]]] = [
        *((f"keys[{i}] ({k.name})", k.limits.per_model) for i, k in enumerate(config.keys)),
        *((f"teams.{n}", t.limits.per_model) for n, t in config.teams.items()),
        *((f"users.{n}", u.limits.per_model) for n, u in config.users.items()),
        *((f"organizations.{n}", o.limits.per_model) for n, o in config.organizations.items()),
    ]
    known = {*config.models, *config.model_groups}
    for path, models in owners:
        for model in models:
            if model not in known:
                yield _unknown(f"{path}.limits.per_model.{model}", "model or model group", model, known)


def _keys(config: Config) -> Iterator[str]:
    names: set[str] = set()
    for i, key in enumerate(config.keys):
        path = f"keys[{i}]"
        if key.name in names:
            yield f"{path}.name: a second key called '{key.name}'"
        names.add(key.name)
        yield from _key_references(path, key, config)
    digests = [digest for key in config.keys if (digest := _digest(key))]
    if len(set(digests)) != len(digests):
        yield "keys: two keys have the same secret"


def _digest(key: Key) -> str | None:
    """What the key is found by, however it is given; None for one without either."""
    return _sha256(key.key.get_secret_value()) if key.key is not None else key.digest


def _sha256(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _key_references(path: str, key: Key, config: Config) -> Iterator[str]:
    if (key.key is None) == (key.digest is None):
        yield f"{path}: give either `key` or `digest`"
    if key.expires is not None and not _is_moment(key.expires):
        yield f"{path}.expires: not an ISO 8601 date and time; write 2030-01-31T00:00:00Z"
    if key.team is not None and key.team not in config.teams:
        yield _unknown(f"{path}.team", "team", key.team, config.teams)
    if key.user is not None and key.user not in config.users:
        yield _unknown(f"{path}.user", "user", key.user, config.users)
    for alias, target in key.aliases.items():
        if target not in config.models and target not in config.aliases:
            yield _unknown(f"{path}.aliases.{alias}", "model", target, config.models)


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _secrets(config: Config) -> Iterator[str]:
    if config.auth.pepper is not None and len(config.auth.pepper.get_secret_value()) < MIN_SECRET:
        yield f"auth.pepper: shorter than {MIN_SECRET} characters"
    for i, pepper in enumerate(config.auth.previous_peppers):
        if len(pepper.get_secret_value()) < MIN_SECRET:
            yield f"auth.previous_peppers[{i}]: shorter than {MIN_SECRET} characters"
    data_keys = {_digest(key) for key in config.keys}
    known: set[str] = set()
    for name, admin in config.admin.keys.items():
        if len(admin.get_secret_value()) < MIN_SECRET:
            yield f"admin.keys.{name}: shorter than {MIN_SECRET} characters"
        digest = _sha256(admin.get_secret_value())
        if digest in data_keys:
            yield f"admin.keys.{name}: is also a virtual key; they must differ"
        if digest in known:
            yield f"admin.keys.{name}: is another admin key too; the audit log could not tell who did something"
        known.add(digest)
    for i, key in enumerate(config.keys):
        if key.key is not None and len(key.key.get_secret_value()) < 16:
            yield f"keys[{i}].key: shorter than 16 characters"


def _headers(config: Config) -> Iterator[str]:
    """What must fit into a header: files that secrets are kept in end with a line break more often than not."""
    secrets = [
        *((f"providers.{name}.api_key", p.api_key) for name, p in config.providers.items()),
        *((f"providers.{n}.headers.{h}", v) for n, p in config.providers.items() for h, v in p.headers.items()),
        *((f"keys[{i}].key", key.key) for i, key in enumerate(config.keys)),
        *((f"admin.keys.{name}", key) for name, key in config.admin.keys.items()),
    ]
    for path, secret in secrets:
        text = secret.get_secret_value() if secret is not None else ""
        if text != text.strip() or _CONTROL.search(text):
            yield f"{path}: no header can hold it: it ends or begins with a blank or a line break, or has one in it"


def _addresses(config: Config) -> Iterator[str]:
    for name, provider in config.providers.items():
        url = provider.base_url or ""
        if url and not _is_address(url, "http", "https"):
            yield f"providers.{name}.base_url: not an address; write https://HOST/v1"
        host = url.removeprefix("http://").split("/", 1)[0].rsplit("@", 1)[-1]
        loopback = host.startswith(("127.", "localhost", "[::1]"))
        if url.startswith("http://") and not loopback and not provider.allow_plain_http:
            yield f"providers.{name}.base_url: http:// sends the key in the clear; set allow_plain_http if that is wanted"
        if "@" in url.split("//", 1)[-1].split("/", 1)[0]:
            yield f"providers.{name}.base_url: must not carry a user or password"

    if config.redis is not None:
        schemes = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")
        if not _is_address(config.redis.url.get_secret_value(), *schemes):
            yield "redis.url: not an address; write redis://HOST:6379/0, rediss://, redis+cluster:// or unix://"
        elif not _names_a_database(config.redis.url.get_secret_value()):
            yield "redis.url: its path is no number of a database; write redis://HOST:6379/0"
    webhook = config.counters.webhook
    if webhook is not None and not _is_address(webhook.get_secret_value(), "http", "https"):
        yield "counters.webhook: not an address; write https://..."
    if config.tracing.endpoint is not None and not _is_address(config.tracing.endpoint, "http", "https"):
        yield "tracing.endpoint: not an address; write http://collector:4318/v1/traces"
    if config.tracing.langfuse is not None and not _is_address(config.tracing.langfuse.host, "http", "https"):
        yield "tracing.langfuse.host: not an address; write https://cloud.langfuse.com"


def _is_address(url: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and parts.port != 0 and bool(parts.hostname or parts.scheme == "unix")
    except ValueError:  # a port that is no number
        return False


def _origins(config: Config) -> Iterator[str]:
    for i, origin in enumerate(config.server.cors_origins):
        if not _ORIGIN.fullmatch(origin):
            yield f"server.cors_origins[{i}]: not an origin as browsers send it; write https://HOST, or * for all"


def _names_a_database(url: str) -> bool:
    """Whether a client would know which one; it takes the first where it cannot read the number."""
    parts = urlsplit(url)
    return parts.scheme == "unix" or parts.path in ("", "/") or parts.path[1:].isdecimal()


def _identity(config: Config) -> Iterator[str]:
    if config.auth.jwt is not None:
        jwks, safe = config.auth.jwt.jwks_url, ["https"]
        if _is_address(jwks, "http") and urlsplit(jwks).hostname in ("127.0.0.1", "localhost", "::1"):
            safe.append("http")
        if not _is_address(jwks, *safe):
            yield "auth.jwt.jwks_url: must be an https:// address: who can change the answer can sign tokens"


def _queues(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        if model.queue is None:
            continue
        if model.queue.min_capacity > model.queue.capacity:
            yield f"models.{name}.queue.min_capacity: above `capacity`"
        if model.queue.capacity < config.server.workers:
            yield (
                f"models.{name}.queue.capacity: below server.workers{_auto(config)}, so some worker could never serve "
                "the model"
            )


def _workers(config: Config) -> Iterator[str]:
    if config.server.workers > 1 and config.redis is None:
        yield (
            f"server.workers: more than one worker{_auto(config)} needs `redis`: a limit that each worker enforces alone "
            "is not a limit"
        )


def _auto(config: Config) -> str:
    workers = config.server.workers
    return f" (auto is {workers} here)" if isinstance(workers, AsManyAsCpus) else ""


def _watching(config: Config) -> Iterator[str]:
    """What would watch or show something that is not there."""
    if "redis" in config.admin.ready_requires and config.redis is None:
        yield "admin.ready_requires: there is no `redis` in this configuration"
    if config.tracing.content and not config.tracing.enabled:
        yield "tracing.content: needs `tracing.endpoint` or `tracing.langfuse`"
