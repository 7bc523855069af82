"""
The SQL side: what must outlive a process.

* database     one engine, its transactions and time limits; the schema's migrations
* tables       every table
* keys         virtual keys: their form, digests, look-up
* cache        look-ups kept in memory; a change is seen by every replica within a second
* admin        what operators do: organizations, teams, users, keys
* resources    the bodies and resources of those
* grants       nobody gives away what they do not have
* audit        the hash-chained log of what operators did
* journal      a local file that makes records durable before SQL has them
* rows         a call as rows of the ledger
* ledger       one row per upstream attempt, exactly once
* usage        sums, reports and exports of the ledger; its daily roll-up and retention
* stored       stored completions
* stored_shapes  their objects, pages and updates as the API has them
* sealing      their encryption
* idempotency  answers kept for a repeated Idempotency-Key
* idempotency_redis  the same, for many workers
* housekeeping  what is due once a minute
"""
