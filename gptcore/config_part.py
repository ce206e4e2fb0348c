"""What every section of the schema is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def as_tuple(value: Any) -> Any:
    """A YAML list as the tuple that a frozen section holds."""
    return tuple(value) if isinstance(value, list) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Part(BaseModel):
    """A section of a preset: frozen, no unknown keys, no silent conversions."""

    # Deferred: only the models that are validated directly build a validator, and defaults are constructed without one:
    # it halves the time of `gptmill plan`.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)
