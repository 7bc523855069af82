"""A provider's ``options``, decoded once at load."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

T = TypeVar("T", bound="Options")


class Options(BaseModel):
    """What an adapter lets the operator choose; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


def decode(kind: type[T], raw: Mapping[str, Any]) -> T:
    """Check; raises ValueError naming the first bad key."""
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}") from None
