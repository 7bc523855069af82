"""The rest of a plain text answer that broke off, from a deployment that declares that it goes on with one.

The client's stream goes on as if nothing had happened: one id, one model, one role, one end. What went before is told
to the provider as the beginning of the assistant's turn. An answer that begins anew is never put behind another: it
ends the stream with the error that would have ended it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import Adapter, Chunk, ContinuingAdapter, StreamTranslator, Target, UpstreamRequest
from adapters.ratelimits import RateLimits
from adapters.usage import Usage

from .answer import Pourable, StreamedAnswer, progress
from .call import Attempt, Call, Deployment, Plan, Principal, Route
from .relays import Translated
from .tiers import AttemptTier
from .upstream import UpstreamResponse

ANEW = 16
"""Characters in which two texts agree at their beginnings and then do not: the second is the first one told again."""
LIMITS = ("max_completion_tokens", "max_tokens")
CONTINUED = "continued"
"""The status of an attempt whose answer broke off and was gone on with by the next one."""
Resume: TypeAlias = Callable[["Resumable", ProviderError], Awaitable[bool]]


class Resumable(StreamedAnswer):
    """A stream that takes over the rest of its answer from another one when it breaks off: once."""

    def __init__(self, answer: StreamedAnswer, resume: Resume) -> None:
        self.adopt(answer)
        self._resume: Resume | None = resume
        self._tail = b""

    def adopt(self, other: StreamedAnswer) -> None:
        """Be the other one from now on."""
        self.deployment, self.tier, self.sent = other.deployment, other.tier, other.sent
        self._response, self._relay, self._first, self._kept = other._response, other._relay, other._first, other._kept
        self._complete, self._on_end = False, other._on_end
        self.waited, self.reached = other.waited, other.reached

    @property
    def said(self) -> str:
        """The text so far, of which the client has had every piece; empty where it is not text alone."""
        if self._kept is None:
            return ""
        choices = self._kept.completion()["choices"]
        message = choices[0]["message"] if choices else {}
        more = {key for key, value in message.items() if value and key not in ("role", "content")}
        return "" if more else str(message.get("content") or "")

    @property
    def relay(self) -> Translated | None:
        """What wrote the stream so far; None where it was relayed unread."""
        return self._relay if isinstance(self._relay, Translated) else None

    async def pour(self, reply: Pourable) -> None:
        before = None
        try:
            await super().pour(reply)
            before = self.text_bytes
            self._tail = super().last()  # only its last bytes tell whether the stream is complete
            return
        except ProviderError as exc:
            error = exc
        try:
            resume, self._resume = self._resume, None
            # Text that came out with the failing end has not reached the client: there is no telling where to go on.
            whole = self.finished or (before is not None and self.text_bytes != before)
            if resume is None or whole or not await resume(self, error):
                raise error
        finally:
            del error
        await self.pour(reply)

    def last(self) -> bytes:
        return self._tail


class Sendable(Protocol):
    """A call that has been reserved for: what is sent to each deployment is bounded by the reservation."""

    call: Call
    principal: Principal
    route: Route
    plan: Plan

    def admit_now(self, deployment: Deployment, number: int) -> bool:
        """``admit`` where that needs nothing more than what is reserved; False: nothing was done."""
        ...

    async def admit(self, deployment: Deployment, number: int) -> None:
        """Hold what attempt ``number`` may cost at worst, and the deployment's own capacity.

        Raises ProviderError where the deployment is full, UnsupportedParameter where a budget cannot bound it, and
        GatewayError where a budget has not enough left.
        """
        ...

    def outgoing(self, deployment: Deployment) -> tuple[Mapping[str, Any], AttemptTier]:
        """The request to translate, and the tier it runs at."""
        ...

    def told(self, deployment: Deployment, word: RateLimits | ProviderError) -> None:
        """A provider said what it still takes, or refused."""
        ...

    def over(self, attempt: Attempt, deployment: Deployment, *, maybe_billed: bool) -> None:
        """Let go of what a failed attempt held; notes in its row what the provider may bill for it."""
        ...


class Rest:
    """The call for the rest of an answer: a Sendable."""

    def __init__(self, begun: Sendable, answer: Resumable, relay: Translated, first: Usage) -> None:
        self._begun = begun
        self._spent = first.completion_tokens
        said = answer.said.rstrip()  # no provider takes blanks at the end of a begun turn
        self.call = replace(begun.call, operation=_Operation(answer.said, said, relay, first))
        self.principal, self.route = begun.principal, begun.route
        self.plan: Plan = [d for d in begun.plan if d.config.continuation]

    def admit_now(self, deployment: Deployment, number: int) -> bool:
        return self._begun.admit_now(deployment, number)

    async def admit(self, deployment: Deployment, number: int) -> None:
        await self._begun.admit(deployment, number)

    def outgoing(self, deployment: Deployment) -> tuple[Mapping[str, Any], AttemptTier]:
        """As ever, with what is left of the client's own bound; raises UnsupportedParameter when nothing is."""
        request, tier = self._begun.outgoing(deployment)
        asked = {name: self._begun.call.request[name] for name in LIMITS if self._begun.call.request.get(name)}
        left = {name: value - self._spent for name, value in asked.items()}
        if any(value < 1 for value in left.values()):
            raise UnsupportedParameter("max_completion_tokens", "Nothing is left of the answer's length.")
        return {**request, **{name: min(left[name], request[name]) for name in left if name in request}}, tier

    def told(self, deployment: Deployment, word: RateLimits | ProviderError) -> None:
        self._begun.told(deployment, word)

    def over(self, attempt: Attempt, deployment: Deployment, *, maybe_billed: bool) -> None:
        self._begun.over(attempt, deployment, maybe_billed=maybe_billed)


