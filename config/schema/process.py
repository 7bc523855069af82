"""Options of the gateway itself: listeners, stores, counters, the ledger, retries, health, and what it tells of itself."""

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidatorFunctionWrapHandler, WrapValidator

from .. import cpus
from .models import Price
from .values import Count, Model, Name, Seconds

MOST_WORKERS = 256

AUTO = "auto"


class AsManyAsCpus(int):
    """What ``auto`` comes to here. Elsewhere it may be another number, of a file that is the same."""


@cache
def _as_many_as_cpus() -> AsManyAsCpus:
    """Once for a process: a limit that changes is no other configuration, which a reload would have to refuse."""
    return AsManyAsCpus(min(cpus.available(), MOST_WORKERS))


def _workers(given: Any, check: ValidatorFunctionWrapHandler) -> int:
    number: int = check(given) if given != AUTO else _as_many_as_cpus()
    return number


_Workers = Annotated[int, Field(ge=1, le=MOST_WORKERS)]

Workers = Annotated[_Workers, WrapValidator(_workers, json_schema_input_type=_Workers | Literal["auto"])]


class Server(Model):
    """The data listener: everything under /v1."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    workers: Workers = Field(
        1,
        description="Processes; `auto`: as many as CPUs that it may use, counting a container's limit; more than that stand by. "
        "More than one needs `redis`.",
    )
    max_body: Annotated[int, Field(ge=1024, le=512 * 1024 * 1024)] = Field(
        64 * 1024 * 1024, description="The largest request body. Base64 images and audio need room."
    )
    max_connections: Count = 20_000
    max_requests_in_flight: Count = Field(
        2_000,
        description="Of one worker. Flex is at most half of them and turned away from 80 % on, more and more of default "
        "from 90 % on; above it all.",
    )
    max_loop_lag: Seconds | None = Field(
        0.1,
        description="How late a worker's event loop may run for half a second: then flex is turned away, at twice that "
        "some of default, at four times all of it. null: not watched.",
    )
    header_timeout: Seconds = Field(10, description="For a request's head.")
    body_gap_timeout: Seconds = Field(30, description="Between two pieces of a request body.")
    body_timeout: Seconds = Field(120, description="For a whole request body.")
    keepalive: Seconds = 75
    write_timeout: Seconds = Field(60, description="A client that reads nothing for so long is dropped.")
    drain: Seconds = Field(120, description="How long running streams may finish after SIGTERM.")
    drain_delay: Annotated[float, Field(ge=0, le=600)] = Field(
        5, description="Between not ready and no longer listening, so that load balancers notice."
    )
    cors_origins: tuple[str, ...] = Field((), description="Origins browsers may call from; `*` for all.")
    ping: Seconds | None = Field(
        15, description="An SSE comment is sent when a started stream is silent for so long; null: never."
    )


class Admin(Model):
    """The operators' listener: metrics, readiness and /admin/v1."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8081
    keys: dict[Name, SecretStr] = Field({}, description="Admin keys by name, at least 32 characters each.")
    ready_requires: tuple[Literal["config", "redis", "database"], ...] = Field(
        (),
        description="What must be well for /readyz to say so, once started: `config` (the last reload was not refused), "
        "`redis`, `database`. A store that all replicas share takes all of them out at once; what is refused meanwhile, "
        "`counters.on_outage` says.",
    )
    litellm_compat: bool = Field(False, description="Serve the most scripted LiteLLM endpoints on this listener.")


class Redis(Model):
    url: SecretStr = Field(description="redis://, rediss:// or redis+cluster:// address.")
    timeout: Seconds = Field(0.25, description="For one command, connecting included.")
    require_noeviction: bool = Field(True, description="Refuse to start when Redis may evict counters.")


class Outage(Model):
    """What happens to requests while the counters cannot be reached."""

    money: Literal["closed", "open"] = "closed"
    rates: Literal["local", "closed", "open"] = Field("local", description="local: each worker enforces its share.")


class Counters(Model):
    """Limits and budgets: how they are kept."""

    lease: Seconds = Field(10, description="A worker silent for so long is dead and its reservations are settled.")
    hot_leases: bool = Field(
        True, description="Reserve ahead, in bulk, where limits are hit often; false: each request by itself."
    )
    on_outage: Outage = Outage()
    budget_mode: Literal["strict", "clamp"] = Field(
        "strict", description="clamp: lower max_tokens to what the remaining money buys instead of refusing."
    )
    clamp_min_tokens: Count = 64
    thresholds: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (50, 80, 100), description="Percent of a budget."
    )
    webhook: SecretStr | None = Field(None, description="URL that is told when a threshold is passed.")
    webhook_secret: SecretStr | None = Field(None, description="Signs what `webhook` is told: `X-Sluice-Signature`.")


class Pricing(Model):
    prices: str | None = Field(None, description="A price list instead of the one that is shipped.")
    unpriced: Literal["refuse", "default"] = Field(
        "refuse", description="What happens to a request whose model has no price, when any budget applies to it."
    )
    default: Price | None = Field(None, description="The price of models without one, for `unpriced: default`.")
    default_max_output: Count = Field(
        4096, description="Completion tokens assumed (and asked for, under a budget) where nothing else bounds them."
    )


class Database(Model):
    url: SecretStr = Field(
        SecretStr("sqlite:///sluice.db"),
        description="sqlite:///FILE or postgresql://...: keys, ledger, stored completions.",
    )
    pool_size: Count = 5
    migrate: bool = Field(True, description="Bring the schema up to date at start.")


