"""Recorded answers with one value broken: a failure of the provider at worst, never an exception of ours."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from botocore.eventstream import EventStreamBuffer

from adapters.bedrock import Bedrock
from adapters.cohere import Cohere
from adapters.emit import completion
from adapters.errors import ProviderError
from adapters.interface import UpstreamRequest

from .replay import need, recordings, translate, written
from .test_bedrock_stream import frame

JUNK: list[Any] = [None, 5, -1, 1.5, True, "x", "", [], {}, [None], {"a": 1}, ["x"], [[1]], "\ud83d", 10**30]
NOTES = [{}, {"json_tool": "json"}, {"custom": frozenset({"json", "weather", "get_weather", "currentTime"})}]
ROUNDS = 12
"""Mutations of each recording; a thousand were run once."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield (*path, key)
        yield from places(inner, (*path, key))


def broken(value: Any, dice: random.Random) -> Any:
    value = copy.deepcopy(value)
    *path, last = dice.choice(list(places(value)) or [()]) or (None,)
    at = value
    for key in path:
        at = at[key]
    if last is None:
        return dice.choice(JUNK)
    if dice.random() < 0.3:
        del at[last]
    else:
        at[last] = copy.deepcopy(dice.choice(JUNK))
    return value


def sent(dice: random.Random) -> UpstreamRequest:
    return UpstreamRequest("", {}, b"", notes=dice.choice(NOTES))


def test_broken_answers():
    dice = random.Random(4)
    for adapter, provider, endpoint in ((Bedrock(), "bedrock", "converse"), (Cohere(), "cohere", "v2.chat")):
        answered = 0
        for recording in need(recordings(provider, endpoint=endpoint, stream=False)):
            for _ in range(ROUNDS):
                body = json.dumps(broken(recording.exchange["response"]["body"], dice)).encode()
                try:
                    answer = adapter.parse(body, sent(dice))
                    completion(answer, id="x", created=1, model="m")
                except ProviderError:
                    continue
                answered += 1
        assert answered > 100  # most values do not matter


def events(recording: Any) -> Iterator[Any]:
    """The decoded events of a recorded stream."""
    if recording.provider == "cohere":
        yield from (json.loads(line[6:]) for line in recording.body.decode().split("\n") if line.startswith("data: {"))
        return
    buffer = EventStreamBuffer()
    buffer.add_data(recording.body)
    yield from ((message.headers, json.loads(message.payload)) for message in buffer)


def test_broken_streams():
    dice = random.Random(5)
    for adapter, provider, endpoint in ((Bedrock(), "bedrock", "converse-stream"), (Cohere(), "cohere", "v2.chat")):
        answered = 0
        for recording in need(recordings(provider, endpoint=endpoint, stream=True)):
            whole = list(events(recording))
            for _ in range(ROUNDS):
                told = list(whole)
                at = dice.randrange(len(told))
                if provider == "bedrock":
                    told[at] = (told[at][0], broken(told[at][1], dice))
                    pieces = [frame(headers, json.dumps(body).encode()) for headers, body in told]
                else:
                    told[at] = broken(told[at], dice)
                    pieces = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in told]
                if dice.random() < 0.2:
                    dice.shuffle(pieces)
                outcome = translate(adapter.stream(sent(dice)), [b"".join(pieces)])
                if outcome.error is not None:
                    continue
                try:
                    written(outcome)
                except ProviderError:
                    continue
                answered += 1
        assert answered > 50
