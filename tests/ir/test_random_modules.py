"""Random modules: verify, print, parse back equal, are accepted by MLIR, copy, hash and run."""

from __future__ import annotations

import functools

import numpy as np
import torch_mlir.ir as mlir
from hypothesis import given, settings
from hypothesis import strategies as st

from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import UNKNOWN, Dense, Loc, Op, SymbolRef, Value
from g4c.ir.ops import (
    AddOp,
    BroadcastOp,
    CallOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvertOp,
    IotaOp,
    LoadWeightOp,
    NegOp,
    ReduceOp,
    ReshapeOp,
    RmsNormOp,
    SelectOp,
    SliceOp,
    SoftcapOp,
    TransposeOp,
)
from g4c.ir.parser import parse_module
from g4c.ir.printer import is_valid_name, print_module, structural_hash
from g4c.ir.spelling import quote, unquote
from g4c.ir.types import DType, TensorType
from g4c.ir.verifier import verify_module
from g4c.ir.weights import Cache, Source, Transpose, Weight

always_the_same = settings(max_examples=100, deadline=None, derandomize=True, database=None)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
dtypes = st.sampled_from([DType.F32, DType.BF16, DType.F16, DType.S32])
types = st.builds(TensorType, st.lists(st.integers(1, 3), max_size=3).map(tuple), dtypes)
locations = st.one_of(
    st.just(UNKNOWN), st.builds(Loc, text), st.builds(Loc, text, text.filter(bool), st.integers(0, 9999))
)
scalars = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), text, st.lists(text, max_size=3).map(tuple), types
)


@st.composite
def modules(draw: st.DrawFn) -> Module:
    """A module with a layer of two results and a program of up to a dozen ops."""
    module = Module(draw(text), attributes=draw(st.dictionaries(text.filter(lambda key: key != "level"), scalars)))
    symbols = draw(st.lists(text, min_size=5, max_size=5, unique=True))
    layer = module.add_function(Function(symbols[0], "layer"))
    x, y = layer.add_param("x", draw(types)), layer.add_param("y", draw(types))
    layer.results = [Result(y, "a"), Result(x, "b")]
    for name in symbols[1:3]:
        weight = Weight(name, (Source(draw(text), draw(types)),))
        rank = weight.type.rank
        module.add_weight(weight.then(Transpose(tuple(draw(st.permutations(range(rank)))))) if rank else weight)
    cache = module.add_cache(Cache(symbols[3], draw(types)))
    program = module.add_function(Function(symbols[4], "program"))
    state = program.add_param("state", cache.type, cache.name)
    for name in draw(st.lists(st.from_regex(r"[A-Za-z_$.-][A-Za-z0-9_$.-]{0,4}", fullmatch=True), unique=True)):
        if name != "state":
            program.add_param(name, draw(types))
    for _ in range(draw(st.integers(0, 12))):
        op = draw(ops(module, layer, [*program.params, *(value for op in program.ops for value in op.results)]))
        op.loc = draw(locations)
        program.append(op)
    values = [value for op in program.ops for value in op.results]
    program.results = [Result(value, f"{draw(text)}{i}") for i, value in enumerate(values[-2:])]
    program.results.append(Result(state, "state", cache.name))
    return module


def constants(type: TensorType) -> st.SearchStrategy[Dense]:
    """Any bytes: all kinds of NaN, too."""
    size = Dense.length(type)
    if type.dtype == DType.PRED:
        return st.lists(st.booleans(), min_size=size, max_size=size).map(lambda bits: Dense(type, bytes(bits)))
    return st.binary(min_size=size, max_size=size).map(lambda data: Dense(type, data))


