"""How much a request may use: a true bound for money, a likely figure for rates.

The bound rests on byte-level tokenizers, which make no more tokens than there are bytes of UTF-8; what is no text
has a bound of its own. It is made real by sending ``max_completion_tokens`` where the client sent none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from adapters.usage import Usage
from config.schema import Config

from ..call import Call, Deployment
from ..defaults import completed
from ..price_book import PriceBook
from ..pricing import NO_CALLS, Bounds, affordable_output, within

PER_MESSAGE = 16
"""Tokens that a provider puts around one message: role, separators."""
PER_REQUEST = 1024
"""Tokens that a provider may put before a prompt: some have a system prompt of their own (Venice has about 800)."""
FOR_TOOLS = 1024
"""Tokens of the instructions that providers add to a prompt with tools (Anthropic documents up to 675)."""
SEARCHES = 10
"""Calls of a provider's web search that one request may make."""
SEARCH_TOKENS = 65_536
"""Prompt tokens that search results may add, where the provider bills them."""
SEARCHING = ("compound", "sonar", "search", "deep-research")
"""Parts of the names of models that search without being asked to."""
UNBOUNDED = 2_000_000
"""Tokens of something whose size says nothing of them (a PDF, a stored file, a spoken answer that the provider keeps):
the context window is the bound."""
AUDIO = ("input_audio", "audio")
"""What is heard: sound in a part, or an earlier answer that an assistant's message names by its id."""

IMAGE_TOKENS: Mapping[str, int] = {
    "gpt-4o-mini": 48_200,  # 2,833 and 5,667 for each of at most 8 tiles
    "gpt-4o": 1_500,  # 85 and 170 for each of at most 8 tiles
    "gpt-4.1-mini": 2_600,  # 1,536 patches x 1.62
    "gpt-4.1-nano": 3_900,  # 1,536 patches x 2.46
    "gpt-4.1": 1_500,
    "o4-mini": 2_700,
    "claude": 4_900,
    "gemini": 5_200,
}
"""The most tokens of one image by the beginning of the model's name, from the vendors' vision guides."""
ANY_IMAGE_TOKENS = 50_000
LIKELY_IMAGE_TOKENS = 1_000

_FIRST_RATIO = 0.25
"""Tokens per byte before anything was learned: English prose has about four characters per token."""
_WEIGHT = 0.05
"""Of one observation in the moving average."""
_LEAST, _MOST = 1 / 12, 1.0
"""Tokens per byte that text can have: what is outside was not all told, or was hardly text (a run of blanks, say)."""
_ENOUGH = 64
"""Bytes of an answer from which on the tokens around it count for little."""
_MARGIN = 1.1
"""On the completion tokens of a model nothing was learned of yet."""


@dataclass(init=False, slots=True)
class Bound:
    """What one request may use."""

    input_tokens: Final[int]
    """Likely prompt tokens: what rates reserve."""
    output_tokens: Final[int]
    """The most completion tokens, all choices together."""
    most: Final[Bounds]
    """What money reserves."""
    max_output: Final[int | None]
    """``max_completion_tokens`` to send upstream so that the bound is real; None: the client's own stands."""
    model: Final[str]
    text: Final[int]
    """Bytes of the request without media: what ratios are learned from."""
    media: Final[bool]

    def __init__(
        self, input_tokens: int, output_tokens: int, most: Bounds, max_output: int | None, model: str = "", text: int = 0,
        media: bool = False,
    ) -> None:  # fmt: skip
        self.input_tokens, self.output_tokens, self.most, self.max_output = (
            input_tokens,
            output_tokens,
            most,
            max_output,
        )
        self.model, self.text, self.media = model, text, media


LEARNED_ALL, LEARNED_FROM = 256, 16
ANY_LENGTH = 2**62


PLAIN = frozenset(
    {
        "model", "messages", "max_completion_tokens", "max_tokens", "temperature", "top_p", "stream", "stream_options", "stop",
        "seed", "user", "frequency_penalty", "presence_penalty", "reasoning_effort", "service_tier", "store", "metadata",
    }
)  # fmt: skip
"""Parameters that change nothing of what a request of text may use, besides the two that bound its answer."""


class Facts(NamedTuple):
    """What bounds rest on of a plan."""

    models: frozenset[str]
    longest: int
    """Tokens of the longest answer that any of its models can give."""
    searches: bool
    """Whether one of them searches without being asked to."""


