"""What the ledger knows was spent: counters that are new or were lost begin with it, so no restart resets a budget."""

import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..limits import Amounts
from ..limits.engine import Spent
from .ledger import Ledger
from .usage import Filter, UsageStore

OWNERS: Mapping[str, str] = {"k": "key", "u": "user", "t": "team", "o": "organization", "d": "deployment"}
"""The first letter of a scope -> the column it selects."""


def spent_in(usage: UsageStore, ledger: Ledger, groups: Callable[[], Mapping[str, Sequence[str]]]) -> Spent:
    """The question that limits ask: ``(shard, scope, start, end)`` in milliseconds -> what was used in between.

    ``groups`` gives the current model groups. Limits per tier are answered by the tier that served, limits per model by
    the model that was reserved for: a fallback bears its attempts itself. It raises StoreUnavailable while SQL lacks rows
    that this process or a dead one has written.
    """

    async def spent(shard: str, scope: str, start: int, end: int, without: Sequence[str] = ()) -> Amounts:
        await ledger.complete()
        times = (start / 1000, end / 1000)
        found = [await _sum(usage, wanted, without) for wanted in _filters(shard, scope, *times, groups())]
        kind, _, quoted = scope.partition("|")[0].partition(":")
        owner = f"{kind}:{urllib.parse.unquote(quoted)}"
        if kind in "ku" and await usage.counts(owner):
            toward = _filters(shard, scope, *times, groups(), counted_toward=owner)
            found += [await _sum(usage, wanted, without) for wanted in toward]
        return Amounts(*(sum(column) for column in zip(*found, strict=True)))

    return spent


def _filters(
    shard: str,
    scope: str,
    since: float,
    until: float,
    groups: Mapping[str, Sequence[str]],
    *,
    counted_toward: str | None = None,
) -> Iterator[Filter]:
    """What a scope selects; a group of models is several. Or what keys of others spend that count toward its owner.

    Of a team or user only what was used in the organization whose shard it is: elsewhere the name may be somebody else's.
    """
    owner, _, refinement = scope.partition("|")
    kind, _, quoted = owner.partition(":")
    selected = {OWNERS[kind]: urllib.parse.unquote(quoted)}
    if counted_toward is not None:
        selected = {"counted_toward": counted_toward}
    if kind in "tu":
        selected["home"] = urllib.parse.unquote(shard)
    by, _, value = refinement.partition(":")
    if by == "m":
        model = urllib.parse.unquote(value)
        for name in dict.fromkeys(groups.get(model, (model,))):
            yield Filter(since, until, **selected, borne_by=name)
    elif by == "s":
        yield Filter(since, until, **selected, tier=value)
    else:
        yield Filter(since, until, **selected)


async def _sum(usage: UsageStore, wanted: Filter, without: Sequence[str]) -> tuple[int, int, int, int, int]:
    (row,) = await usage.report((), wanted, without=without)
    prompt = sum(row[b] for b in ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input"))
    completion = row["output"] + row["reasoning"] + row["audio_output"]
    requests = row["attempts"] if wanted.deployment is not None else row["requests"]
    return requests, prompt, completion, row["cost"], row["cache_read"]
