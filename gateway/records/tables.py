"""Every table. Times are seconds since the epoch, money is nano-dollars, absent owners are empty strings in the ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from adapters.usage import TOKEN_BUCKETS

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)
Serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is exactly INTEGER."""


def _settings() -> tuple[Column[str], Column[bool], Column[float], Column[float]]:
    """What organizations, teams, users and keys have alike; ``settings`` is the JSON of a ``config.schema`` owner."""
    return (
        Column("settings", Text, nullable=False),
        Column("blocked", Boolean, nullable=False, default=False),
        Column("created", Double, nullable=False),
        Column("updated", Double, nullable=False),
    )


organizations = Table("organizations", metadata, Column("id", String(128), primary_key=True), *_settings())

teams = Table(
    "teams",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("organization", String(128), nullable=False, index=True),
    *_settings(),
)

users = Table(
    "users",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("organization", String(128), nullable=False, index=True),
    Column("team", String(128), index=True),
    *_settings(),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("organization", String(128), nullable=False),
    Column("team", String(128), index=True),
    Column("user", String(128), index=True),
    Column("preview", String(32), nullable=False, doc="What may be shown of the key."),
    Column("expires", Double),
    *_settings(),
    Column("counts_toward", Text, doc="JSON: owners (`k:...`, `u:...`) whose limits hold for this key as well."),
    UniqueConstraint("organization", "name"),
)

counted_keys = Table(
    "counted_keys",
    metadata,
    Column("owner", String(160), primary_key=True),
    Column("key_id", String(64), primary_key=True, doc="Stays when the key is deleted: what it spent is spent."),
)

key_digests = Table(
    "key_digests",
    metadata,
    Column("digest", String(160), primary_key=True),
    Column("key_id", String(64), ForeignKey("keys.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("expires", Double, doc="When this secret of the key ends: set by a rotation."),
    Column("created", Double, nullable=False),
)

changes = Table(
    "changes",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("target", String(128), nullable=False),
    Column("at", Double, nullable=False, index=True),
    sqlite_autoincrement=True,
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False, doc="Microseconds since the epoch."),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(200), nullable=False, index=True),
    Column("before", Text),
    Column("after", Text),
    Column("request_id", String(128)),
    Column("result", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    CheckConstraint("id = 1", name="single"),
)

LEDGER_TEXTS = (
    *("request_id", "organization", "team", "user", "key", "tags", "model", "deployment", "provider"),
    *("upstream_model", "tier_requested", "tier_effective", "tier_sent", "tier_served", "status", "error", "code"),
)
LEDGER_NUMBERS = ("attempt", "day", "started", "duration", "http_status", "cost", *TOKEN_BUCKETS)
LEDGER_FLAGS = ("estimated", "stream", "final")
LEDGER_COLUMNS = (*LEDGER_TEXTS, *LEDGER_NUMBERS, *LEDGER_FLAGS, "ttft", "calls", "fallback")
"""The order of a row in the journal. A new column goes to the end and takes NULL: older journals have shorter rows."""

ledger = Table(
    "ledger",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    *(Column(name, Text, nullable=False) for name in LEDGER_TEXTS),
    *(Column(name, BigInteger, nullable=False) for name in LEDGER_NUMBERS),
    *(Column(name, Boolean, nullable=False) for name in LEDGER_FLAGS),
    Column("ttft", BigInteger, doc="Microseconds, like `started` and `duration`."),
    Column("calls", Text, doc="JSON: charges per call of a server-side tool."),
    Column("fallback", Text, doc="The model whose limits bear it, where that is not `model`, the one asked for."),
    UniqueConstraint("request_id", "attempt"),
    Index("ix_ledger_started", "started"),
    Index("ix_ledger_key_started", "key", "started"),
    Index("ix_ledger_team_started", "team", "started"),
    Index("ix_ledger_user_started", "user", "started"),
    Index("ix_ledger_organization_started", "organization", "started"),
    sqlite_autoincrement=True,
)

DIMENSIONS = (
    *("organization", "team", "user", "key", "tags", "model", "deployment", "provider", "tier_served"),
    "fallback",
)
SUMS = ("requests", "attempts", "errors", "estimates", "cost", "duration", *TOKEN_BUCKETS)

ledger_daily = Table(
    "ledger_daily",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("day", BigInteger, nullable=False, doc="Days since the epoch, UTC."),
    *(Column(name, Text, nullable=False, server_default="" if name == "fallback" else None) for name in DIMENSIONS),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    UniqueConstraint("day", *DIMENSIONS, name="uq_ledger_daily_dimensions"),
    Index("ix_ledger_daily_key_day", "key", "day"),
    Index("ix_ledger_daily_team_day", "team", "day"),
    Index("ix_ledger_daily_user_day", "user", "day"),
    Index("ix_ledger_daily_organization_day", "organization", "day"),
)

ledger_rollup = Table(
    "ledger_rollup",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("through", BigInteger, nullable=False, doc="Rows of the ledger up to this id are in ledger_daily."),
    CheckConstraint("id = 1", name="single"),
)

stored_completions = Table(
    "stored_completions",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("owner", Text, nullable=False),
    Column("id", String(128), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("expires", Double, nullable=False, index=True),
    Column("removed", Boolean, nullable=False, doc="A tombstone: the content is gone, a page cursor still finds it."),
    Column("body", LargeBinary),
    Column("messages", LargeBinary),
    UniqueConstraint("owner", "id"),
    Index("ix_stored_completions_page", "owner", "created", "seq"),
    Index("ix_stored_completions_model", "owner", "model", "created", "seq"),
    sqlite_autoincrement=True,
)

stored_metadata = Table(
    "stored_metadata",
    metadata,
    Column("seq", Serial, ForeignKey("stored_completions.seq", ondelete="CASCADE"), primary_key=True),
    Column("digest", LargeBinary(32), primary_key=True, doc="HMAC of owner, name and value: exact match only."),
    Column("created", BigInteger, nullable=False, server_default="0", doc="Of the completion: pages are in its order."),
    Index("ix_stored_metadata_digest", "digest", "created", "seq"),
)

FIRST_ROWS: Sequence[tuple[Table, Mapping[str, Any]]] = (
    (audit_head, {"id": 1, "seq": 0, "hash": "0" * 64}),
    (ledger_rollup, {"id": 1, "through": 0}),
)
"""What is in a database before anything else."""
