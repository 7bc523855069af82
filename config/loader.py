"""A YAML file with ``${ENV}`` in it becomes a Config, or one error that names every mistake."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .checks import problems
from .schema import Config

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\})")
_NOT_OURS = re.compile(r"\$(?P<shell>[A-Z][A-Z0-9_]*)|os\.environ/(?P<litellm>[A-Za-z_][A-Za-z0-9_]*)")
"""Whole values that are variables elsewhere, in a shell and in LiteLLM: sent as they stand, a provider refuses such a key."""
_MERGE = "tag:yaml.org,2002:merge"
_KINDS = {
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list; write [VALUE, ...]"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a mapping of options"),
}
"""What pydantic calls otherwise than who writes YAML."""


class ConfigError(Exception):
    """The configuration is wrong. ``problems`` holds one line for each mistake, each naming its path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read, expand and check a file; raises ConfigError with every mistake at once."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise ConfigError([f"cannot be read: {why}"]) from None
    return parse(text, environ)


def parse(text: str, environ: Mapping[str, str] | None = None) -> Config:
    """Check a document; raises ConfigError with every mistake at once."""
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that also refuses duplicate keys
    except yaml.YAMLError as exc:
        raise ConfigError([f"not YAML: {where(exc)}"]) from None
    mistakes: list[str] = []
    expanded = _expand(
        document if document is not None else {}, os.environ if environ is None else environ, "", mistakes
    )
    if not isinstance(expanded, dict):
        raise ConfigError(["the file must be a mapping of options"])
    try:
        config = Config.model_validate(expanded)
    except ValidationError as exc:
        raise ConfigError(mistakes + _described(exc.errors(include_input=False, include_url=False), mistakes)) from None
    mistakes += problems(config)
    if mistakes:
        raise ConfigError(mistakes)
    return config


def where(error: yaml.YAMLError) -> str:
    """What is wrong with a document and where, in a line; the line that it stands in is not shown: it may hold a secret."""
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read")
    return problem if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, which YAML's own loader resolves in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As it is written: what `<<` brings along later may be said otherwise beside it."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "keys must be plain values", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return node


def _expand(value: Any, environ: Mapping[str, str], path: str, mistakes: list[str]) -> Any:
    """Replace ``${NAME}`` and ``${NAME:-default}``, one level deep; ``$$`` is a dollar sign."""
    if isinstance(value, dict):
        return {
            (str(k) if isinstance(k, int | float | bool) else k): _expand(v, environ, _join(path, k), mistakes)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_expand(v, environ, f"{path}[{i}]", mistakes) for i, v in enumerate(value)]
    return _text(value, environ, path, mistakes) if isinstance(value, str) else value


def _text(value: str, environ: Mapping[str, str], path: str, mistakes: list[str]) -> str | None:
    if (foreign := _NOT_OURS.fullmatch(value)) is not None:
        literal = f", or ${value} for the text" if foreign["shell"] else ""
        mistakes.append(f"{path}: write ${{{foreign['shell'] or foreign['litellm']}}} for the variable{literal}")
    if "$" not in value:
        return value
    if "${" in _VARIABLE.sub(lambda match: match["default"] or " ", value):
        mistakes.append(f"{path}: `${{` begins no ${{NAME}} and no ${{NAME:-default}}; write $${{ for the text")

    def replace(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name is None:
            return "$"
        if found := environ.get(name):
            return found
        if default is None:
            mistakes.append(
                f"{path}: the environment variable {name} is not set (write ${{{name}:-}} if it may be empty)"
            )
            return ""
        return default[2:]

    expanded = _VARIABLE.sub(replace, value)
    # A value that is nothing but an empty variable is an absent option, so that `api_key: ${KEY:-}` means no key.
    return None if not expanded and _VARIABLE.fullmatch(value) else expanded


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _described(errors: list[ErrorDetails], known: list[str]) -> list[str]:
    """A line for each mistake, but for what only follows from one: of a list and of a value that could not be had."""
    wrong = {error["loc"][:length] for error in errors for length in range(1, len(error["loc"]))}
    unknown = {line.partition(": ")[0] for line in known}
    return [
        _describe(error)
        for error in errors
        if not (error["type"] == "too_short" and error["loc"] in wrong) and _path(error) not in unknown
    ]


def _path(error: ErrorDetails) -> str:
    path = ""
    for part in error["loc"]:
        path = f"{path}[{part}]" if isinstance(part, int) else _join(path, part)
    return path


def _describe(error: ErrorDetails) -> str:
    path = _path(error)
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        return f"{path}: no such option{_suggest(str(name), _options_at(parents))}"
    told = _KINDS.get(error["type"]) or error["msg"].replace("Tuple ", "list ")
    return f"{path}: {told[0].lower()}{told[1:]}"


def _suggest(name: str, known: list[str]) -> str:
    import difflib  # for who has made a mistake

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _options_at(path: list[int | str]) -> list[str]:
    """The options a model at ``path`` of the schema has; empty when the path leads nowhere."""
    model: type[BaseModel] | None = Config
    annotation: Any = Config
    for part in path:
        field = model.model_fields.get(str(part)) if model is not None else None
        annotation = field.annotation if field is not None else annotation
        model = _model_in(annotation)
    return list(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (model := _model_in(argument)) is not None:
            return model
    return None
