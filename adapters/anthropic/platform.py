"""Where Claude is served: the same dialect with a few things missing."""

from dataclasses import dataclass, replace

from .models import Gates


@dataclass(frozen=True, slots=True)
class Platform:
    fetches_urls: bool = True
    """Whether images may be given by URL; elsewhere they must be inlined."""
    files: bool = True
    """Whether uploaded files (``file_id``) exist."""
    inline_system: bool = True
    """Whether system turns inside the conversation are taken, by the models that take them."""

    def gates(self, gates: Gates) -> Gates:
        """The gates of a model as this platform serves it."""
        return gates if self.inline_system else replace(gates, inline_system=False)


ANTHROPIC = Platform()
VERTEX = Platform(fetches_urls=False, files=False, inline_system=False)
