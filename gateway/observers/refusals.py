"""Requests that a budget refused have a row in the ledger too: what a team asks about is there to be found."""

from typing import Protocol

from ..call import Attempt, CallRecord

REFUSED = "insufficient_quota"
"""The code of the error and the status of the row. Refusals by a rate are told by the metrics alone: they pass by themselves."""


class Ledger(Protocol):
    """Where rows are kept: ``gateway.records.ledger``."""

    def append(self, record: CallRecord) -> object: ...


class RefusalObserver:
    """Writes attempt 0 of a refused request: nothing was sent, nothing is owed, and it does not count as a request."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def call_finished(self, record: CallRecord) -> None:
        if record.code == REFUSED and not record.attempts and record.principal is not None:
            record.attempts = [Attempt(0, "", "", "", status=REFUSED)]
            try:
                self._ledger.append(record)
            finally:
                record.attempts = []  # for the other observers nothing was attempted
