"""
Every option of a configuration file: its type, unit, range and default. The whole file is ``Config``.

All models are frozen and refuse unknown keys. Times are in seconds, sizes in bytes, money in US dollars,
unless an option's text says otherwise.
"""

from pydantic import Field

from .models import (
    Deployment,
    Fallbacks,
    Hedging,
    Params,
    Price,
    Provider,
    PublicModel,
    Queue,
    TimeoutOverrides,
    Timeouts,
)
from .owners import Budget, Key, Limits, LimitValues, Organization, Owner, Ramp, Team, TierPolicy, User
from .process import (
    AUTO,
    JWT,
    MOST_WORKERS,
    ActiveChecks,
    Admin,
    AsManyAsCpus,
    Auth,
    Counters,
    Database,
    Health,
    Idempotency,
    Langfuse,
    Ledger,
    Logging,
    Metrics,
    Outage,
    Pricing,
    Redis,
    Retries,
    Server,
    StoredCompletions,
    Tracing,
    Workers,
)
from .values import MOST_MONEY, Count, Model, Money, Name, Rate, Seconds, ServedTier, Tier

__all__ = [
    "AUTO",
    "JWT",
    "MOST_MONEY",
    "MOST_WORKERS",
    "ActiveChecks",
    "Admin",
    "AsManyAsCpus",
    "Auth",
    "Budget",
    "Config",
    "Count",
    "Counters",
    "Database",
    "Deployment",
    "Fallbacks",
    "Health",
    "Hedging",
    "Idempotency",
    "Key",
    "Langfuse",
    "Ledger",
    "LimitValues",
    "Limits",
    "Logging",
    "Metrics",
    "Model",
    "Money",
    "Name",
    "Organization",
    "Outage",
    "Owner",
    "Params",
    "Price",
    "Pricing",
    "Provider",
    "PublicModel",
    "Queue",
    "Ramp",
    "Rate",
    "Redis",
    "Retries",
    "Seconds",
    "ServedTier",
    "Server",
    "StoredCompletions",
    "Team",
    "Tier",
    "TierPolicy",
    "TimeoutOverrides",
    "Timeouts",
    "Tracing",
    "User",
    "Workers",
]


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
