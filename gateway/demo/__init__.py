"""A scripted upstream on loopback that speaks every dialect: for trying Sluice out and for tests.

The model name of a request says how it is answered (``scripts``), every dialect renders the same answer
(``openai``, ``anthropic``, ``gemini``, ``bedrock``, ``cohere``, ``family``), and everything generated is written into a journal that a ledger can be compared with.
"""

from .journal import Entry, Journal
from .scripts import Script, script_for
from .server import DemoUpstream, Verbatim, start

__all__ = ["DemoUpstream", "Entry", "Journal", "Script", "Verbatim", "script_for", "start"]
