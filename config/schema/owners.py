"""Options of those who ask: keys, users, teams and organizations, with their limits, budgets and service tiers."""

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from .values import MOST_MONEY, Model, Money, Name, Rate, Seconds, ServedTier, Tier


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
