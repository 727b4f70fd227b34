"""What a sweep is asked for: a YAML file, held to its form key by key.

::

    version: 1
    topology: topology.json          # paths are relative to this file
    workload: workload               # folder with tasks.parquet and fragments.parquet
    options: {scaling_policy: perfect}
    grid:                            # every combination of these ...
      host_ratio: [0.8, 0.9, 1.0]
      allocation: [Mem, CoreMem]
    sample:                          # ... with each of these draws ...
      count: 20
      method: latin_hypercube
      seed: 1
      axes:
        core_speed_ratio: {uniform: [0.6, 1.0]}
    seeds: [0, 1]                    # ... and each seed of the simulation
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from opendt.model.base import Model, Positive, Real, Size
from opendt.model.errors import FormatError, shown
from opendt.model.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_ROWS", "Draw", "Sample", "SweepSpec", "read_spec"]

MAX_ROWS: Final = 100_000
"""Most rows of one sweep: what a journal and a table in memory hold without thought."""

Seed = Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)]
WholeNumber = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]
AxisName = Annotated[str, Field(min_length=1, max_length=200)]
Values = Annotated[tuple[JsonValue, ...], Field(min_length=1)]

_MESSAGES: Final = {
    "missing": "this key",
    "extra_forbidden": "only known keys",
    "float_type": "a number (YAML reads 1e3 as text; write 1.0e+3)",
}


class Draw(Model):
    """How one axis is drawn: exactly one of the keys.

    `uniform` and `log_uniform` are [low, high) of numbers, `integers` [low, high] with both ends, `choice` a list.
    """

    uniform: tuple[Real, Real] | None = None
    log_uniform: tuple[Positive, Positive] | None = None
    integers: tuple[WholeNumber, WholeNumber] | None = None
    choice: Values | None = None

    @model_validator(mode="after")
    def _one_that_rises(self) -> Draw:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of uniform, log_uniform, integers and choice")
        for name in ("uniform", "log_uniform", "integers"):
            pair = getattr(self, name)
            if pair is not None and pair[0] >= pair[1]:
                raise ValueError(f"{name} as [low, high] with low below high")
        return self


class Sample(Model):
    """`count` points drawn at random with a seed: independently, or one in each of `count` strata of every axis."""

    count: Size
    method: Literal["random", "latin_hypercube"] = "latin_hypercube"
    seed: Seed = 0
    axes: Annotated[dict[AxisName, Draw], Field(min_length=1)]


class SweepSpec(Model):
    """A sweep: each point of the grid with each drawn point and each seed, in this order, is one simulation."""

    version: Literal[1]
    topology: str | None = None
    workload: str | None = None
    options: Options = Field(default_factory=Options)
    grid: dict[AxisName, Values] = Field(default_factory=dict)
    sample: Sample | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_to_seeds(cls, value: Any) -> Any:
        """Take a number n of seeds for the seeds 0 to n - 1."""
        return tuple(range(value)) if type(value) is int and 0 < value <= MAX_ROWS else value

    @field_validator("options")
    @classmethod
    def _nothing_that_is_set_elsewhere(cls, options: Options) -> Options:
        for name, where in {"seed": "as the key seeds of the sweep", "start_epoch_ms": "left to the workload"}.items():
            if name in options.model_fields_set:
                raise ValueError(f"{name} {where}")
        return options

    @model_validator(mode="after")
    def _axes_fit(self) -> SweepSpec:
        both = sorted(self.grid.keys() & (self.sample.axes.keys() if self.sample else set()))
        if both:
            raise ValueError(f"an axis either in grid or in sample.axes, not {both[0]} in both")
        for name in ("topology", "workload"):
            if (getattr(self, name) is None) == (name not in self.axes):
                raise ValueError(f"{name} either as a key of its own or as an axis")
        for name in ("seed", "seeds"):
            if name in self.axes:
                raise ValueError(f"seeds as the key seeds of the sweep, not the axis {name}")
        if self.row_count > MAX_ROWS:
            raise ValueError(f"at most {MAX_ROWS:,} rows, not {self.row_count:,}")
        return self

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes: those of the grid, then those of the sample."""
        return (*self.grid, *(self.sample.axes if self.sample else ()))

    @property
    def row_count(self) -> int:
        """Number of simulations."""
        count = len(self.seeds) * (self.sample.count if self.sample else 1)
        for values in self.grid.values():
            count *= len(values)
        return count


def read_spec(path: Path | str) -> SweepSpec:
    """Read a sweep.

    Raises
    ------
    FormatError
        When the file is missing or is not of this form; names the key and its line.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(path, "", str(error), "a readable UTF-8 file") from error
    try:
        tree, value = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise FormatError(path, place, error.problem or "broken YAML", "a YAML document") from error
    except (yaml.YAMLError, ValueError) as error:  # a number or time that is none is a ValueError
        raise FormatError(path, "", str(error).splitlines()[0], "a YAML document") from error
    _refuse_repeated_keys(path, tree)
    if not isinstance(value, dict):
        raise FormatError(path, "", shown(value), "a mapping with the keys of a sweep")
    try:
        return SweepSpec.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise FormatError(path, *_words(first, tree)) from error


def _words(error: Any, tree: Any) -> tuple[str, str, str]:
    """Place, what was found and what was expected, of an error of pydantic."""
    place = ".".join(str(part) for part in error["loc"])
    line = _line(tree, error["loc"])
    message = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    found = "no such key" if error["type"] == "missing" else shown(error["input"])
    return f"{place} (line {line})" if place else "", found, _MESSAGES.get(error["type"], message)


def _line(node: Any, places: Sequence[int | str]) -> int:
    """Line of the innermost of nested places that the document has."""
    line = int(node.start_mark.line) + 1
    for place in places:
        if node.id == "mapping":
            found = [(key, value) for key, value in node.value if key.value == str(place)]
        elif node.id == "sequence" and isinstance(place, int) and place < len(node.value):
            found = [(node.value[place], node.value[place])]
        else:
            found = []
        if not found:
            continue  # pydantic names the branches of a union, too
        line, node = int(found[0][0].start_mark.line) + 1, found[0][1]
    return line


def _refuse_repeated_keys(path: Path | str, tree: Any) -> None:
    """Refuse a key that stands twice in one mapping, of which YAML silently keeps the last."""
    pending, seen = [tree] if tree is not None else [], set()
    while pending:
        node = pending.pop()
        if id(node) in seen or node.id == "scalar":
            continue
        seen.add(id(node))
        keys: set[str] = set()
        for entry in node.value:
            pending.extend(entry if node.id == "mapping" else [entry])
            if node.id == "mapping" and entry[0].id == "scalar":
                name = entry[0].value
                if name in keys:
                    line = entry[0].start_mark.line + 1
                    raise FormatError(path, f"line {line}", f"the key {name} a second time", "each key once")
                keys.add(name)