class _Operation:
    """How the rest of an answer is asked for and read."""

    def __init__(self, shown: str, said: str, relay: Translated, first: Usage) -> None:
        self._shown = shown
        self._said = said
        self._before = relay
        self._first = first

    def prepare(self, adapter: Adapter, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        asked = adapter.continuing(request, self._said, target) if isinstance(adapter, ContinuingAdapter) else None
        if asked is None:
            raise UnsupportedParameter("model", "This model begins every answer anew.")
        return adapter.prepare(*asked)

    async def read(
        self, _: Call, deployment: Deployment, sent: UpstreamRequest, tier: AttemptTier, response: UpstreamResponse
    ) -> StreamedAnswer:
        """Wait for the first words: before them another deployment may still be asked."""
        relay = _Relay(self._before, deployment.adapter.stream(sent), tier, Seam(self._shown), self._first)
        held: list[bytes] = []
        since = None
        while not relay.told:
            since = progress(since, deployment, tier)
            data = b"" if relay.ended else await response.chunk()
            if not data:
                raise ProviderError(ErrorKind.INCOMPLETE, "The upstream did not go on with the answer.")
            held.append(relay.feed(data))
        response.content()
        return StreamedAnswer(deployment, sent, response, relay, b"".join(held), relay.kept, tier)


class _Relay(Translated):
    """The rest of a stream, in the hand of the first one's writer."""

    def __init__(
        self, before: Translated, translator: StreamTranslator, tier: AttemptTier, seam: "Seam", first: Usage
    ) -> None:
        super().__init__(translator, before._writer, before._keep, tier)
        self.told = False
        """Whether anything of the rest was seen, or its end."""
        self._seam = seam
        self._first = first
        self._written = self._writer.text_bytes

    @property
    def kept(self) -> Any:
        return self._keep

    @property
    def text_bytes(self) -> int:
        """Of the rest alone."""
        return self._writer.text_bytes - self._written

    def feed(self, data: bytes) -> bytes:
        return self._write(self._translator.feed(data))

    def close(self) -> bytes:
        out = self._write(self._translator.close()) + self._write(self._rest())
        total = self._first.plus(self.usage) if self.usage is not None else None
        return out + self._writer.finish(total, self._tier.served(self.served_tier))

    def usage_chunk(self, usage: Usage) -> bytes:
        return self._writer.usage_chunk(self._first.plus(usage))

    def _write(self, chunks: list[Chunk]) -> bytes:
        checked = [self._checked(chunk) for chunk in chunks]
        if self._keep is not None:
            self._keep.add(checked)
        return self._writer.write(checked)

    def _checked(self, chunk: Chunk) -> Chunk:
        choices = [self._choice(choice) for choice in chunk.get("choices") or ()]
        return {"choices": choices}

    def _choice(self, choice: Chunk) -> Chunk:
        delta, finish = choice.get("delta") or {}, choice.get("finish_reason")
        if any(value for key, value in delta.items() if key not in ("role", "content")):
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream went on with something that is no text.")
        text = self._seam.join(delta.get("content") or "")
        if finish:
            text += self._seam.rest()
        self.told = self.told or bool(text) or bool(finish)
        return {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}

    def _rest(self) -> list[Chunk]:
        text = self._seam.rest()
        return [{"choices": [{"index": 0, "delta": {"content": text}}]}] if text else []


class Seam:
    """Joins the rest of a text to its beginning: drops what is told twice.

    Some providers repeat the beginning that they were given, and the blanks it ended with come again. Raises
    ProviderError for a text that begins like the first one and goes on otherwise.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._said = shown.rstrip()
        self._blank = shown[len(self._said) :]
        self._held = ""
        self._joined = False

    def join(self, text: str) -> str:
        """What of ``text`` the client has not had yet; empty while that is not known."""
        if self._joined or not text:
            return text
        self._held += text
        if self._said.startswith(self._held):
            return ""  # perhaps an echo
        if self._held.startswith(self._said):
            return self._after(self._held[len(self._said) :])
        if alike(self._said, self._held) >= ANEW:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream began the answer anew instead of going on with it.")
        return self._after(self._held)

    def rest(self) -> str:
        """What is still held when the text is over."""
        held, self._held = self._held.removeprefix(self._said), ""
        if self._joined or self._blank.startswith(held):
            return ""
        self._joined = True
        if len(held) >= ANEW:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream began the answer anew instead of going on with it.")
        return held

    def _after(self, text: str) -> str:
        """The blanks at the seam once."""
        if self._blank.startswith(text):
            return ""
        self._joined = True
        return text[alike(self._blank, text) :]


def alike(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
