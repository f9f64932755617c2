"""Write the body of one StableHLO function, op by op, with a location on every line.

In: calls like `builder.add(x, y)`. Out: lines of MLIR text in generic form. Invariants: every operand is defined on
an earlier line; broadcasts are explicit, both operands of a binary op have one type; only ops of the legality
vocabulary are written.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from g4c.ir.op import Dense, Loc
from g4c.ir.types import DType, TensorType


@dataclass(frozen=True)
class Tensor:
    """One SSA value of the emitted text."""

    name: str
    type: TensorType

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype


class Locations:
    """Location aliases (`#loc3`) of a module, each defined once."""

    def __init__(self) -> None:
        self._names: dict[Loc, str] = {}

    def name(self, loc: Loc) -> str:
        return self._names.setdefault(loc, f"#loc{len(self._names) + 1}")

    def lines(self) -> list[str]:
        """`path` as a name location around the source line, so that XLA takes it as the op's name."""
        lines = []
        for loc, name in self._names.items():
            source = f"({_quoted(loc.file)}:{loc.line}:0)" if loc.file else ""
            lines.append(f"{name} = loc({_quoted(loc.path)}{source})")
        return lines


def _quoted(text: str) -> str:
    escaped = "".join(
        c if c.isprintable() and c.isascii() and c not in '"\\' else f"\\{ord(c) & 255:02X}" for c in text
    )
    return f'"{escaped}"'


def array(values: Sequence[int]) -> str:
    """An `array<i64: ...>` attribute."""
    return f"array<i64: {', '.join(map(str, values))}>" if values else "array<i64>"


