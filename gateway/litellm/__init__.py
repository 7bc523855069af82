"""
Coming from LiteLLM: its configuration, its database and its most scripted endpoints, in our terms.

* settings   budgets, limits, durations and models of its owners
* providers  its provider prefixes and parameters
* extras     limits, weights and prices of its deployments
* document   its configuration file becomes ours
* tables     what of its database is read
* records    its keys, teams and users
* spend      what they spent
* operations  its endpoints
* rows       their bodies and answers
"""
