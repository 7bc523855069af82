"""
Compile the hot modules with mypyc, in a copy of the packages: an installed one, or a copy of this tree.

    python deploy/compile.py DIRECTORY       DIRECTORY holds gateway, adapters and config, and gets their .so files
    python deploy/compile.py --installed     the directory that this Python has the packages installed in

Needs a C compiler and ``pip install mypy``. The sources stay beside what is compiled of them, and are what runs wherever
it is missing: on another Python, another processor, or where nobody compiled. Takes three minutes.
"""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

HOT = """
adapters/emit adapters/jsonio adapters/shapes adapters/sse adapters/usage adapters/values
adapters/anthropic/messages adapters/anthropic/parts adapters/anthropic/request adapters/anthropic/response
adapters/anthropic/stream
adapters/openai/deltas adapters/openai/dialect adapters/openai/frames adapters/openai/relay adapters/openai/request adapters/openai/response
adapters/openai/stream
gateway/answer gateway/attempts gateway/auth gateway/call gateway/continuation gateway/dispatch gateway/fleet gateway/health gateway/intake
gateway/metered gateway/metering gateway/outgoing gateway/pipeline gateway/price_book gateway/pricing gateway/protection gateway/recent gateway/relays
gateway/reply gateway/routing gateway/server gateway/terms gateway/tiers gateway/turns
gateway/endpoints/chat gateway/endpoints/exchange gateway/endpoints/head gateway/endpoints/routes
gateway/limits/amounts gateway/limits/batch gateway/limits/counters gateway/limits/dispatcher gateway/limits/engine gateway/limits/estimate
gateway/limits/headers gateway/limits/leases gateway/limits/limiter
gateway/limits/memory gateway/limits/outage gateway/limits/rules gateway/limits/thresholds gateway/limits/windows
gateway/observers/access_log gateway/observers/calls gateway/observers/genai
gateway/observers/metrics gateway/observers/overhead gateway/observers/standing
gateway/records/journal gateway/records/ledger gateway/records/rows gateway/records/segment
gateway/upstream/client gateway/upstream/connection gateway/upstream/framing gateway/upstream/head
gateway/upstream/response
gateway/validation/body gateway/validation/chat gateway/validation/plain
"""
"""What runs for every request or chunk, and nothing that mypyc cannot compile: models of pydantic, classes that are
derived from classes of C."""
PACKAGES = ("gateway", "adapters", "config")
MYPY = """[mypy]
plugins = pydantic.mypy
ignore_missing_imports = True
"""


def compile_into(root: Path) -> None:
    """Compile ``HOT`` as it stands below ``root``, into there."""
    from mypyc.build import mypycify
    from setuptools import setup

    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for old in root.rglob(f"*{suffix}"):
        if old.relative_to(root).parts[0] in PACKAGES or old.name.endswith(f"__mypyc{suffix}"):
            old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        for package in PACKAGES:
            shutil.copytree(root / package, Path(scratch, package), ignore=shutil.ignore_patterns("__pycache__"))
        os.chdir(scratch)
        Path("mypy.ini").write_text(MYPY)
        # Only a module's entry is called from outside: what else need not be found by name can be inlined and left out.
        os.environ["CFLAGS"] = f"{os.environ.get('CFLAGS', '')} -fvisibility=hidden"
        extensions = mypycify(
            ["--config-file", "mypy.ini", *(f"{module}.py" for module in HOT.split())],
            opt_level=os.environ.get("MYPYC_OPT_LEVEL", "2"),
            debug_level="0",
        )
        setup(
            name="sluice-compiled", ext_modules=extensions, script_args=["--quiet", "build_ext", "--build-lib", "out"]
        )
        shutil.copytree("out", root, dirs_exist_ok=True)
    if missing := [module for module in HOT.split() if not (root / f"{module}{suffix}").exists()]:
        sys.exit(f"not compiled: {' '.join(missing)}")  # they would run, slowly, and nobody would notice


if __name__ == "__main__":
    installed = sys.argv[1] == "--installed"
    compile_into(Path(sysconfig.get_path("purelib") if installed else sys.argv[1]).resolve())
