"""Which calls are answered by plain text and nothing else: only such an answer may be gone on with elsewhere."""

from .call import Call

NEVER = (
    *("tools", "functions", "tool_choice", "function_call", "logprobs", "top_logprobs", "audio", "web_search_options"),
    *("prediction", "moderation"),
)
"""Parameters that make an answer more than text, or one that has to be of one piece."""


def plain(call: Call) -> bool:
    """Whether the answer is one stream of text: no tools, no JSON, no further choices, no log probabilities, no audio."""
    request = call.request
    if not call.stream or call.n != 1 or any(request.get(name) for name in NEVER):
        return False
    form = request.get("response_format")
    if form is not None and form.get("type") != "text":
        return False
    if request.get("modalities") not in (None, [], ["text"]):
        return False
    messages = request.get("messages") or [{"role": "assistant"}]
    return bool(messages[-1].get("role") != "assistant")
