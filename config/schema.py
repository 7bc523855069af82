"""Every option of a configuration file: its type, unit, range and default.

All models are frozen and refuse unknown keys. Times are in seconds, sizes in bytes, money in US dollars,
unless an option's text says otherwise.
"""

from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from . import cpus

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[int, Field(ge=0, le=150_000_000_000)]
"""Per minute or day; 0 forbids. The upper end keeps a bucket's scaled level exact in a Lua number (2^53)."""
MOST_MONEY = 9_000_000
Money = Annotated[Decimal, Field(ge=0, le=MOST_MONEY, max_digits=16, decimal_places=9)]
"""US dollars, exact to the nano-dollar; the upper end keeps a budget in nano-dollars exact in a Lua number (2^53)."""
Tier = Literal["auto", "default", "flex", "priority", "scale", "fast", "ultrafast"]
ServedTier = Literal["default", "flex", "priority", "scale", "ultrafast"]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s|{}\x00-\x1f]+$")]
"""A name of a key, user, team, organization, provider or model: no blanks, braces or bars (they delimit counters)."""


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Budget(Model):
    """Money that may be spent, in US dollars. Windows are calendar days, weeks (from Monday) and months in UTC."""

    day: Money | None = None
    week: Money | None = None
    month: Money | None = None
    total: Money | None = None
    overdraft: Money | None = Field(
        None,
        description="So much more than a window has left may be reserved by requests in flight; none begins once all of the "
        "window is spent. What is spent in the end is at most the window and this.",
    )

    @model_validator(mode="after")
    def _countable(self) -> Self:
        windows = [self.day, self.week, self.month, self.total]
        if (
            self.overdraft is not None
            and max((w for w in windows if w is not None), default=0) + self.overdraft > MOST_MONEY
        ):
            raise ValueError(f"a window and its overdraft must not be more than {MOST_MONEY} together")
        return self


class LimitValues(Model):
    """How fast, how many at once and for how much. Absent means no limit of that kind."""

    rpm: Rate | None = Field(None, description="Requests per minute.")
    tpm: Rate | None = Field(None, description="Tokens per minute, prompt and completion together.")
    itpm: Rate | None = Field(None, description="Prompt tokens per minute that no prompt cache served.")
    otpm: Rate | None = Field(None, description="Completion tokens per minute.")
    rpd: Rate | None = Field(None, description="Requests per calendar day (UTC).")
    tpd: Rate | None = Field(None, description="Tokens per calendar day (UTC).")
    concurrency: Rate | None = Field(None, description="Requests in flight at once.")
    budget: Budget | None = Field(None, description="Money per calendar window, in US dollars.")


class Limits(LimitValues):
    """Limits of a key, user, team or organization; those per model and per tier come on top of the plain ones."""

    per_model: dict[Name, LimitValues] = Field(
        {}, description="Further limits for one public model or model group of the owner."
    )
    per_tier: dict[ServedTier, LimitValues] = Field({}, description="Further limits for one service tier.")


class Ramp(Model):
    """How fast tokens at dear tiers may grow before they run as default: OpenAI's published rule, unless set otherwise."""

    above_tpm: Rate = Field(1_000_000, description="Tokens per minute that are always allowed.")
    percent: Annotated[int, Field(ge=0, le=10_000)] = Field(
        50, description="Above that, so much more than there were `minutes` ago."
    )
    minutes: Annotated[int, Field(ge=1, le=60)] = 15


class TierPolicy(Model):
    """Which service tiers an owner may use. The narrowest of key, user, team and organization wins."""

    default: Tier | None = Field(None, description="The tier of a request that says `auto` or nothing.")
    allowed: tuple[ServedTier, ...] | None = Field(None, description="Tiers that may be asked for; absent: all.")
    max: ServedTier | None = Field(None, description="The dearest tier that may be asked for.")
    on_denied: Literal["reject", "downgrade"] | None = Field(
        None, description="What an explicit request above the policy of any owner gets; `auto` is always clipped."
    )
    flex_fallback: Literal["default"] | None = Field(
        None, description="Run a refused flex request at this tier (and price) instead."
    )
    flex_wait: Seconds | None = Field(None, description="How long a flex request may queue; absent: refused at once.")
    ramp: Ramp | None = Field(
        None,
        description="How fast the owner's tokens at dear tiers may grow, each model by itself; absent: as they like.",
    )


