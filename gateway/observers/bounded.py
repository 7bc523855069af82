"""Label values are bounded: whoever can make names must not be able to make series."""

OTHER = "other"
"""The label of every name over the cap."""


class Bounded:
    """Names up to ``cap`` stay as they are, the first that come; later ones are all OTHER."""

    __slots__ = ("_cap", "_known")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        if name in self._known:
            return name
        if len(self._known) >= self._cap:
            return OTHER
        self._known.add(name)
        return name

    def keep(self, names: set[str]) -> None:
        """Forget all but ``names``: the series of others have ended, and make room."""
        self._known &= names
