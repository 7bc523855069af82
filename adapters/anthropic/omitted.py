"""What a request carries and its model cannot take: left out and named, or refused, as the policy says."""

from ..errors import UnsupportedParameter
from ..params import Policy


class Omitted:
    """Collects the names of what one translation leaves out."""

    def __init__(self, policy: Policy, names: tuple[str, ...] = ()) -> None:
        self._policy = policy
        self._names = dict.fromkeys(names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def hint(self, param: str) -> None:
        """Leave out what the answer does not depend on; refused only where everything unsupported is."""
        if self._policy == "reject":
            raise UnsupportedParameter(param, f"Unsupported parameter: '{param}' is not supported with this model.")
        self._names[param] = None

    def essential(self, param: str, message: str) -> None:
        """Refuse what changes the answer; left out only where everything unsupported is."""
        if self._policy != "drop":
            raise UnsupportedParameter(param, message)
        self._names[param] = None
