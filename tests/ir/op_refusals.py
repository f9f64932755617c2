"""For every op: constructions that are refused, each with what the refusal says.

Some are refused when they are built, some by the verifier: a weight, a callee or a stale type is seen only in a module.
`around` of `test_ops.py` puts an op into a module that has a weight `w`, a layer `layer` and a program `program`.
"""

from __future__ import annotations

from collections.abc import Callable

from op_cases import tensor, v

from g4c.ir.op import Dense, Op, SymbolRef
from g4c.ir.ops import (
    AddOp,
    AndOp,
    AttentionOp,
    BroadcastOp,
    CallOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvertOp,
    CosOp,
    DivOp,
    EmbeddingOp,
    ExpertsOp,
    ExpOp,
    GatedGeluOp,
    GatherOp,
    GeluOp,
    HeldPositionsOp,
    IotaOp,
    KvUpdateOp,
    LinearOp,
    LoadWeightOp,
    LogOp,
    MatmulOp,
    MaxOp,
    MinOp,
    MulOp,
    NegOp,
    PerLayerInputOp,
    PowOp,
    ReduceOp,
    ReshapeOp,
    RmsNormOp,
    RopeOp,
    RsqrtOp,
    SelectOp,
    SelectRowsOp,
    SinOp,
    SliceOp,
    SoftcapOp,
    SubOp,
    TanhOp,
    TopKOp,
    TransposeOp,
)
from g4c.ir.types import DType


def wrong_constant() -> Op:
    op = ConstantOp(Dense.scalar(1.0, DType.F32))
    op.value = 1.0
    return op


def stale() -> Op:
    """An op whose operand was replaced by one of another type."""
    op = NegOp(v("2xf32"))
    op.x = v("3xf32")
    return op


def experts(x: str, indices: str, weights: str, gate_up: str, down: str) -> Callable[[], Op]:
    return lambda: ExpertsOp(*map(v, (x, indices, weights, gate_up, down)))


def attention(
    q: str = "1x2x2x8xf32",
    k: str = "1x9x1x8xf32",
    value: str = "",
    positions: str = "1x2xi32",
    held: str = "1x9xi32",
    second: str = "",
    segments: int = 1,
    window: int = 0,
) -> Op:
    """An attention that is right but for what is given; `second`: keys of another segment, of 3 positions."""
    keys = (v(k), v(second)) if second else (v(k),) * segments
    values = (v(value or k), *keys[1:])[: len(keys)]
    return AttentionOp(
        q=v(q),
        keys=keys,
        values=values,
        positions=v(positions),
        key_positions=(v(held), v("1x3xi32"))[: len(keys)],
        scale=1.0,
        window=window,
    )


