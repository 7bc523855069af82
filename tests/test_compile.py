"""What is compiled keeps to what mypyc gets right."""

import ast
import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from config import schema
from gateway.limits.amounts import Amounts
from gateway.limits.engine import StoreDown
from gateway.limits.redis import RedisEngine

from .limits_worker import limit_set
from .servers import RedisServer

ROOT = Path(__file__).parents[1]
WAITS = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
AT_ONCE = ("asyncio.timeout(", "only_heir(", "self._flushing", "self._recovering")
"""What is left without waiting, also because of an exception."""


def hot() -> list[str]:
    found = importlib.util.spec_from_file_location("compile_", ROOT / "deploy/compile.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    modules: list[str] = module.HOT.split()
    return modules


def handling(tree: ast.AST, is_handled: bool = False) -> Iterator[ast.AST]:
    """The nodes that wait while an exception is handled."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from handling(node)
            continue
        here = is_handled or isinstance(node, ast.ExceptHandler)
        if here and isinstance(node, WAITS):
            yield node
        elif isinstance(node, ast.AsyncWith):
            yield from [item for item in node.items if not ast.unparse(item).startswith(AT_ONCE)]
        elif isinstance(node, ast.Try):
            yield from [inner for last in node.finalbody for inner in ast.walk(last) if isinstance(inner, WAITS)]
        yield from handling(node, here)


@pytest.mark.parametrize("module", hot())
def test_nothing_waits_while_an_exception_is_handled(module: str) -> None:
    """mypyc keeps such an exception in the thread and not with what waits (seen with 2.4): whatever runs meanwhile raises
    its own with this one as their context, and who ends first puts back that of another. So they are never let go.
    """
    source = (ROOT / f"{module}.py").read_text()
    assert [ast.unparse(node) for node in handling(ast.parse(source))] == []


async def test_errors_of_an_outage_that_many_meet_at_once_are_let_go() -> None:
    server = RedisServer()
    engine = RedisEngine(schema.Redis(url=SecretStr(server.url), timeout=0.2), lease=1)
    await engine.start()
    shards = [limit_set(f"o{n}", ("o:org", "rpd", 1000)) for n in range(10)]
    for limits in shards:
        await engine.reserve(f"first {limits.shard}", limits, Amounts().vector())
    server.stop()

    async def ask(number: int, turn: int) -> object:
        await asyncio.sleep(number % 4 * 0.007)
        return await engine.reserve(f"{turn}.{number}", shards[number], Amounts().vector())

    for turn in range(12):
        found = await asyncio.gather(*(ask(n, turn) for n in range(len(shards))), return_exceptions=True)
        assert {type(each) for each in found} == {StoreDown}
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    assert caught.value.__context__ is None
    await engine.close()