class Estimator:
    """Bounds requests, and learns how many tokens a model makes of a byte."""

    def __init__(self, config: Config, prices: PriceBook, before: "Estimator | None" = None) -> None:
        """``before``: one of another configuration, whose learned ratios are taken over."""
        self._default_output = config.pricing.default_max_output
        self._prices = prices
        self._clamp = config.counters.clamp_min_tokens if config.counters.budget_mode == "clamp" else None
        self._answers = 0
        self._prompt_ratios: dict[str, float] = before._prompt_ratios if before is not None else {}
        self._answer_ratios: dict[str, float] = before._answer_ratios if before is not None else {}

    def bound(
        self, call: Call, plan: Sequence[Deployment], defaults: Mapping[str, Any] | None = None, *, hard: bool = True
    ) -> Bound:
        """What ``call`` may use at the deployments of ``plan``.

        ``defaults`` are parameters that the gateway sets where the client sent none; ``hard`` tells whether a budget
        applies, so that a bound which nobody asked for must be sent upstream.
        """
        return self.bound_by(self.facts(plan), call, defaults, hard)

    def bound_by(self, facts: Facts, call: Call, defaults: Mapping[str, Any] | None, hard: bool) -> Bound:
        """``bound`` by what is known of a plan already."""
        request = call.request
        if defaults or facts.searches or not request.keys() <= PLAIN:
            return self._bound(facts, call, defaults, hard=hard)
        get, text = request.get, call.size
        messages = get("messages")
        if not messages or _has_parts(messages):
            return self._bound(facts, call, defaults, hard=hard)
        asked = get("max_completion_tokens") or get("max_tokens")
        output = asked or self._default_output
        output = min(output, facts.longest)
        name = str(get("model", ""))
        most = text + PER_REQUEST + PER_MESSAGE * len(messages)
        likely = int(text * self._prompt_ratios.get(name, _FIRST_RATIO)) + PER_MESSAGE
        bounded = None if asked or not hard else output
        return Bound(min(most, likely), output, Bounds(most, output), bounded, name, text)

    def _bound(self, facts: Facts, call: Call, defaults: Mapping[str, Any] | None, *, hard: bool) -> Bound:
        """Of a request that may have media, tools, several choices or none."""
        request = call.request
        if defaults:
            request = completed(request, defaults)
        get = request.get
        name, messages = str(get("model", "")), get("messages")
        media = tuple(_media(messages)) if messages and _has_parts(messages) else ()
        text = max(call.size - sum(size for _, size in media), 0) if media else call.size
        overhead = PER_REQUEST + PER_MESSAGE * len(messages or ()) + (FOR_TOOLS if _has_tools(request) else 0)
        searches = SEARCHES if facts.searches or _may_search(request) else 0
        most_input = text + overhead
        if media:
            most_input += sum(_media_tokens(kind, size, facts.models) for kind, size in media)
        choices = get("n") or 1
        prediction = len(str(predicted).encode()) if (predicted := get("prediction")) else 0
        asked = get("max_completion_tokens") or get("max_tokens")
        answers = messages is not None  # embeddings have no completion
        each = min(asked or self._default_output, facts.longest) if answers else 0
        ratio = self._prompt_ratios.get(name, _FIRST_RATIO)
        likely = int(text * ratio) + LIKELY_IMAGE_TOKENS * len(media) + PER_MESSAGE
        return Bound(
            input_tokens=min(likely, most_input),
            output_tokens=each * choices,
            most=Bounds(
                most_input + (SEARCH_TOKENS if searches else 0),
                each * choices + prediction,
                audio_input=bool(media) and any(kind in AUDIO for kind, _ in media),
                audio_output="audio" in (get("modalities") or ()),
                calls={"web_search": searches} if searches else NO_CALLS,
                choices=choices,
                prediction=prediction,
            ),
            max_output=each if hard and answers and not asked else None,
            model=name,
            text=text,
            media=bool(media),
        )

    def facts(self, plan: Sequence[Deployment]) -> Facts:
        """What bounds rest on of a plan: nothing of it changes under one configuration."""
        longest = [price.max_output if (price := self._prices.price(d)) else d.config.max_output for d in plan]
        known = [most for most in longest if most is not None]
        models = frozenset(d.target.model for d in plan)
        bounded = known and len(known) == len(longest)
        return Facts(models, max(known) if bounded else ANY_LENGTH, any(map(_searches, models)))

    def clamp(self, bound: Bound, money: int, plan: Sequence[Deployment], *tiers: str) -> Bound | None:
        """A bound that ``money`` (nano-dollars) pays for, wherever in ``plan`` it is served.

        None when that is less than a useful answer, or the configuration says to refuse instead.
        """
        if self._clamp is None:
            return None
        outputs = []
        for deployment in plan:
            price = self._prices.price(deployment)
            if price is not None:
                outputs.append(affordable_output(money, within(bound.most, price), price, tiers or ("default",)))
        each = (min(outputs, default=0) - bound.most.prediction) // bound.most.choices
        if each < self._clamp:
            return None
        total = each * bound.most.choices
        most = replace(bound.most, output_tokens=total + bound.most.prediction)
        return replace(bound, output_tokens=total, most=most, max_output=each)

    def wants_to_learn(self) -> bool:
        """Whether ``learn`` should be told of this answer: of the first ones, then of every LEARNED_FROMth."""
        self._answers += 1
        return self._answers < LEARNED_ALL or not self._answers % LEARNED_FROM

    def learn(self, bound: Bound, usage: Usage, text_bytes: int = 0) -> None:
        """Learn from what a provider reported; ``text_bytes`` is the length of an answer that was text alone, or 0.

        Reasoning, audio and rejected predictions are tokens that the text does not show.
        """
        if bound.text and not bound.media and usage.prompt_tokens:
            _average(self._prompt_ratios, bound.model, usage.prompt_tokens / bound.text)
        shown = usage.output == usage.completion_tokens and not usage.rejected_prediction
        if text_bytes >= _ENOUGH and shown:
            _average(self._answer_ratios, bound.model, usage.output / text_bytes)

    def settle_without_usage(self, bound: Bound, text_bytes: int, told: Usage | None = None) -> Usage:
        """What an answer probably used whose provider did not tell; never more than was reserved.

        ``told`` is what it reported before it broke off: its prompt is right, its completion only a beginning.
        """
        ratio = self._answer_ratios.get(bound.model, _FIRST_RATIO * _MARGIN)
        output = min(-int(-text_bytes * ratio // 1), bound.output_tokens)
        if told is None:
            return Usage(input=min(bound.input_tokens, bound.most.input_tokens), output=output)
        return replace(told, output=told.output + max(output - told.completion_tokens, 0))

    def rest(self, bound: Bound, text_bytes: int) -> Bound:
        """For the rest of an answer of which so many bytes of text are its beginning, and so part of the prompt."""
        said = self.settle_without_usage(bound, text_bytes).output
        left = max(bound.output_tokens - said, 1)
        most = replace(bound.most, input_tokens=bound.most.input_tokens + text_bytes, output_tokens=left)
        bounded = None if bound.max_output is None else max(bound.max_output - said, 1)
        return replace(
            bound, input_tokens=bound.input_tokens + said, output_tokens=left, most=most, max_output=bounded,
            text=bound.text + text_bytes,
        )  # fmt: skip


def _average(ratios: dict[str, float], model: str, seen: float) -> None:
    if _LEAST <= seen <= _MOST:
        before = ratios.get(model, seen)
        ratios[model] = before + _WEIGHT * (seen - before)


def _has_tools(request: Mapping[str, Any]) -> bool:
    get = request.get
    return bool(get("tools") or get("functions") or get("web_search_options") or get("response_format"))


def _has_parts(messages: Sequence[Any]) -> bool:
    for message in messages:  # a generator costs more than all the rest of this
        if type(message) is dict and (type(message.get("content")) is list or message.get("audio") is not None):
            return True
    return False


def _may_search(request: Mapping[str, Any]) -> bool:
    """Whether the provider may run tools of its own, whose results it bills as prompt."""
    if request.get("web_search_options") is not None:
        return True
    for tool in request.get("tools") or ():
        if isinstance(tool, Mapping) and tool.get("type") not in ("function", "custom"):
            return True
    return False


def _searches(model: str) -> bool:
    return any(part in model for part in SEARCHING)


def _media(messages: Sequence[Any]) -> Iterator[tuple[str, int]]:
    """(type, bytes in the request) of every part that is no text, and of spoken answers that messages refer to."""
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(message, dict) and message.get("audio") is not None:
            yield "audio", 0
        if not isinstance(content, list):
            continue
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind not in ("text", "refusal"):
                yield kind, _data_size(part.get(kind))


_DATA = {"url", "data", "file_data"}


def _data_size(body: Any) -> int:
    """The length of the base64 data in a part: it is ASCII, so characters are bytes."""
    if not isinstance(body, Mapping):
        return 0
    return sum(len(value) for key, value in body.items() if key in _DATA and isinstance(value, str))


def _media_tokens(kind: str, size: int, models: frozenset[str]) -> int:
    if kind == "image_url":
        return max((_image_tokens(model) for model in models), default=ANY_IMAGE_TOKENS)
    if kind == "input_audio":
        # The thinnest MP3 has 8 kbit/s, the densest tokenizer 32 tokens per second; a long header counts as sound.
        return size // 20 + 64
    return UNBOUNDED


def _image_tokens(model: str) -> int:
    """By the longest name that the model's own begins with, its vendor's prefix aside."""
    name = model.rsplit("/", 1)[-1].rsplit("anthropic.", 1)[-1]
    matches = [prefix for prefix in IMAGE_TOKENS if name.startswith(prefix)]
    return IMAGE_TOKENS[max(matches, key=len)] if matches else ANY_IMAGE_TOKENS
