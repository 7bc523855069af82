"""What clients notice when upstreams fail, gateways restart and configurations change: ``python -m tests.chaos``."""
