"""The benchmarks run, and their load generator finds nothing wrong with what it is answered."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config
from benchmarks.__main__ import check
from benchmarks.contestants import CONTESTANTS, HERE

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the benchmarks' tools are built with gcc")


def test_measures_and_reports(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks", "--contestants", "direct,bare", "--tests", "latency,paced"]
    run = subprocess.run(
        [*command, "--rounds", "1", "--seconds", "0.3", "--retries", "0", "--json", str(rows)],
        check=False,
        cwd=HERE.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    measured = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["test"], row["name"]) for row in measured] == [
        *(("latency", "direct"), ("latency", "bare"), ("paced", "direct"), ("paced", "bare"))
    ]
    for row in measured:
        assert row["ok"] > 0
        assert [row[key] for key in row if key.startswith("err_")] == [0, 0, 0, 0]
    assert "CPU us/request" in run.stdout


def test_the_measured_configuration_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in CONTESTANTS["sluice"].environment.items():
        monkeypatch.setenv(name, text.format(port=1234, upstream="http://127.0.0.1:9", folder="/tmp/bench"))
    assert config.load(HERE / "sluice.yaml").server.port == 1234


def test_an_unknown_contestant_is_named() -> None:
    command = [sys.executable, "-m", "benchmarks", "--contestants", "nobody"]
    run = subprocess.run(command, check=False, cwd=HERE.parent, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "no 'nobody'; there are direct, bare, sluice" in run.stderr


@pytest.mark.parametrize(("cpu", "fits"), [(2.0, True), (4.0, False)])
def test_the_check_compares_with_the_bare_proxy_of_the_same_run(cpu: float, fits: bool) -> None:
    rows = [
        {"test": "throughput", "name": name, "cpu_s": seconds, "upstream": {"requests": 1000}}
        for name, seconds in (("bare", 1.0), ("sluice", cpu))
    ]
    if fits:
        check(rows, 2.6)
    else:
        with pytest.raises(SystemExit):
            check(rows, 2.6)
