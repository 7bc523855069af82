"""The gateway that TensorZero's wheel carries, on a port that it chooses: ``tensorzero_gateway.py CONFIG PORT_FILE``.

It is compiled code with threads of its own; this interpreter only starts it.
"""

import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tensorzero.tensorzero import _start_http_gateway

gateway = _start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
file = Path(sys.argv[2])
unseen = file.with_suffix(".new")
unseen.write_text(str(urlsplit(gateway.base_url).port))
unseen.rename(file)  # whoever finds it finds all of it
signal.signal(signal.SIGTERM, signal.SIG_DFL)
while True:
    signal.pause()
