"""Which limits apply, and the reserve/settle engine that enforces them."""