@st.composite
def ops(draw: st.DrawFn, module: Module, layer: Function, values: list[Value]) -> Op:
    """An op that fits the values at hand."""
    x = draw(st.sampled_from(values))
    shape, rank, is_float = x.shape, x.type.rank, x.dtype.is_float
    weight = draw(st.sampled_from(list(module.weights.values())))
    choices = [
        lambda: ReshapeOp(x, x.type.with_shape((1, *reversed(shape)))),
        lambda: ConvertOp(x, x.type.with_dtype(DType.F32 if is_float else draw(dtypes))),
        lambda: ConstantOp(draw(constants(x.type))),
        lambda: ConstantOp(Dense.scalar(draw(st.floats(-1e4, 1e4)), x.dtype)),
        lambda: LoadWeightOp(SymbolRef(weight.name), weight.type),
        lambda: BroadcastOp(x, x.type.with_shape((2, *shape))),
        lambda: TransposeOp(x, tuple(draw(st.permutations(range(rank))))),
        lambda: SliceOp(x, tuple(draw(st.integers(0, n)) for n in shape), shape),
        lambda: IotaOp(0, TensorType((3, *shape), DType.S32), draw(st.integers(-5, 5))),
    ]
    if x.dtype != DType.PRED:
        choices += [lambda: NegOp(x), lambda: AddOp(x, x)]
        choices += [lambda: CompareOp(x, x, draw(st.sampled_from(["eq", "lt", "ge"])))]
    if x.dtype == DType.PRED:
        choices += [lambda: SelectOp(x, x, x)]
    if rank:
        choices += [lambda: ConcatOp((x,) * draw(st.integers(1, 3)), draw(st.integers(0, rank - 1)))]
    if is_float and 0 not in shape:
        positive = st.floats(1e-30, 1e30)
        choices += [
            lambda: SoftcapOp(x, draw(positive)),
            lambda: ReduceOp(x, "mean", tuple(range(rank)), draw(st.booleans())),
        ]
        if rank:
            choices += [lambda: RmsNormOp(x, None, draw(positive))]
    arguments = [[value for value in values if value.type == param.type] for param in layer.params]
    if all(arguments):
        results = tuple(result.value.type for result in layer.results)
        choices += [
            lambda: CallOp(tuple(draw(st.sampled_from(found)) for found in arguments), SymbolRef(layer.name), results)
        ]
    return draw(st.sampled_from(choices))()


@always_the_same
@given(modules())
def test_random_modules(module: Module) -> None:
    verify_module(module)
    printed = print_module(module)
    again = parse_module(printed)
    assert print_module(again) == printed
    assert print_module(module.copy()) == printed
    assert structural_hash(again) == structural_hash(module)
    for function, other in zip(module.functions.values(), again.functions.values(), strict=True):
        assert [op.loc for op in function.ops] == [op.loc for op in other.ops]
        assert [op.attributes() for op in map(known, function.ops)] == [op.attributes() for op in map(known, other.ops)]
    with mlir_context():
        assert mlir.Module.parse(printed).operation.verify()
    program = module.programs[0]
    with np.errstate(all="ignore"):
        outputs = interpret(
            module, program.name, zeros(program), {w.name: zero(w.type) for w in module.weights.values()}
        )
    assert [array.shape for array in outputs.values()] == [result.value.shape for result in program.results]


def known(op: Op) -> Op:
    """NaN is not equal to itself; no op here has such an attribute."""
    assert all(value == value for value in op.attributes().values())
    return op


@functools.cache
def mlir_context() -> mlir.Context:
    """One for all examples: making one takes longer than reading a module."""
    context = mlir.Context()
    context.allow_unregistered_dialects = True
    return context


def zero(type: TensorType) -> np.ndarray:
    return np.zeros(type.shape, type.dtype.numpy)


def zeros(function: Function) -> dict[str, np.ndarray]:
    return {param.name: zero(param.type) for param in function.params}


@always_the_same
@given(st.text(max_size=5))
def test_a_valid_name_is_one_that_mlir_reads(name: str) -> None:
    with mlir_context():
        try:
            mlir.Module.parse(f"func.func @f(%{name}: f32) {{ return }}")
            read = True
        except (mlir.MLIRError, ValueError):
            read = False
    if is_valid_name(name):
        assert read


@always_the_same
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_mlir_reads_every_string(value: str) -> None:
    with mlir_context():
        assert mlir.StringAttr(mlir.Attribute.parse(quote(value))).value == value
    assert unquote(quote(value)) == value
