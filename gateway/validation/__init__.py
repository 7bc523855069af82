"""Request bodies checked by the rules of OpenAI's API, with its words: pure functions, no I/O.

The layers: ``body`` (bytes -> object), ``violation`` (what can be wrong), ``checks`` (small checkers and what combines
them), ``content``, ``messages``, ``tools`` and ``schema`` (the parts of a request), ``parameters`` (the table of all
parameters), ``plain`` (what needs no look at that table), ``chat`` and ``embeddings`` (one function each for the endpoints).
"""

from .body import parse_json
from .chat import validate_chat
from .embeddings import validate_embeddings
from .violation import describe_type

__all__ = ["describe_type", "parse_json", "validate_chat", "validate_embeddings"]
