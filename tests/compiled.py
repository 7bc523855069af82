"""Whether the hot modules are compiled here, and what cannot be tested then."""

import pytest

from gateway import pipeline

COMPILED = not pipeline.__file__.endswith(".py")
interpreted_only = pytest.mark.skipif(COMPILED, reason="replaces a part of a class, which compiled ones do not allow")