class Ledger(Model):
    enabled: bool = True
    retention_days: Count | None = Field(None, description="Older rows are rolled up and deleted; absent: kept.")
    journal: str = Field("sluice-journal", description="Folder of the write-ahead journal that makes rows durable.")
    wait_for: Literal["kernel", "disk"] = Field(
        "kernel",
        description="What the last byte of an answer waits for. `kernel`: its row survives the death of the process "
        "(kill -9), and a power cut loses the rows of the last `flush_interval` at most. `disk`: it survives a power cut.",
    )
    flush_interval: Seconds | None = Field(
        None,
        description="Seconds between syncs of rows to the disk; absent: 0.1, and 0.002 with `wait_for: disk`, where rows "
        "that come one at a time are synced at once.",
    )


class StoredCompletions(Model):
    enabled: bool = True
    ttl_days: Count = 30
    encryption_key: SecretStr | None = Field(None, description="32 bytes, base64: encrypts stored completions at rest.")
    fetch_images: bool = Field(
        False,
        description="Fetch images that a prompt names and keep them in the copy, as OpenAI does: https from public "
        "addresses, which clients choose. The answer's last byte waits for them, 3 s at most.",
    )


class Auth(Model):
    pepper: SecretStr | None = Field(None, description="At least 32 characters: secret of the digests of virtual keys.")
    previous_peppers: tuple[SecretStr, ...] = Field(
        (), description="Earlier peppers, kept until every key made with them was rotated."
    )
    cache_ttl: Seconds = Field(
        60, description="How long a key look-up is cached; a revocation takes effect within 1 s."
    )
    cache_size: Count = 100_000
    jwt: "JWT | None" = None
    failures_per_minute: Count = Field(600, description="Failed authentications per client address before 429.")


class JWT(Model):
    """Bearer tokens of an identity provider."""

    issuer: str
    audience: str
    jwks_url: str
    algorithms: tuple[Literal["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA", "PS256"], ...] = ("RS256", "ES256")
    user_claim: str = "sub"
    team_claim: str | None = None
    jwks_ttl: Seconds = 300


class Retries(Model):
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        3, description="Upstream attempts per request, all deployments together."
    )
    per_deployment: Annotated[int, Field(ge=1, le=10)] = Field(2, description="Attempts on one deployment.")
    budget_percent: Annotated[int, Field(ge=0, le=100)] = Field(20, description="Retries per requests, per target.")
    budget_floor: Annotated[float, Field(ge=0)] = Field(3, description="Retries per second always allowed, per target.")
    base_delay: Seconds = 0.25
    max_delay: Seconds = 8
    max_retry_after: Seconds = Field(30, description="A longer Retry-After is not waited for.")


class ActiveChecks(Model):
    """Ask providers in the background whether they can be reached; what fails counts like a request that failed."""

    kind: Literal["connect", "models", "completion"] = Field(
        "connect",
        description="connect: open a connection; models: list the models with the credential (where the dialect is "
        "OpenAI's or Anthropic's, else as connect); completion: ask every deployment for a word, which the provider bills.",
    )
    interval: Seconds = Field(10, description="Between two checks.")
    timeout: Seconds = Field(5, description="For one check.")


class Health(Model):
    """Breaker and cool-down of a deployment."""

    consecutive_failures: Count = 5
    success_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        80, description="Below it, of 20 or more in 10 s, the breaker opens."
    )
    open_seconds: Seconds = 5
    max_open_seconds: Seconds = 300
    slow_start: Annotated[float, Field(ge=0, le=3600)] = 30
    latency_ejection: float | None = Field(
        None, gt=1, description="Eject a deployment whose TTFT is so many times the best of its group."
    )
    active: ActiveChecks | None = Field(None, description="Absent: only requests tell how a deployment is.")


class Logging(Model):
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="debug: the gateway's own lines alone; what libraries would say there may hold credentials.",
    )
    format: Literal["json", "text"] = "json"
    access: bool = True


class Langfuse(Model):
    """A Langfuse project that gets the spans, over OTLP."""

    host: str = Field("https://cloud.langfuse.com", pattern=r"^https?://[^\s?#]+$")
    public_key: SecretStr
    secret_key: SecretStr


class Tracing(Model):
    """One OpenTelemetry span for each call, without prompts and answers. Needs the extra `otel`."""

    endpoint: str | None = Field(
        None, description="OTLP/HTTP address, its path included; absent, and no `langfuse`: no traces."
    )
    headers: dict[str, SecretStr] = {}
    langfuse: Langfuse | None = None
    sample: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="Share of calls that are traced.")
    content: bool = Field(False, description="Whether prompts and answers are in the spans, up to 64 KiB each.")
    propagate: bool = Field(
        True,
        description="Whether providers get a `traceparent`: our span's where calls are traced, else the client's.",
    )

    @property
    def enabled(self) -> bool:
        return self.endpoint is not None or self.langfuse is not None


class Metrics(Model):
    tenant_labels: bool = Field(False, description="Label by team and key: bounded by `max_label_values`.")
    max_label_values: Count = 500


class Idempotency(Model):
    enabled: bool = True
    ttl: Seconds = 86_400
    max_replay: Count = Field(1024 * 1024, description="Larger answers are not kept for replay.")
    max_total: Count = Field(
        64 * 1024 * 1024,
        description="Bytes of answers that are kept, the oldest go first: in Redis of each organization, else of each worker.",
    )
