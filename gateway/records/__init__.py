"""The SQL side: keys, teams, the usage ledger, stored completions, the audit log."""
