"""Real clients as black boxes: ``python -m tests.clients [NAME ...]``, or ``make clients``.

Each client lives in a virtual environment of its own under ``.venvs/``, with the versions of ``pins/``. Its script runs
as a subprocess against a gateway in front of demo upstreams, once per dialect, and prints what it got as JSON.
"""
