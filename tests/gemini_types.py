"""Google's own types as a judge of the requests we build: unknown keys, wrong types and empty turns are noticed."""

from typing import Any

import pytest
from pydantic import ValidationError

types = pytest.importorskip("google.genai.types")

_TOP = {"contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig", "serviceTier"}
_BESIDE = {"thought", "thoughtSignature"}


def _complaints(cls: Any, value: Any, path: str) -> list[str]:
    try:
        cls.model_validate(value)
    except ValidationError as e:
        return [f"{path}.{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors()]
    return []


def problems(body: dict[str, Any]) -> list[str]:
    """What Google would say against a generateContent body."""
    found = [f"unknown key {key}" for key in body if key not in _TOP]
    contents = body.get("contents")
    found += [] if contents else ["contents are required"]
    for at, content in enumerate(contents or ()):
        found += _complaints(types.Content, content, f"contents[{at}]")
        found += [] if content["role"] in ("user", "model") else [f"contents[{at}]: role {content['role']}"]
        found += [] if content["parts"] else [f"contents[{at}]: no parts"]
        found += [f"contents[{at}]: {list(p)}" for p in content["parts"] if len(set(p) - _BESIDE) != 1]
    for key, cls in (
        ("systemInstruction", types.Content),
        ("toolConfig", types.ToolConfig),
        ("generationConfig", types.GenerationConfig),
    ):
        if key in body:
            found += _complaints(cls, body[key], key)
    for at, tool in enumerate(body.get("tools", ())):
        found += _complaints(types.Tool, tool, f"tools[{at}]")
    for at, setting in enumerate(body.get("safetySettings", ())):
        found += _complaints(types.SafetySetting, setting, f"safetySettings[{at}]")
    return found + _calls_problems(contents or [])


def _calls_problems(contents: list[dict[str, Any]]) -> list[str]:
    """Calls follow a user's turn and are answered by as many results, in order, in the very next turn."""
    found = []
    for at, content in enumerate(contents):
        calls = [p["functionCall"] for p in content["parts"] if "functionCall" in p]
        results = [p["functionResponse"] for p in content["parts"] if "functionResponse" in p]
        if calls:
            if at == 0 or contents[at - 1]["role"] != "user":
                found.append(f"contents[{at}]: calls that follow no user's turn")
            after = contents[at + 1]["parts"] if at + 1 < len(contents) else []
            answers = [p["functionResponse"] for p in after if "functionResponse" in p]
            if [(c["name"], c.get("id")) for c in calls] != [(r["name"], r.get("id")) for r in answers]:
                found.append(f"contents[{at}]: calls that are not answered")
        if results and (at == 0 or not any("functionCall" in p for p in contents[at - 1]["parts"])):
            found.append(f"contents[{at}]: results of no call")
    return found
