"""HTTP in, HTTP out: nothing else. ``routes.py`` matches, the other modules answer."""
