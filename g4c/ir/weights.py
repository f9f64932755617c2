"""Weights and caches as symbols: what is stored where, and how it is turned into what the program wants.

In: checkpoint keys with types, or small constants. Out: `Weight`, `Cache`. Invariant: a weight's type follows from its
sources and its chain of transforms; no pass ever touches the data. The packer replays the chain with
`Weight.materialize`.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from g4c.ir.op import Dense, InvalidOpError, require
from g4c.ir.types import Array, DType, TensorType


@dataclass(frozen=True)
class Transform:
    """One recorded step from what is stored to what the program wants; prints as `name{field=value,...}`."""

    name: ClassVar[str] = ""

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        raise NotImplementedError

    def apply(self, arrays: Sequence[Array]) -> Array:
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        TRANSFORMS[cls.name] = cls

    def __str__(self) -> str:
        fields = [f"{f.name}={_format(getattr(self, f.name))}" for f in dataclasses.fields(self)]
        return f"{self.name}{{{','.join(fields)}}}" if fields else self.name


TRANSFORMS: dict[str, type[Transform]] = {}


def _single(types: tuple[TensorType, ...], name: str) -> TensorType:
    require(len(types) == 1, f"{name} takes one tensor, got {len(types)}; concat comes first")
    return types[0]


@dataclass(frozen=True)
class Concat(Transform):
    """Join several sources along `axis`."""

    name: ClassVar[str] = "concat"
    axis: int

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        first = types[0]
        require(0 <= self.axis < first.rank, f"concat: axis {self.axis} of a rank-{first.rank} tensor")
        for other in types[1:]:
            same = other.dtype == first.dtype and other.rank == first.rank
            same = same and all(
                a == b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != self.axis
            )
            require(same, f"concat: {first} and {other} differ outside axis {self.axis}")
        shape = list(first.shape)
        shape[self.axis] = sum(t.shape[self.axis] for t in types)
        return first.with_shape(tuple(shape))

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        return np.concatenate(arrays, axis=self.axis)


@dataclass(frozen=True)
class Transpose(Transform):
    """Reorder the axes; `permutation` as in numpy.transpose."""

    name: ClassVar[str] = "transpose"
    permutation: tuple[int, ...]

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        require(
            sorted(self.permutation) == list(range(source.rank)),
            f"transpose: {self.permutation} does not permute the axes of {source}",
        )
        return source.with_shape(tuple(source.shape[i] for i in self.permutation))

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].transpose(self.permutation).copy()


@dataclass(frozen=True)
class Reshape(Transform):
    """Same elements, row-major, in another shape."""

    name: ClassVar[str] = "reshape"
    shape: tuple[int, ...]

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        require(all(n >= 0 for n in self.shape), f"reshape: negative extent in {self.shape}")
        target = source.with_shape(self.shape)
        require(target.size == source.size, f"reshape: {source} has {source.size} elements, {target} has {target.size}")
        return target

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].reshape(self.shape)


@dataclass(frozen=True)
class Cast(Transform):
    """Round to another element type."""

    name: ClassVar[str] = "cast"
    dtype: DType

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        return _single(types, self.name).with_dtype(self.dtype)

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].astype(self.dtype.numpy)


@dataclass(frozen=True)
class RopeTable(Transform):
    """table[p, i] = fn(p * inv_freq[i]) for positions p < length; all in f32, as Hugging Face computes it."""

    name: ClassVar[str] = "rope_table"
    function: str
    length: int

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        require(source.rank == 1 and source.dtype == DType.F32, f"rope_table: inv_freq must be f32[n], got {source}")
        require(self.function in ("cos", "sin"), f"rope_table: function must be cos or sin, got {self.function}")
        require(self.length >= 0, f"rope_table: length must be >= 0, got {self.length}")
        return TensorType((self.length, source.shape[0]), DType.F32)

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        angles = np.arange(self.length, dtype=np.float32)[:, None] * arrays[0][None, :]
        table: Array = np.cos(angles) if self.function == "cos" else np.sin(angles)
        return table


def _format(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return value.mlir if isinstance(value, DType) else str(value)


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
    missing = [entry.name for entry in dataclasses.fields(cls) if entry.name not in fields]
    require(not missing, f"transform {match[1]} needs {', '.join(missing)}")
    build: Callable[..., Transform] = cls
    return build(**fields)


def _parse(raw: str, hint: object) -> object:
    try:
        if hint == tuple[int, ...]:
            return tuple(int(item) for item in raw.split("x")) if raw else ()
        if hint is int:
            return int(raw)
        return DType(raw) if hint is DType else raw
    except ValueError as error:
        raise InvalidOpError(f"malformed value {raw!r} in a transform") from error


@dataclass(frozen=True)
class Source:
    """A tensor of the checkpoint: decoder-relative key, and its type once rounded to the model's dtype."""

    key: str
    type: TensorType


@dataclass(frozen=True)
class Weight:
    """A symbol for parameter data: `sources` (checkpoint tensors) or `value` (a small constant), then `transforms`."""

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
        types = (self.value.type,) if self.value is not None else tuple(source.type for source in self.sources)
        for transform in self.transforms:
            types = (transform.infer(types),)
        return _single(types, f"weight {self.name}")

    def then(self, *transforms: Transform, name: str | None = None) -> Weight:
        """This weight with `transforms` appended, optionally under another name."""
        return dataclasses.replace(self, name=name or self.name, transforms=(*self.transforms, *transforms))

    def materialize(self, stored: Callable[[Source], Array]) -> Array:
        """The data: `stored(source)` gives each source as an array of its type; the transforms are replayed on them."""
        arrays = [self.value.array()] if self.value is not None else [stored(source) for source in self.sources]
        for transform in self.transforms:
            arrays = [transform.apply(arrays)]
        return arrays[0]


@dataclass(frozen=True)
class Cache:
    """A symbol for state that lives across executions: K or V of one layer, (batch, slots, kv_heads, head_dim)."""

    name: str
    type: TensorType
