"""Material that may lie beside the checkout, of which this tree may be a copy further down; tests that need it skip without."""

from pathlib import Path

_ABOVE = Path(__file__).parents[2:]
SHARED = next((above / "shared" for above in _ABOVE if (above / "shared").is_dir()), _ABOVE[0] / "shared")
