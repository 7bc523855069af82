"""A scripted upstream on loopback that speaks OpenAI's and Anthropic's dialects: for trying Sluice out and for tests.

The model name of a request says how it is answered (``scripts``), both dialects render the same answer
(``openai``, ``anthropic``), and everything generated is written into a journal that a ledger can be compared with.
"""

from .journal import Entry, Journal
from .scripts import Script, script_for
from .server import DemoUpstream, Verbatim, start

__all__ = ["DemoUpstream", "Entry", "Journal", "Script", "Verbatim", "script_for", "start"]
