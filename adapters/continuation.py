"""Going on with an answer that broke off: its text so far becomes the beginning of the assistant's turn."""

from .interface import ChatRequest


def begun(request: ChatRequest, said: str) -> ChatRequest:
    """The request with the beginning of its answer as the last message."""
    return {**request, "messages": [*request["messages"], {"role": "assistant", "content": said}]}
