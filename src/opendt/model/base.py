"""What all records of the model share: frozen, closed, and bounded by physics."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Count",
    "Flag",
    "Milliseconds",
    "Model",
    "NonNegative",
    "NonNegativeInt",
    "Positive",
    "Ratio",
    "Real",
    "Size",
]

MAX_U32: Final = 2**32 - 1
MAX_I64: Final = 2**63 - 1


class Model(BaseModel):
    """Base of the records: immutable, no unknown fields, no NaN, built on first use so that imports stay cheap."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        defer_build=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


Flag = Annotated[bool, Field(strict=True)]
"""True or false, and nothing that merely looks like it."""
Real = Annotated[float, Field(strict=True)]
"""A finite number."""
Positive = Annotated[float, Field(strict=True, gt=0)]
"""A finite number > 0."""
NonNegative = Annotated[float, Field(strict=True, ge=0)]
"""A finite number >= 0."""
Ratio = Annotated[float, Field(strict=True, ge=0, le=1)]
"""A share from 0 to 1."""
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_U32)]
"""A number of things."""
Size = Annotated[int, Field(strict=True, ge=1, le=MAX_U32)]
"""A number of things, at least one."""
NonNegativeInt = Annotated[int, Field(strict=True, ge=0, le=MAX_I64)]
"""A whole number >= 0 that fits 64 bits."""
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=MAX_I64)]
"""A length of time in whole ms."""
