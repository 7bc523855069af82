"""For mkdocs: the info strings of code blocks say more than its highlighter knows; only the language and a title are left."""

import re
from typing import Any

_FENCE = re.compile(r"^(`{3,}\w+)[ \t]+([^\n`]+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    def kept(found: re.Match[str]) -> str:
        title = re.search(r'\btitle="[^"]*"', found[2])
        return f"{found[1]} {title[0]}" if title else found[1]

    return _FENCE.sub(kept, markdown)
