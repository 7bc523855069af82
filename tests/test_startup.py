"""How soon a gateway answers and how little it holds: a process of its own, measured from outside."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from gateway import demo

from .running import KEY, configuration
from .servers import free_port

SECONDS = 2.0
"""Under half of it on a quiet core of 2024; the rest is for machines that do other things at the same time."""
MEGABYTES = 90


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def first_answer(port: int) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    end = time.monotonic() + 30
    while True:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, headers)
            with urllib.request.urlopen(request, timeout=10) as response:
                assert response.status == 200
                return
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.01)


async def test_a_worker_answers_soon_and_holds_less_than_90_megabytes(tmp_path: Path) -> None:
    """CPU time, not wall time. The memory is that of a start that finds its schema up to date."""
    import asyncio

    upstream = await demo.start()
    config = configuration(upstream.url, str(tmp_path), {"m": "demo-ok"})
    document = json.loads(config.model_dump_json(exclude_defaults=True))
    port = free_port()
    document["server"] |= {"port": port}
    document["keys"] = [{"name": "test", "key": KEY}]
    document["providers"] = {
        "openai": {"adapter": "openai", "base_url": f"{upstream.url}/openai/v1", "api_key": "up"},
    }
    document["database"] = {"url": f"sqlite:///{tmp_path}/sluice.db"}
    path = tmp_path / "sluice.yaml"
    path.write_text(yaml.safe_dump(document))
    try:
        used = held = 1e9
        for first in (True, False, False):
            process = subprocess.Popen([sys.executable, "-m", "gateway", "serve", str(path)])
            try:
                await asyncio.to_thread(first_answer, port)
                used, held = min(used, cpu_seconds(process.pid)), min(held, resident_megabytes(process.pid))
                print(f"first={first}: {used:.2f} s of CPU to the first answer, {held:.0f} MB")
            finally:
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 20) == 0
        assert used < SECONDS
        assert held < MEGABYTES
    finally:
        await upstream.close()