class Owner(Model):
    """What keys, users, teams and organizations have in common."""

    limits: Limits = Limits()
    tiers: TierPolicy = TierPolicy()
    models: tuple[str, ...] | None = Field(
        None,
        description="Public models that may be used, `*` at the end as a wildcard; absent: all that the owner above may.",
    )
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    store: bool = Field(True, description="Whether `store: true` may keep completions.")


class Organization(Owner):
    """The outermost owner: all counters of one organization live in one Redis hash slot."""


class Team(Owner):
    organization: Name = "default"


class User(Owner):
    team: Name | None = None


class Key(Owner):
    """A virtual key kept in the config file. Give `key` (through `${ENV}`) or its `digest`, not both."""

    name: Name
    key: SecretStr | None = Field(None, description="The key itself; only its digest stays in memory.")
    digest: str | None = Field(
        None, pattern=r"^sha256:[0-9a-f]{64}$", description="`sha256:` and the hex digest of the key."
    )
    team: Name | None = None
    user: Name | None = None
    expires: str | None = Field(None, description="ISO 8601 date and time from which the key is refused.")
    blocked: bool = False
    aliases: dict[str, str] = Field({}, description="Model names of this key's own: what it asks for -> public model.")
    allow_pinning: bool = Field(False, description="Whether `model@provider` may choose the deployment.")
    allow_cheaper: bool = Field(
        False,
        description="Whether a request over a limit may run on the model's `cheaper` one instead of being refused.",
    )
    restricted_params: tuple[str, ...] = Field((), description="Parameters this key may not send.")


class Timeouts(Model):
    """Time-outs towards one upstream."""

    connect: Seconds = Field(5, description="TCP and TLS.")
    first_byte: Seconds = Field(60, description="From the request sent to the first event of a stream.")
    response: Seconds = Field(600, description="From the request sent to the whole answer, when not streamed.")
    request: Seconds = Field(
        600, description="All attempts of one request together, up to the whole answer or a stream's first content."
    )
    idle: Seconds = Field(120, description="Between two events of a stream.")
    progress: Seconds = Field(300, description="A stream that sends nothing but heartbeats for so long is dead.")
    total: Seconds = Field(1800, description="One stream from its first byte to its end.")


class TimeoutOverrides(Model):
    connect: Seconds | None = None
    first_byte: Seconds | None = None
    response: Seconds | None = None
    request: Seconds | None = None
    idle: Seconds | None = None
    progress: Seconds | None = None
    total: Seconds | None = None


class Provider(Model):
    """One upstream account: a dialect, an address and a credential."""

    adapter: Name = Field(description="The dialect: an adapter's name, say `openai`, `anthropic` or `groq`.")
    base_url: str | None = Field(
        None, pattern=r"^https?://[^\s?#]+$", description="Without the operation's path; absent: the provider's own."
    )
    api_key: SecretStr | None = None
    headers: dict[str, SecretStr] = Field({}, description="Extra request headers.")
    options: dict[str, Any] = Field({}, description="Options of the adapter, checked by it at load.")
    timeouts: TimeoutOverrides = TimeoutOverrides()
    max_concurrency: Count = Field(
        256,
        description="Requests in flight to this provider from one worker. Where they are that many, another deployment is "
        "asked, and without one a request waits for a place as long as `timeouts.connect`.",
    )
    allow_plain_http: bool = Field(False, description="Whether http:// may be used to an address other than loopback.")
    allow_private: bool = Field(
        True,
        description="Whether the address may be private or loopback (in-house servers). Metadata services never are.",
    )


class Price(Model):
    """A price of one's own, in US dollars per million tokens."""

    input: Money
    output: Money
    cache_read: Money | None = Field(None, description="Absent: the input price.")
    cache_write: Money | None = Field(None, description="Absent: the input price.")
    cache_write_1h: Money | None = None
    audio_input: Money | None = None
    audio_output: Money | None = None
    reasoning: Money | None = Field(None, description="Absent: the output price.")
    per_call: dict[str, Money] = Field({}, description="US dollars per call of a server-side tool.")
    tiers: dict[ServedTier, Annotated[Decimal, Field(ge=0, le=1000)]] = Field(
        {}, description="Multiplier per service tier."
    )