CHOICE, GATE_UP, DOWN = "2x3xi32", "5x24x16xf32", "5x16x12xf32"
REFUSED: dict[str, list[tuple[Callable[[], Op], str]]] = {
    "g4.load_weight": [
        (lambda: LoadWeightOp(SymbolRef("nowhere"), tensor("2xf32")), "weight nowhere is not in the module's table"),
        (
            lambda: LoadWeightOp(SymbolRef("w"), tensor("2xf32")),
            "loaded as tensor<2xf32>, weight w is tensor<4x3xbf16>",
        ),
    ],
    "g4.constant": [(wrong_constant, "attribute value must be Dense, got 1.0")],
    "g4.call": [
        (
            lambda: CallOp((), SymbolRef("nowhere"), ()),
            "callee nowhere is not a layer or kernel function of the module",
        ),
        (
            lambda: CallOp((), SymbolRef("program"), ()),
            "callee program is not a layer or kernel function of the module",
        ),
        (
            lambda: CallOp((v("2xf32"),), SymbolRef("layer"), (tensor("3xi32"), tensor("2xf32"))),
            "layer takes (tensor<2xf32>, tensor<3xi32>), got (tensor<2xf32>)",
        ),
        (
            lambda: CallOp((v("2xf32"), v("3xi32")), SymbolRef("layer"), (tensor("2xf32"),)),
            "layer returns (tensor<3xi32>, tensor<2xf32>), the call says (tensor<2xf32>)",
        ),
    ],
    "g4.linear": [
        (lambda: LinearOp(v("2x3xf32"), v("4x5xf32")), "contraction mismatch: x has k=3, w has k=5"),
        (lambda: LinearOp(v("2x3xf32"), v("3xf32")), "w must be [n, k], got tensor<3xf32>"),
        (lambda: LinearOp(v("f32"), v("4x5xf32")), "x is a scalar"),
        (lambda: LinearOp(v("3xf32"), v("4x3xbf16")), "operand dtypes differ: tensor<3xf32> and tensor<4x3xbf16>"),
        (lambda: LinearOp(v("3xi32"), v("4x3xi32")), "needs floats, got tensor<3xi32>"),
    ],
    "g4.matmul": [
        (lambda: MatmulOp(v("2x3xf32"), v("4x5xf32")), "contraction mismatch: x has k=3, y has k=4"),
        (lambda: MatmulOp(v("2x3xf32"), v("3xf32")), "ranks must be equal and >= 2: tensor<2x3xf32> and tensor<3xf32>"),
        (
            lambda: MatmulOp(v("1x2x3xf32"), v("2x3x4xf32")),
            "batch axes differ: tensor<1x2x3xf32> and tensor<2x3x4xf32>",
        ),
        (lambda: MatmulOp(v("2x3xf32"), v("3x4xbf16")), "operand dtypes differ: tensor<2x3xf32> and tensor<3x4xbf16>"),
        (lambda: MatmulOp(v("2x3xi8"), v("3x4xi8")), "needs floats, got tensor<2x3xi8>"),
    ],
    "g4.rms_norm": [
        (lambda: RmsNormOp(v("2x3xf32"), v("2xf32"), 1e-6), "w must be [3] for x tensor<2x3xf32>, got tensor<2xf32>"),
        (lambda: RmsNormOp(v("3xbf16"), v("3xf32"), 1e-6), "operand dtypes differ: tensor<3xbf16> and tensor<3xf32>"),
        (lambda: RmsNormOp(v("f32"), None, 1e-6), "x is a scalar"),
        (lambda: RmsNormOp(v("3xf32"), None, 0.0), "epsilon must be positive, got 0.0"),
        (lambda: RmsNormOp(v("3xi32"), None, 1e-6), "needs floats, got tensor<3xi32>"),
        (lambda: RmsNormOp(v("3xf32"), None, 1), "attribute epsilon must be float, got 1"),
    ],
    "g4.rope": [
        (lambda: RopeOp(v("2x3x8xf32"), v("2x3x4xf32"), v("2x3x4xf32")), "x must be [b, s, heads, even d]"),
        (lambda: RopeOp(v("1x2x3x5xf32"), v("1x2x2xf32"), v("1x2x2xf32")), "got tensor<1x2x3x5xf32>"),
        (
            lambda: RopeOp(v("1x2x3x8xf32"), v("1x2x4xf32"), v("1x2x8xf32")),
            "sin must be tensor<1x2x4xf32> for x tensor<1x2x3x8xf32>, got tensor<1x2x8xf32>",
        ),
        (lambda: RopeOp(v("1x2x3x8xi32"), v("1x2x4xi32"), v("1x2x4xi32")), "needs floats, got tensor<1x2x3x8xi32>"),
    ],
    "g4.attention": [
        (lambda: attention(q="1x2x8xf32"), "q must be [b, s, H, d], got tensor<1x2x8xf32>"),
        (lambda: attention(segments=0), "segments differ: (0, 0, 0) keys, values and key_positions"),
        (
            lambda: AttentionOp(
                v("1x2x2x8xf32"), (v("1x9x1x8xf32"),), (), v("1x2xi32"), (v("1x9xi32"),), scale=1.0, window=0
            ),
            "segments differ: (1, 0, 1) keys, values and key_positions",
        ),
        (lambda: attention(k="1x9x8xf32"), "keys must be [b, m, K, d], got tensor<1x9x8xf32>"),
        (
            lambda: attention(value="1x8x1x8xf32"),
            "a segment's keys are tensor<1x9x1x8xf32>, its values tensor<1x8x1x8xf32>",
        ),
        (
            lambda: attention(k="1x9x1x4xf32"),
            "batch or head_dim differ: q is tensor<1x2x2x8xf32>, keys are tensor<1x9x1x4xf32>",
        ),
        (
            lambda: attention(q="1x2x2x8xbf16"),
            "operand dtypes differ: tensor<1x2x2x8xbf16> and tensor<1x9x1x8xf32>",
        ),
        (
            lambda: attention(q="1x2x3x8xf32", k="1x9x2x8xf32"),
            "3 query heads do not divide over 2 KV heads",
        ),
        (lambda: attention(second="1x3x2x8xf32"), "segments have 1 and 2 KV heads"),
        (lambda: attention(held="1x8xi32"), "key_positions must be tensor<1x9xi32>, got tensor<1x8xi32>"),
        (lambda: attention(positions="1x1xi32"), "positions must be tensor<1x2xi32>, got tensor<1x1xi32>"),
        (lambda: attention(window=-1), "window must be >= 0 (0 = none), got -1"),
        (lambda: attention(q="1x2x2x8xi32", k="1x9x1x8xi32"), "needs floats, got tensor<1x2x2x8xi32>"),
    ],
    "g4.held_positions": [
        (
            lambda: HeldPositionsOp(v("1x2x3xi32"), 8, True),
            "positions must be [b, rows] i32, got tensor<1x2x3xi32>",
        ),
        (lambda: HeldPositionsOp(v("1x2xf32"), 8, True), "positions must be [b, rows] i32, got tensor<1x2xf32>"),
        (lambda: HeldPositionsOp(v("1x2xi32"), 0, True), "slots must be > 0, got 0"),
    ],
    "g4.kv_update": [
        (
            lambda: KvUpdateOp(v("1x9x1x8xf32"), v("1x1x2x8xf32"), v("1x1xi32")),
            "cannot write tensor<1x1x2x8xf32> into a cache of tensor<1x9x1x8xf32>",
        ),
        (
            lambda: KvUpdateOp(v("1x9x1x8xf32"), v("1x1x1x8xf32"), v("1xi32")),
            "positions must be tensor<1x1xi32>, got tensor<1xi32>",
        ),
    ],
    "g4.embedding": [
        (lambda: EmbeddingOp(v("2xi32"), v("4xf32"), 1.0), "table must be [rows, width], got tensor<4xf32>"),
        (lambda: EmbeddingOp(v("2xf32"), v("4x3xf32"), 1.0), "ids must be i32, got tensor<2xf32>"),
        (lambda: EmbeddingOp(v("2xi32"), v("4x3xi8"), 1.0), "needs floats, got tensor<4x3xi8>"),
    ],
    "g4.gather": [
        (lambda: GatherOp(v("f32"), v("2xi32")), "table is a scalar"),
        (lambda: GatherOp(v("4xf32"), v("2xi8")), "indices must be i32, got tensor<2xi8>"),
    ],
    "g4.select_rows": [
        (lambda: SelectRowsOp(v("1x2x3xf32"), v("2x1xi32")), "x must be [b, s, ...] and rows [b, r], got"),
        (lambda: SelectRowsOp(v("1x2x3xf32"), v("1x1xf32")), "rows must be i32, got tensor<1x1xf32>"),
    ],
    "g4.gated_gelu": [
        (lambda: GatedGeluOp(v("2xf32"), v("3xf32")), "gate is tensor<2xf32>, up is tensor<3xf32>"),
        (lambda: GatedGeluOp(v("2xi32"), v("2xi32")), "needs floats, got tensor<2xi32>"),
    ],
    "g4.softcap": [
        (lambda: SoftcapOp(v("2xf32"), 0.0), "cap must be positive, got 0.0"),
        (lambda: SoftcapOp(v("2xi32"), 1.0), "needs floats, got tensor<2xi32>"),
    ],
    "g4.per_layer_input": [
        (lambda: PerLayerInputOp(v("2xf32"), v("3xf32"), 1.0), "context is tensor<2xf32>, token is tensor<3xf32>"),
        (lambda: PerLayerInputOp(v("2xi32"), v("2xi32"), 1.0), "needs floats, got tensor<2xi32>"),
    ],
    "g4.add": [
        (lambda: AddOp(v("2xf32"), v("2xbf16")), "operand dtypes differ: tensor<2xf32> and tensor<2xbf16>"),
        (lambda: AddOp(v("2x3xf32"), v("2xf32")), "shapes do not broadcast: [2, 3] and [2]"),
        (lambda: AddOp(v("2xi1"), v("2xi1")), "needs numbers, got i1"),
    ],
    "g4.sub": [(lambda: SubOp(v("2xi1"), v("2xi1")), "needs numbers, got i1")],
    "g4.mul": [(lambda: MulOp(v("2xf32"), v("3xf32")), "shapes do not broadcast: [2] and [3]")],
    "g4.div": [(lambda: DivOp(v("2xi32"), v("2xi32")), "needs floats, got i32")],
    "g4.max": [(lambda: MaxOp(v("2xf32"), v("2xi32")), "operand dtypes differ")],
    "g4.min": [(lambda: MinOp(v("2xf32"), v("2xi32")), "operand dtypes differ")],
    "g4.pow": [(lambda: PowOp(v("2xi32"), v("2xi32")), "needs floats, got i32")],
    "g4.and": [(lambda: AndOp(v("2xi32"), v("2xi32")), "needs predicates, got i32")],
    "g4.neg": [
        (lambda: NegOp(v("2xi1")), "needs numbers, got i1"),
        (stale, "results are (tensor<2xf32>), operands give (tensor<3xf32>)"),
    ],
    "g4.top_k": [
        (lambda: TopKOp(v("f32"), 1), "x is a scalar"),
        (lambda: TopKOp(v("2x3xf32"), 4), "k must be within 1..3 for x tensor<2x3xf32>, got 4"),
        (lambda: TopKOp(v("2x3xf32"), 0), "k must be within 1..3 for x tensor<2x3xf32>, got 0"),
        (lambda: TopKOp(v("2x3xi32"), 1), "needs floats, got tensor<2x3xi32>"),
    ],
    "g4.experts": [
        (experts("2x16xf32", CHOICE, "2x3xf32", "24x16xf32", DOWN), "expert weights must be rank 3"),
        (experts("2x16xf32", CHOICE, "2x3xf32", "5x12x16xf32", DOWN), "gate_up must be [5, 24, 16] for down"),
        (experts("2x16xf32", CHOICE, "2x3xf32", "4x24x16xf32", DOWN), "gate_up must be [5, 24, 16] for down"),
        (experts("2x12xf32", CHOICE, "2x3xf32", GATE_UP, DOWN), "x must be [..., 16] for down"),
        (experts("2x16xbf16", CHOICE, "2x3xf32", GATE_UP, DOWN), "operand dtypes differ"),
        (experts("2x16xf32", "3x3xi32", "3x3xf32", GATE_UP, DOWN), "indices must be [..., k] for x tensor<2x16xf32>"),
        (experts("2x16xf32", "2x3xf32", "2x3xf32", GATE_UP, DOWN), "indices must be i32, got tensor<2x3xf32>"),
        (experts("2x16xf32", CHOICE, "2x2xf32", GATE_UP, DOWN), "weights must be tensor<2x3xf32> or of x's type"),
        (experts("2x16xf32", CHOICE, "2x3xbf16", GATE_UP, DOWN), "weights must be tensor<2x3xf32> or of x's type"),
        (experts("2x16xi32", CHOICE, "2x3xi32", "5x24x16xi32", "5x16x12xi32"), "needs floats, got tensor<2x16xi32>"),
    ],
    "g4.exp": [(lambda: ExpOp(v("2xi32")), "needs floats, got i32")],
    "g4.log": [(lambda: LogOp(v("2xi32")), "needs floats, got i32")],
    "g4.tanh": [(lambda: TanhOp(v("2xi32")), "needs floats, got i32")],
    "g4.cos": [(lambda: CosOp(v("2xi32")), "needs floats, got i32")],
    "g4.sin": [(lambda: SinOp(v("2xi32")), "needs floats, got i32")],
    "g4.rsqrt": [(lambda: RsqrtOp(v("2xi1")), "needs floats, got i1")],
    "g4.gelu": [(lambda: GeluOp(v("2xi32")), "needs floats, got i32")],
    "g4.convert": [
        (lambda: ConvertOp(v("2xf32"), tensor("3xbf16")), "shapes differ: tensor<2xf32> and tensor<3xbf16>")
    ],
    "g4.compare": [
        (lambda: CompareOp(v("2xf32"), v("2xf32"), "lte"), "unknown direction 'lte'; there are eq, ne, lt, le, gt, ge"),
        (lambda: CompareOp(v("2xf32"), v("2xi32"), "lt"), "operand dtypes differ"),
    ],
    "g4.select": [
        (lambda: SelectOp(v("2xf32"), v("2xf32"), v("2xf32")), "predicate is tensor<2xf32>"),
        (lambda: SelectOp(v("2xi1"), v("2xf32"), v("2xi32")), "operand dtypes differ: tensor<2xf32> and tensor<2xi32>"),
        (lambda: SelectOp(v("2xi1"), v("3xf32"), v("f32")), "shapes do not broadcast: [2] and [3] and []"),
    ],
    "g4.reshape": [
        (
            lambda: ReshapeOp(v("2x3xf32"), tensor("7xf32")),
            "cannot reshape tensor<2x3xf32> (6 elements) to tensor<7xf32> (7)",
        ),
        (lambda: ReshapeOp(v("6xf32"), tensor("2x3xbf16")), "cannot reshape tensor<6xf32>"),
    ],
    "g4.transpose": [
        (lambda: TransposeOp(v("2x3xf32"), (0, 0)), "[0, 0] does not permute the axes of tensor<2x3xf32>"),
    ],
    "g4.slice": [
        (lambda: SliceOp(v("2x3xf32"), (0,), (1,)), "1 starts and 1 limits for tensor<2x3xf32>"),
        (lambda: SliceOp(v("2x3xf32"), (0, 1), (1, 4)), "axis 1: [1:4] is not within 0:3"),
        (lambda: SliceOp(v("2x3xf32"), (-1, 0), (1, 3)), "axis 0: [-1:1] is not within 0:2"),
    ],
    "g4.concat": [
        (lambda: ConcatOp((), 0), "no inputs"),
        (lambda: ConcatOp((v("2xf32"),), 1), "axis 1 of a rank-1 tensor"),
        (
            lambda: ConcatOp((v("2x3xf32"), v("3x3xf32")), 1),
            "tensor<2x3xf32> and tensor<3x3xf32> differ outside axis 1",
        ),
        (lambda: ConcatOp((v("2xf32"), v("2xbf16")), 0), "tensor<2xf32> and tensor<2xbf16> differ outside axis 0"),
    ],
    "g4.broadcast": [
        (lambda: BroadcastOp(v("2xf32"), tensor("2x3xf32")), "cannot broadcast tensor<2xf32> to tensor<2x3xf32>"),
        (lambda: BroadcastOp(v("1x2xf32"), tensor("2xf32")), "cannot broadcast tensor<1x2xf32> to tensor<2xf32>"),
    ],
    "g4.iota": [
        (lambda: IotaOp(1, tensor("2xi32")), "axis 1 of tensor<2xi32>"),
        (lambda: IotaOp(0, tensor("2xbf16")), "counts in i32 or f32, got bf16"),
    ],
    "g4.reduce": [
        (lambda: ReduceOp(v("2xf32"), "sum", (1,)), "cannot reduce axes [1] of tensor<2xf32>"),
        (lambda: ReduceOp(v("2x3xf32"), "sum", (1, 1)), "cannot reduce axes [1, 1] of tensor<2x3xf32>"),
        (lambda: ReduceOp(v("2xf32"), "prod", (0,)), "unknown kind 'prod'; there are sum, max, mean"),
        (lambda: ReduceOp(v("2xi32"), "sum", (0,)), "needs floats, got tensor<2xi32>"),
    ],
}
