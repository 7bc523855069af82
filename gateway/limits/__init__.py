"""Which limits apply, and the reserve/settle engine that enforces them."""

from .amounts import Amounts
from .engine import Orphan, Spent, State, StoreDown
from .limiter import Limiter, Reservation
from .thresholds import Threshold

__all__ = ["Amounts", "Limiter", "Orphan", "Reservation", "Spent", "State", "StoreDown", "Threshold"]
