"""The only package that does I/O: listeners, limits, routing, upstreams, records."""
