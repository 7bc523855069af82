"""What options are made of: times, counts, rates, money, tiers and names, and the model of all models."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