class Deployment(Model):
    """One way to serve a public model."""

    provider: Name
    model: str = Field(min_length=1, description="The provider's own name for the model.")
    name: Name | None = Field(None, description="Names the deployment in metrics and headers; absent: provider/model.")
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    order: Annotated[int, Field(ge=0)] = Field(0, description="Priority group: lower ones are tried first.")
    price: Price | None = Field(None, description="Instead of the price list's.")
    priced_as: str | None = Field(None, description="`provider/model` of the price list whose price holds.")
    max_output: Count | None = Field(None, description="The most tokens it can generate; absent: the price list's.")
    max_input: Count | None = None
    tiers: tuple[ServedTier, ...] | None = Field(
        None, description="Service tiers the model has at this provider; absent: what the adapter knows."
    )
    capacity: Literal["provisioned", "priority", "default", "flex"] = Field(
        "default", description="The rung of the capacity ladder: provisioned is filled first."
    )
    continuation: bool = Field(
        False,
        description="Whether it goes on with a plain text stream that broke off, from where it broke off.",
    )
    limits: LimitValues = Field(
        LimitValues(),
        description="The capacity bought from the provider, shared by everybody and by all deployments of this name. "
        "Of a rate a part may come at once: a sixth of the requests, half of the tokens.",
    )
    timeouts: TimeoutOverrides = TimeoutOverrides()


class Params(Model):
    unsupported: Literal["translate", "drop", "reject"] = Field(
        "translate",
        description="translate: hints a provider lacks are dropped and named, what changes the answer is refused; "
        "drop: everything it lacks is dropped and named; reject: everything it lacks is refused.",
    )
    allow: tuple[str, ...] = Field((), description="Extensions passed on unchanged, say `top_k`.")
    default: dict[str, Any] = Field({}, description="Parameters set where the client sent none.")


class Fallbacks(Model):
    """Other public models to try, by what went wrong; `any` is the rest."""

    rate_limited: tuple[Name, ...] = ()
    overloaded: tuple[Name, ...] = ()
    timeout: tuple[Name, ...] = ()
    context_length: tuple[Name, ...] = ()
    content_policy: tuple[Name, ...] = ()
    quota: tuple[Name, ...] = ()
    any: tuple[Name, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is no other model at all."""
        own = self.rate_limited or self.overloaded or self.timeout or self.context_length or self.content_policy
        return not (own or self.quota or self.any)


class Hedging(Model):
    after: Seconds = Field(description="Send a second attempt when the first has not answered by then.")


class Queue(Model):
    """Admission in front of a deployment pool that has no service tiers of its own."""

    capacity: Count = Field(description="Requests in flight at most; adapts downwards on overload.")
    min_capacity: Count = 1
    wait_priority: Seconds = 2
    wait_default: Seconds = 10
    max_queue: Count = Field(1000, description="Requests waiting at most, all tiers together.")


class PublicModel(Model):
    """A model as clients name it."""

    deployments: tuple[Deployment, ...] = Field(min_length=1)
    strategy: Literal["ordered", "weighted", "least_busy", "lowest_latency", "lowest_cost"] = "ordered"
    sticky: bool = Field(False, description="Keep a conversation on one deployment so that provider prompt caches hit.")
    fallbacks: Fallbacks = Fallbacks()
    cheaper: Name | None = Field(None, description="The model that serves instead of a 429, for keys that allow it.")
    params: Params = Params()
    timeouts: TimeoutOverrides = TimeoutOverrides()
    timeouts_per_tier: dict[ServedTier, TimeoutOverrides] = {}
    hedging: Hedging | None = None
    queue: Queue | None = None
    ramp: Ramp | None = Field(
        None, description="How fast everybody's tokens at dear tiers may grow: the rule of the provider's account."
    )
    unpriced: Literal["refuse", "default"] | None = Field(None, description="Overrides `pricing.unpriced`.")
    owned_by: str = "sluice"
    hidden: bool = Field(False, description="Leave it out of GET /v1/models.")


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


class Config(Model):
    """The whole file."""

    server: Server = Server()
    admin: Admin = Admin()
    providers: dict[Name, Provider] = {}
    models: dict[Name, PublicModel] = {}
    aliases: dict[Name, Name] = Field({}, description="Further names of public models; `*` at the end is a wildcard.")
    model_groups: dict[Name, tuple[Name, ...]] = Field(
        {}, description="Names for sets of models, for `per_model` limits."
    )
    organizations: dict[Name, Organization] = {}
    teams: dict[Name, Team] = {}
    users: dict[Name, User] = {}
    keys: tuple[Key, ...] = ()
    auth: Auth = Auth()
    redis: Redis | None = None
    counters: Counters = Counters()
    pricing: Pricing = Pricing()
    database: Database = Database()
    ledger: Ledger = Ledger()
    stored_completions: StoredCompletions = StoredCompletions()
    idempotency: Idempotency = Idempotency()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    health: Health = Health()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()
    metrics: Metrics = Metrics()
