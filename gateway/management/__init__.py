"""
What operators can ask for, without HTTP: the admin API and the command line are two ways to call the same operations.

* operation    one operation: its method, path, least role and handler; what a handler gets
* roles        a credential of the admin API becomes an actor
* owners       organizations, teams, users and keys
* reports      usage, ledger, audit, limits
* reconcile    counters against the ledger
* catalogue    every operation
* openapi      their description for machines
"""
