"""What an operation is: a dataclass whose fields are its operands and attributes.

In: nothing. Out: `Value`, `Op`, `Loc`, `Cost`, `Level`, the registry. Invariant: a new op's results are what `infer`
says of its operands, and every op class answers `infer`, `verify`, `reference` and `cost`.

Fields annotated `Value`, `Value | None` or `tuple[Value, ...]` are operands. `type: TensorType` and
`types: tuple[TensorType, ...]` are result types that cannot be inferred (reshape, call, ...); in the text the signature
carries them. All other fields are attributes.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias, TypeVar

from g4c.ir.types import Array, DType, TensorType


class Level(enum.Enum):
    """How far a module has been lowered."""

    GRAPH = "graph"
    TILED = "tiled"
    NKI = "nki"


@dataclass(frozen=True)
class Loc:
    """Where an op comes from: module path in the model ("model.layers.3.mlp") and source line."""

    path: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        source = f"{self.file}:{self.line}" if self.file else ""
        return f"{self.path} ({source})" if self.path and source else self.path or source


UNKNOWN = Loc()


@dataclass(frozen=True)
class Cost:
    """Work of one execution: matmul FLOP (a multiply-add is 2, elementwise work is not counted), bytes moved."""

    flops: int
    bytes_read: int
    bytes_written: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops, self.bytes_read + other.bytes_read, self.bytes_written + other.bytes_written
        )


@dataclass(frozen=True)
class SymbolRef:
    """A reference to a weight or function of the module; prints as `@name`."""

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


@dataclass(frozen=True)
class Dense:
    """Constant data: little-endian, row-major bytes of a tensor of `type`.

    A predicate takes a byte, 0 or 1; an i4 takes the low half of a byte.
    """

    type: TensorType
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.data) == self.length(self.type), (self.type, len(self.data))

    @staticmethod
    def length(type: TensorType) -> int:
        """Number of bytes that constant data of `type` has."""
        return type.size * ((type.dtype.bits + 7) // 8)

    def array(self) -> Array:
        import numpy as np

        flat: Array = np.frombuffer(self.data, dtype=self.type.dtype.numpy)
        return flat.reshape(self.type.shape)

    @staticmethod
    def of(array: Array) -> Dense:
        import numpy as np

        return Dense(TensorType(array.shape, DType.of(array.dtype)), np.ascontiguousarray(array).tobytes())

    @staticmethod
    def scalar(value: float, dtype: DType) -> Dense:
        """A rank-0 constant, `value` rounded to `dtype` (to f32 first where `dtype` is narrower)."""
        import numpy as np

        return Dense.of(np.asarray(value).astype(dtype.numpy))


Attribute: TypeAlias = (
    "int | float | bool | str | DType | SymbolRef | Dense | TensorType"
    " | tuple[int, ...] | tuple[str, ...] | tuple[TensorType, ...]"
)


class Value:
    """One SSA value: its type, and the op (or None for a function parameter) that defines it."""

    __slots__ = ("index", "owner", "type")

    def __init__(self, type: TensorType, owner: Op | None = None, index: int = 0) -> None:
        self.type = type
        self.owner = owner
        self.index = index

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def __repr__(self) -> str:
        name = self.owner.mnemonic if self.owner else "parameter"
        return f"<{name}#{self.index} : {self.type}>"


class InvalidOpError(Exception):
    """An op whose operands or attributes do not fit; the message names both sides of the mismatch."""


def require(condition: bool, message: str) -> None:
    """Raise InvalidOpError(message) unless `condition`."""
    if not condition:
        raise InvalidOpError(message)


@dataclass(eq=False, repr=False)
class Op:
    """Base of all ops."""

    mnemonic: ClassVar[str] = ""
    level: ClassVar[Level] = Level.GRAPH
    loc: Loc = field(default=UNKNOWN, kw_only=True)

    def __init_subclass__(cls) -> None:
        if cls.mnemonic:
            REGISTRY[cls.mnemonic] = cls

    def __post_init__(self) -> None:
        self.results: tuple[Value, ...] = tuple(Value(type, self, i) for i, type in enumerate(self.infer()))

    # -- what every op class answers ---------------------------------------------------------------------------------
    def infer(self) -> tuple[TensorType, ...]:
        """Types of the results; InvalidOpError where the operands do not fit."""
        raise NotImplementedError

    def verify(self) -> None:
        """Check what `infer` does not need; InvalidOpError where an attribute does not fit."""

    def reference(self, *operands: Array) -> Array | tuple[Array, ...]:
        """The executable meaning, on numpy arrays of the operands' types; returns arrays of the results' types."""
        raise NotImplementedError

    def cost(self) -> Cost:
        """Work of one execution. The default: no FLOP, operands read once, results written once."""
        return Cost(0, sum(v.type.nbytes for v in self.operands), sum(v.type.nbytes for v in self.results))

    # -- structure ---------------------------------------------------------------------------------------------------
    @property
    def result(self) -> Value:
        """The only result."""
        assert len(self.results) == 1, f"{self.mnemonic} has {len(self.results)} results"
        return self.results[0]

    @property
    def operands(self) -> tuple[Value, ...]:
        return tuple(value for _, value in self.named_operands())

    def named_operands(self) -> Iterator[tuple[str, Value]]:
        for name in layout(type(self)).operands:
            entry = getattr(self, name)
            if isinstance(entry, tuple):
                for value in entry:
                    yield name, value
            elif entry is not None:
                yield name, entry

    def attributes(self) -> dict[str, Attribute]:
        """Attributes in field order, without those that the signature carries."""
        return {name: getattr(self, name) for name in layout(type(self)).attributes}

    def replace_operands(self, mapping: Mapping[Value, Value]) -> bool:
        """Replace operands in place; says whether any changed. Types must be equal."""
        changed = False
        for name in layout(type(self)).operands:
            entry = getattr(self, name)
            new = _mapped(entry, mapping)
            if new != entry:
                setattr(self, name, new)
                changed = True
        return changed

    def copy(self, mapping: Mapping[Value, Value], loc: Loc | None = None) -> Op:
        """A new op of the same kind with operands replaced by `mapping` (types may differ) and fresh results."""
        fields: dict[str, object] = {"loc": self.loc if loc is None else loc}
        spec = layout(type(self))
        for name in spec.operands:
            fields[name] = _mapped(getattr(self, name), mapping)
        for name in (*spec.attributes, *spec.signature):
            fields[name] = getattr(self, name)
        build: Callable[..., Op] = type(self)
        return build(**fields)

    def __repr__(self) -> str:
        return f"<{self.mnemonic} {self.loc.path}>"


def _mapped(
    entry: Value | tuple[Value, ...] | None, mapping: Mapping[Value, Value]
) -> Value | tuple[Value, ...] | None:
    if isinstance(entry, tuple):
        return tuple(mapping.get(value, value) for value in entry)
    return None if entry is None else mapping.get(entry, entry)


REGISTRY: dict[str, type[Op]] = {}


@dataclass(frozen=True)
class Layout:
    """Which fields of an op class are operands, attributes, or carried by the signature."""

    operands: tuple[str, ...]
    attributes: tuple[str, ...]
    signature: tuple[str, ...]
    segmented: bool  # an operand field is optional or variadic, so the text must say how many values each field has
    optional: frozenset[str]  # operand fields that may be None
    variadic: frozenset[str]  # operand fields that hold a tuple
    kinds: Mapping[str, object]  # the annotation of each attribute


_LAYOUTS: dict[type[Op], Layout] = {}


def layout(cls: type[Op]) -> Layout:
    """The field layout of an op class."""
    if cls not in _LAYOUTS:
        _LAYOUTS[cls] = _layout(cls)
    return _LAYOUTS[cls]


def _layout(cls: type[Op]) -> Layout:
    hints = typing.get_type_hints(cls)
    names = [entry.name for entry in dataclasses.fields(cls) if entry.name != "loc"]
    optional = frozenset(name for name in names if hints[name] == Value | None)
    variadic = frozenset(name for name in names if hints[name] == tuple[Value, ...])
    operands = tuple(name for name in names if hints[name] is Value or name in optional | variadic)
    signature = tuple(name for name in names if name in ("type", "types"))
    attributes = tuple(name for name in names if name not in (*operands, *signature))
    return Layout(
        operands,
        attributes,
        signature,
        segmented=bool(optional | variadic) and len(operands) > 1,
        optional=optional,
        variadic=variadic,
        kinds={name: hints[name] for name in attributes},
    )


def attribute_mismatch(cls: type[Op], name: str, value: object) -> str | None:
    """What is wrong with `value` as attribute `name` of `cls`, or None. An int is no float: their texts differ."""
    kind = layout(cls).kinds[name]
    if _is_of_kind(value, kind):
        return None
    return f"attribute {name} must be {kind.__name__ if isinstance(kind, type) else kind}, got {value!r}"


def _is_of_kind(value: object, kind: object) -> bool:
    items = typing.get_args(kind)
    if items:  # tuple[int, ...], tuple[str, ...]
        return isinstance(value, tuple) and all(_is_of_kind(item, items[0]) for item in value)
    assert isinstance(kind, type), kind
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


OpT = TypeVar("OpT", bound=Op)


def defining(value: Value, kind: type[OpT]) -> OpT | None:
    """The op that defines `value` if it is a `kind`, else None."""
    return value.owner if isinstance(value.owner, kind) else None
