"""Weights and caches as symbols: what is stored where, and how it is turned into what the program wants.

In: checkpoint keys with types, or small constants. Out: `Weight`, `Cache`. Invariant: a weight's type follows from its
sources and its chain of transforms; no pass ever touches the data. The packer replays the chain with
`Weight.materialize`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from g4c.ir.op import Dense, require
from g4c.ir.transform import TRANSFORMS, Transform, parse_transform
from g4c.ir.transforms import Cast, Concat, Pad, Reshape, RopeTable, Scale, Slice, Take, Transpose
from g4c.ir.types import Array, TensorType

__all__ = [
    "TRANSFORMS",
    "Cache",
    "Cast",
    "Concat",
    "Pad",
    "Reshape",
    "RopeTable",
    "Scale",
    "Slice",
    "Source",
    "Take",
    "Transform",
    "Transpose",
    "Weight",
    "parse_transform",
]


# A transform, which entries of the list it takes, and their types.
_Step = tuple[Transform, slice, tuple[TensorType, ...]]


@dataclass(frozen=True)
class Source:
    """A tensor of the checkpoint: decoder-relative key, and its type once rounded to the model's dtype."""

    key: str
    type: TensorType


@dataclass(frozen=True)
class Weight:
    """A symbol for parameter data: `sources` (checkpoint tensors) or `value` (a small constant), then `transforms`.

    The transforms are replayed, in order, on the list of the sources; one tensor is left in the end.
    """

    name: str
    sources: tuple[Source, ...] = ()
    value: Dense | None = None
    transforms: tuple[Transform, ...] = ()

    @staticmethod
    def stored(key: str, type: TensorType) -> Weight:
        """The weight that is one checkpoint tensor as it is, under its own name."""
        return Weight(key, (Source(key, type),))

    @cached_property
    def type(self) -> TensorType:
        """Type after the transforms; InvalidOpError where the chain does not fit."""
        require(
            bool(self.sources) != (self.value is not None), f"weight {self.name}: needs either sources or a constant"
        )
        _, types = self._typed()
        require(len(types) == 1, f"weight {self.name}: its transforms leave {len(types)} tensors; concat joins them")
        return types[0]

    def _typed(self) -> tuple[list[_Step], tuple[TensorType, ...]]:
        """The transforms with what they take, and the types that the last one leaves."""
        steps: list[_Step] = []
        types = tuple(source.type for source in self.sources) if self.value is None else (self.value.type,)
        for transform in self.transforms:
            window = transform.window(len(types))
            steps.append((transform, window, types[window]))
            types = (*types[: window.start], transform.infer(types[window]), *types[window.stop :])
        return steps, types

    def then(self, *transforms: Transform, name: str | None = None) -> Weight:
        """This weight with `transforms` appended, optionally under another name."""
        return dataclasses.replace(self, name=name or self.name, transforms=(*self.transforms, *transforms))

    @staticmethod
    def joined(name: str, parts: Sequence[Weight], join: Transform) -> Weight:
        """The weight that `join`, a step on one entry per part, makes of `parts`: their chains one after the other.

        InvalidOpError where a part is a constant: a weight has sources or a constant, not both.
        """
        sources: list[Source] = []
        transforms: list[Transform] = []
        for position, part in enumerate(parts):
            require(part.value is None, f"weight {name}: {part.name} is a constant, which cannot be joined")
            sources += part.sources
            entries = len(part.sources)
            for transform in part.transforms:
                transforms.append(transform.moved(position, entries))
                entries -= transform.arity(entries) - 1
        return Weight(name, tuple(sources), transforms=(*transforms, join))

    def materialize(self, stored: Callable[[Source], Array]) -> Array:
        """The data: `stored(source)` gives each source as an array of its type; the transforms are replayed on them.

        A source is asked for when a transform takes it, so that what waits for its turn is not in memory.
        """
        entries: list[Array | Source] = list(self.sources) if self.value is None else [self.value.array()]
        for transform in self.transforms:
            window = transform.window(len(entries))
            entries[window] = [transform.apply([_fetched(entry, stored) for entry in entries[window]])]
        return _fetched(entries[0], stored)

    def sources_of(self, array: Array) -> tuple[Array | None, ...]:
        """Arrays for `sources` of which the transforms make `array`; None for those that cannot be told.

        They need not be what `array` was made of: where a source was multiplied into another, it comes as ones.
        """
        entries: list[Array | None] = [array]
        for transform, window, taken in reversed(self._typed()[0]):
            made = entries[window.start]
            undone = [None] * len(taken) if made is None else transform.undo(made, taken)
            entries[window.start : window.start + 1] = undone
        return tuple(entries)


def _fetched(entry: Array | Source, stored: Callable[[Source], Array]) -> Array:
    return stored(entry) if isinstance(entry, Source) else entry


@dataclass(frozen=True)
class Cache:
    """A symbol for state that lives across executions: K or V of one layer, (batch, slots, kv_heads, head_dim)."""

    name: str
    type: TensorType