@dataclass
class StablehloBuilder:
    """The body of one function. `loc` is given to every line until it is changed."""

    locations: Locations
    loc: Loc = field(default_factory=Loc)
    lines: list[str] = field(default_factory=list)
    _constants: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    _count: int = 0

    # -- any op -----------------------------------------------------------------------------------------------------
    def op(
        self, name: str, operands: Sequence[Tensor], type: TensorType, attributes: str = "", region: str = ""
    ) -> Tensor:
        """One op with one result; `attributes` without braces."""
        result = Tensor(f"%{self._count}", type)
        self._count += 1
        self._write(result.name, name, operands, str(type), attributes, region)
        return result

    def call(self, callee: str, operands: Sequence[Tensor], types: Sequence[TensorType]) -> list[Tensor]:
        """A call of a private function of the module."""
        return self._bound("func.call", operands, types, f"callee = @{_quoted(callee)}")

    def kernel_call(
        self,
        target: str,
        config: str,
        operands: Sequence[Tensor],
        types: Sequence[TensorType],
        aliases: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """A custom call that returns a status. `aliases`: pairs of operand and result that are one buffer."""
        pairs = ", ".join(
            f"#stablehlo.output_operand_alias<output_tuple_indices = [{result if len(types) > 1 else ''}], "
            f"operand_index = {operand}, operand_tuple_indices = []>"
            for operand, result in aliases
        )
        attributes = (
            f"call_target_name = {_quoted(target)}, api_version = 2 : i32, backend_config = {_quoted(config)}, "
            f"output_operand_aliases = [{pairs}]"
        )
        return self._bound("stablehlo.custom_call", operands, types, attributes)

    def ret(self, results: Sequence[Tensor]) -> None:
        """The end of the function."""
        self._write("", "func.return", results, "()", "", "")

    def _bound(self, op: str, operands: Sequence[Tensor], types: Sequence[TensorType], attributes: str) -> list[Tensor]:
        """An op with any number of results."""
        name = f"%{self._count}"
        self._count += 1
        bound = f"{name}:{len(types)}" if len(types) != 1 else name
        self._write(bound, op, operands, f"({', '.join(map(str, types))})", attributes, "")
        return [Tensor(f"{name}#{k}" if len(types) != 1 else name, type) for k, type in enumerate(types)]

    def _write(
        self, bound: str, name: str, operands: Sequence[Tensor], result: str, attributes: str, region: str
    ) -> None:
        left = f"{bound} = " if bound else ""
        names = ", ".join([operand.name for operand in operands])
        types = ", ".join([str(operand.type) for operand in operands])
        braces = f" <{{{attributes}}}>" if attributes else ""
        location = self.locations.name(self.loc)
        self.lines.append(f'    {left}"{name}"({names}){braces}{region} : ({types}) -> {result} loc({location})')

    # -- constants --------------------------------------------------------------------------------------------------
    def scalar(self, value: float, dtype: DType) -> Tensor:
        """A rank-0 constant, written once per function."""
        return self._constant(_element(value, dtype), TensorType((), dtype))

    def splat(self, value: float, type: TensorType) -> Tensor:
        """`value` broadcast to `type`."""
        return self.broadcast(self.scalar(value, type.dtype), type.shape, ())

    def dense(self, value: Dense) -> Tensor:
        """A constant of any shape. One value in all places is written as a broadcast scalar."""
        size = value.type.nbytes // max(1, value.type.size)
        if value.type.size > 1 and value.data == value.data[:size] * value.type.size:
            first = Dense(TensorType((), value.type.dtype), value.data[:size])
            return self.broadcast(self.dense(first), value.type.shape, ())
        return self._constant(_literal(value), value.type)

    def _constant(self, literal: str, type: TensorType) -> Tensor:
        key = literal, str(type)
        if key not in self._constants:
            attribute = f"value = dense<{literal}> : {type}"
            self._constants[key] = self.op("stablehlo.constant", (), type, attribute)
        return self._constants[key]

    # -- shape ------------------------------------------------------------------------------------------------------
    def broadcast(self, x: Tensor, shape: tuple[int, ...], axes: Sequence[int]) -> Tensor:
        """Axis k of `x` becomes axis axes[k] of the result; extents 1 and missing axes are repeated."""
        if x.shape == shape and tuple(axes) == tuple(range(len(shape))):
            return x
        # XLA's broadcast does not stretch an extent of 1: drop such axes first.
        kept = [k for k, axis in enumerate(axes) if x.shape[k] == shape[axis]]
        x = self.reshape(x, tuple(x.shape[k] for k in kept))
        attributes = f"broadcast_dimensions = {array([axes[k] for k in kept])}"
        return self.op("stablehlo.broadcast_in_dim", (x,), x.type.with_shape(shape), attributes)

    def numpy_broadcast(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`x` in `shape` by numpy's rule: axes are aligned at the end."""
        offset = len(shape) - x.type.rank
        return self.broadcast(x, shape, range(offset, len(shape)))

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        if x.shape == shape:
            return x
        return self.op("stablehlo.reshape", (x,), x.type.with_shape(shape))

    def transpose(self, x: Tensor, permutation: Sequence[int]) -> Tensor:
        if tuple(permutation) == tuple(range(x.type.rank)):
            return x
        type = x.type.with_shape(tuple(x.shape[axis] for axis in permutation))
        return self.op("stablehlo.transpose", (x,), type, f"permutation = {array(permutation)}")

    def slice(self, x: Tensor, starts: Sequence[int], limits: Sequence[int]) -> Tensor:
        shape = tuple(b - a for a, b in zip(starts, limits, strict=True))
        if shape == x.shape:
            return x
        attributes = (
            f"start_indices = {array(starts)}, limit_indices = {array(limits)}, strides = {array([1] * len(shape))}"
        )
        return self.op("stablehlo.slice", (x,), x.type.with_shape(shape), attributes)

    def slice_axis(self, x: Tensor, axis: int, start: int, limit: int) -> Tensor:
        """x[..., start:limit, ...] on one axis."""
        starts = [start if k == axis else 0 for k in range(x.type.rank)]
        limits = [limit if k == axis else extent for k, extent in enumerate(x.shape)]
        return self.slice(x, starts, limits)

    def concat(self, xs: Sequence[Tensor], axis: int) -> Tensor:
        if len(xs) == 1:
            return xs[0]
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        type = xs[0].type.with_shape(tuple(shape))
        return self.op("stablehlo.concatenate", xs, type, f"dimension = {axis} : i64")

    def iota(self, type: TensorType, axis: int) -> Tensor:
        return self.op("stablehlo.iota", (), type, f"iota_dimension = {axis} : i64")

    # -- elementwise ------------------------------------------------------------------------------------------------
    def unary(self, name: str, x: Tensor) -> Tensor:
        return self.op(f"stablehlo.{name}", (x,), x.type)

    def binary(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        assert x.type == y.type, (name, x.type, y.type)
        return self.op(f"stablehlo.{name}", (x, y), x.type)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.binary("add", x, y)

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        return self.binary("subtract", x, y)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        return self.binary("multiply", x, y)

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        return self.binary("divide", x, y)

    def convert(self, x: Tensor, dtype: DType) -> Tensor:
        if x.dtype == dtype:
            return x
        return self.op("stablehlo.convert", (x,), x.type.with_dtype(dtype))

    def compare(self, x: Tensor, y: Tensor, direction: str) -> Tensor:
        """`direction` is one of EQ NE LT LE GT GE."""
        assert x.type == y.type, (direction, x.type, y.type)
        attributes = f"comparison_direction = #stablehlo<comparison_direction {direction}>"
        return self.op("stablehlo.compare", (x, y), x.type.with_dtype(DType.PRED), attributes)

    def select(self, predicate: Tensor, x: Tensor, y: Tensor) -> Tensor:
        assert x.type == y.type, (x.type, y.type)
        return self.op("stablehlo.select", (predicate, x, y), x.type)

    # -- contractions, reductions, lookups --------------------------------------------------------------------------
    def dot(
        self,
        x: Tensor,
        y: Tensor,
        contract: tuple[int, int],
        batch: tuple[Sequence[int], Sequence[int]] = ((), ()),
        dtype: DType = DType.F32,
    ) -> Tensor:
        """Contract axis contract[0] of x with contract[1] of y, accumulated in `dtype`; result axes: batch, x, y."""
        free_x = [n for k, n in enumerate(x.shape) if k != contract[0] and k not in batch[0]]
        free_y = [n for k, n in enumerate(y.shape) if k != contract[1] and k not in batch[1]]
        shape = (*(x.shape[k] for k in batch[0]), *free_x, *free_y)
        numbers = (
            f"lhs_batching_dimensions = {list(batch[0])}, rhs_batching_dimensions = {list(batch[1])}, "
            if batch[0]
            else ""
        )
        numbers += f"lhs_contracting_dimensions = [{contract[0]}], rhs_contracting_dimensions = [{contract[1]}]"
        attributes = f"dot_dimension_numbers = #stablehlo.dot<{numbers}>"
        return self.op("stablehlo.dot_general", (x, y), TensorType(shape, dtype), attributes)

    def reduce(self, x: Tensor, kind: str, axes: Sequence[int]) -> Tensor:
        """`kind` is "add", "maximum" or "minimum"; the axes go away."""
        lowest = -math.inf if x.dtype.is_float else -(1 << 31)
        highest = math.inf if x.dtype.is_float else (1 << 31) - 1
        initial = self.scalar({"add": 0, "maximum": lowest, "minimum": highest}[kind], x.dtype)
        element = TensorType((), x.dtype)
        location = self.locations.name(self.loc)
        region = (
            f" ({{ ^bb0(%a: {element} loc({location}), %b: {element} loc({location})): "
            f'%c = "stablehlo.{kind}"(%a, %b) : ({element}, {element}) -> {element} loc({location}) '
            f'"stablehlo.return"(%c) : ({element}) -> () loc({location}) }})'
        )
        shape = tuple(n for k, n in enumerate(x.shape) if k not in axes)
        return self.op(
            "stablehlo.reduce", (x, initial), x.type.with_shape(shape), f"dimensions = {array(axes)}", region
        )

    def gather_rows(self, table: Tensor, indices: Tensor) -> Tensor:
        """y[i..., :] = table[indices[i...], :]."""
        lead, trailing = indices.type.rank, table.type.rank - 1
        offset = list(range(lead, lead + trailing))
        attributes = (
            f"dimension_numbers = #stablehlo.gather<offset_dims = {offset}, collapsed_slice_dims = [0], "
            f"start_index_map = [0], index_vector_dim = {lead}>, slice_sizes = {array([1, *table.shape[1:]])}"
        )
        type = table.type.with_shape((*indices.shape, *table.shape[1:]))
        return self.op("stablehlo.gather", (table, indices), type, attributes)

    def scatter_rows(self, x: Tensor, indices: Tensor, updates: Tensor, *, ordered: bool) -> Tensor:
        """x [n, w] with row indices[i] replaced by updates[i]. `ordered`: indices ascend and are distinct."""
        element, location = TensorType((), x.dtype), self.locations.name(self.loc)
        flags = ", indices_are_sorted = true, unique_indices = true" if ordered else ""
        attributes = (
            "scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1], inserted_window_dims = [0], "
            f"scatter_dims_to_operand_dims = [0], index_vector_dim = 1>{flags}"
        )
        region = (
            f" ({{ ^bb0(%a: {element} loc({location}), %b: {element} loc({location})): "
            f'"stablehlo.return"(%b) : ({element}) -> () loc({location}) }})'
        )
        return self.op("stablehlo.scatter", (x, indices, updates), x.type, attributes, region)

    def update_slice(self, x: Tensor, update: Tensor, starts: Sequence[Tensor]) -> Tensor:
        """x with `update` written at scalar s32 `starts`, one per axis."""
        return self.op("stablehlo.dynamic_update_slice", (x, update, *starts), x.type)


def _element(value: float, dtype: DType) -> str:
    """A scalar literal that keeps every bit."""
    if dtype == DType.PRED:
        return "true" if value else "false"
    if not dtype.is_float:
        return str(int(value))
    if dtype == DType.F32 and math.isfinite(value):
        rounded = struct.unpack("<f", struct.pack("<f", value))[0]
        return f"{rounded:.9e}"
    return _literal(Dense.scalar(value, dtype))


def _literal(value: Dense) -> str:
    dtype = value.type.dtype
    if value.type.size == 0:
        return ""
    if value.type.rank == 0:
        if dtype == DType.PRED:
            return "true" if value.data[0] else "false"
        number = int.from_bytes(value.data, "little", signed=not dtype.is_float)
        return f"0x{number:0{len(value.data) * 2}X}" if dtype.is_float else str(number)
    if dtype == DType.PRED:
        return str(value.array().tolist()).lower()
    return f'"0x{value.data.hex().upper()}"'
