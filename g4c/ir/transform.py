"""What a transform of weights is, and its text.

In: a list of tensor types, or of arrays; at first a weight's sources. Out: the list with the entries that a step takes,
from its `at` on, replaced by one. Invariant: a transform says the type of what it gives without any data, and it prints
as `name{field=value,...}`, from which `parse_transform` makes it again; fields at their default are not printed.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from g4c.ir.op import InvalidOpError, require
from g4c.ir.types import Array, DType, TensorType

TRANSFORMS: dict[str, type[Transform]] = {}
_Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Transform:
    """One step on a list of tensors: takes `arity` entries from `at` on and puts one in their place."""

    name: ClassVar[str] = ""
    at: int = field(default=0, kw_only=True)

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        """Type of the result, from the types of the entries that are taken."""
        raise NotImplementedError

    def apply(self, arrays: Sequence[Array]) -> Array:
        """The result, from the entries that are taken. They are not written to."""
        raise NotImplementedError

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        """Entries of `types` of which `apply` makes `array`; None for those that cannot be told."""
        return [None] * len(types)

    def arity(self, entries: int) -> int:
        """How many entries are taken out of a list of `entries`."""
        return 1

    def window(self, entries: int) -> slice:
        """Which entries are taken out of a list of `entries`."""
        limit = self.at + self.arity(entries)
        require(0 <= self.at < limit <= entries, f"{self} takes entries that a list of {entries} has not")
        return slice(self.at, limit)

    def moved(self, by: int, entries: int) -> Transform:
        """This step, written for a list of `entries`, where `by` entries stand before that list and any after it."""
        return dataclasses.replace(self, at=self.at + by)

    def __init_subclass__(cls) -> None:
        TRANSFORMS[cls.name] = cls

    def __str__(self) -> str:
        shown = [entry for entry in fields_of(type(self)) if getattr(self, entry.name) != entry.default]
        text = ",".join(f"{entry.name}={_format(getattr(self, entry.name))}" for entry in shown)
        return f"{self.name}{{{text}}}" if shown else self.name


def fields_of(cls: type[Transform]) -> tuple[dataclasses.Field[object], ...]:
    """The fields of a transform as they are printed: `at` last."""
    first, *others = dataclasses.fields(cls)
    return (*others, first)


def _format(value: object) -> str:
    if isinstance(value, DType):
        return value.mlir
    if not isinstance(value, tuple):
        return str(value)
    if any(isinstance(item, tuple) for item in value):
        return "+".join(f"{start}:{limit}" for start, limit in value)
    return "x".join(map(str, value))


def parse_transform(text: str) -> Transform:
    """The transform that prints as `text`. InvalidOpError where there is none."""
    match = re.fullmatch(r"(\w+)(?:\{(.*)\})?", text)
    require(match is not None, f"malformed transform {text!r}")
    assert match is not None
    cls = TRANSFORMS.get(match[1])
    if cls is None:
        raise InvalidOpError(f"unknown transform {match[1]!r}; there are {', '.join(sorted(TRANSFORMS))}")
    hints = typing.get_type_hints(cls)
    fields: dict[str, object] = {}
    for item in filter(None, (match[2] or "").split(",")):
        key, _, raw = item.partition("=")
        require(key in hints and key != "name", f"transform {match[1]} has no field {key!r}")
        require(key not in fields, f"transform {match[1]}: field {key!r} is given twice")
        fields[key] = _parse(raw, hints[key])
    needed = [entry.name for entry in dataclasses.fields(cls) if entry.default is dataclasses.MISSING]
    missing = [name for name in needed if name not in fields]
    require(not missing, f"transform {match[1]} needs {', '.join(missing)}")
    build: Callable[..., Transform] = cls
    return build(**fields)


def _parse(raw: str, hint: object) -> object:
    try:
        if hint == _Ranges:
            return tuple(_range(item) for item in raw.split("+"))
        if hint == tuple[int, ...]:
            return tuple(int(item) for item in raw.split("x")) if raw else ()
        if hint is int:
            return int(raw)
        return DType(raw) if hint is DType else raw
    except ValueError as error:
        raise InvalidOpError(f"malformed value {raw!r} in a transform") from error


def _range(text: str) -> tuple[int, int]:
    start, limit = text.split(":")
    return int(start), int(limit)
