"""What every request has while it is built: the client's body, the policy, and what was left out."""

from dataclasses import dataclass, field

from .errors import UnsupportedParameter
from .interface import ChatRequest
from .params import Policy


@dataclass(slots=True)
class RequestDraft:
    """The start of an adapter's own draft."""

    request: ChatRequest
    policy: Policy
    dropped: list[str] = field(default_factory=list)

    def lacks(self, param: str, message: str) -> None:
        """The provider has nothing like it and the answer depends on it."""
        if self.policy != "drop":
            raise UnsupportedParameter(param, message)
        self.dropped.append(param)

    def leaves_out(self, param: str) -> None:
        """The provider has nothing like it, and the answer can do without."""
        if self.policy == "reject":
            raise UnsupportedParameter(param, f"Unsupported parameter: '{param}' is not supported with this model.")
        self.dropped.append(param)
