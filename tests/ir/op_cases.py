"""For every op: constructions that are right, each with an oracle and a cost.

The oracles are torch's functions and Hugging Face's modules. They see the operands widened to f32 (which is exact), so
that what the reference rounds, it must round once. Costs are closed forms over the shapes; `e` is the size of a float
in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import (
    Gemma4RMSNorm,
    Gemma4TextExperts,
    Gemma4TextScaledWordEmbedding,
    apply_rotary_pos_emb,
)

from g4c.ir.attribute_parser import parse_type
from g4c.ir.op import Cost, Dense, Op, SymbolRef, Value
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
from g4c.ir.types import DType, TensorType

Tensor = torch.Tensor


def tensor(text: str) -> TensorType:
    """`2x3xf32` -> TensorType."""
    return parse_type(f"tensor<{text}>")


def v(text: str) -> Value:
    """A free value of type `2x3xf32`."""
    return Value(tensor(text))


@dataclass(frozen=True)
class Case:
    """One right construction.

    `operands`: types ("2x3xF", where F is the float type under test), each optionally with the range of its values
    ("2xi32 0..7"; floats are normal unless they have a range). `make` builds the op from values of these types,
    `oracle` computes the result from torch tensors (None: the op has no meaning on arrays), `cost` is flops, bytes
    read and written. `bf16_tolerance` is what a bf16 result may differ by beyond one rounding, relative to its largest
    element; in f32 it is 2e-6.
    """

    operands: tuple[str, ...]
    make: Callable[..., Op]
    oracle: Callable[..., Tensor | tuple[Tensor, ...]] | None
    cost: Callable[[int], tuple[int, int, int]]
    bf16_tolerance: float = 2e-6

    def types(self, float_type: DType) -> list[TensorType]:
        return [tensor(text.split()[0].replace("F", float_type.mlir)) for text in self.operands]

    def op(self, float_type: DType) -> Op:
        return self.make(*map(Value, self.types(float_type)))

    def arrays(self, float_type: DType, seed: int = 0) -> list[np.ndarray]:
        """Operand data."""
        rng = np.random.default_rng(seed)
        arrays = []
        for text, type in zip(self.operands, self.types(float_type), strict=True):
            low, high = map(float, text.split()[1].split("..")) if " " in text else (None, None)
            if low is None and type.dtype.is_float:
                data = rng.standard_normal(type.shape)
            elif low is None:
                data = rng.integers(0, 2 if type.dtype == DType.PRED else 100, type.shape)
            else:
                integers = rng.integers(int(low), int(high), type.shape) if not type.dtype.is_float else None
                data = rng.uniform(low, high, type.shape) if integers is None else integers
            arrays.append(np.asarray(data).astype(type.dtype.numpy))
        return arrays

    def expected_cost(self, float_type: DType) -> Cost:
        return Cost(*self.cost(float_type.bits // 8))


def elementwise(make: Callable[..., Op], oracle: Callable[..., Tensor], range: str = "") -> list[Case]:
    """One operand, or two that broadcast, and scalars."""
    if make in (ExpOp, LogOp, TanhOp, CosOp, SinOp, RsqrtOp, GeluOp, NegOp):
        return [
            Case((f"2x3xF {range}".strip(),), make, oracle, lambda e: (0, 6 * e, 6 * e)),
            Case((f"F {range}".strip(),), make, oracle, lambda e: (0, e, e)),
        ]
    return [
        Case((f"2x1x3xF {range}".strip(), "4x1xF"), make, oracle, lambda e: (0, 10 * e, 24 * e)),
        Case((f"F {range}".strip(), "F"), make, oracle, lambda e: (0, 2 * e, e)),
    ]


def attention(
    q: str, segments: list[tuple[str, str]], positions: str, scale: float, window: int, cost: tuple[int, int, int]
) -> Case:
    """SDPA under Hugging Face's own mask functions, over segments of (keys, their positions).

    `cost` in flops, floats read, floats written.
    """
    n = len(segments)
    kinds = [kv for kv, _ in segments]

    def make(q: Value, *rest: Value) -> AttentionOp:
        return AttentionOp(q, rest[:n], rest[n : 2 * n], rest[2 * n], rest[2 * n + 1 :], scale, window)

    def oracle(q: Tensor, *rest: Tensor) -> Tensor:
        keys, values, held = (torch.cat(part, 1) for part in (rest[:n], rest[n : 2 * n], rest[2 * n + 1 :]))
        mask_of = sliding_window_causal_mask_function(window) if window else causal_mask_function
        zero, held = torch.zeros((), dtype=torch.int64), held.long()[:, None, None, :]
        mask = mask_of(zero, zero, rest[2 * n].long()[:, None, :, None], held) & (held >= 0)
        q, k, v = (x.transpose(1, 2) for x in (q, keys, values))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2)

    integers = [text.split("xi32")[0].split("x") for text in (positions, *(held for _, held in segments))]
    entries = sum(int(np.prod([int(extent) for extent in extents])) for extents in integers)
    return Case(
        (q, *kinds, *kinds, positions, *(held for _, held in segments)),
        make,
        oracle,
        lambda e: (cost[0], cost[1] * e + 4 * entries, cost[2] * e),
        bf16_tolerance=4e-3,  # the probabilities are rounded, too
    )


def update(cache: Tensor, x: Tensor, positions: Tensor) -> Tensor:
    slots = positions.long() % cache.shape[1]
    written = [sequence.index_copy(0, at, new) for sequence, at, new in zip(cache, slots, x, strict=True)]
    return torch.where(positions[:, :, None, None] >= 0, torch.stack(written), cache)


def held_positions(slots: int, updated: bool) -> Callable[[Tensor], Tensor]:
    """By simulation: write every position up to the last into its slot."""

    def oracle(positions: Tensor) -> Tensor:
        held = torch.full((positions.shape[0], slots), -1, dtype=torch.int32)
        for sequence, row in enumerate(positions.tolist()):
            for position in range(max(row) + 1 if updated else row[0]):
                held[sequence, position % slots] = position
        return held

    return oracle


def norm(x: Tensor, w: Tensor | None = None) -> Tensor:
    module = Gemma4RMSNorm(x.shape[-1], eps=1e-6, with_scale=w is not None)
    if w is not None:
        module.weight.data = w
    return module(x).detach()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rotary_pos_emb(x, torch.cat([cos, cos], -1), torch.cat([sin, sin], -1), unsqueeze_dim=2)


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    module = Gemma4TextScaledWordEmbedding(*table.shape, padding_idx=0, embed_scale=39.25)
    module.weight.data = table
    return module(ids).detach()


def top_k(k: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """torch.topk leaves the order of equal entries open; the stable sort has it."""

    def oracle(x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = x.sort(dim=-1, descending=True, stable=True)
        assert torch.equal(values[..., :k], torch.topk(x, k)[0])
        return values[..., :k], indices[..., :k].int()

    return oracle


def experts(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Hugging Face's module, which takes rows."""
    count, hidden, width = down.shape
    config = Gemma4TextConfig(
        hidden_size=hidden, num_experts=count, moe_intermediate_size=width, hidden_activation="gelu_pytorch_tanh"
    )
    config._experts_implementation = "eager"
    module = Gemma4TextExperts(config)
    module.gate_up_proj.data, module.down_proj.data = gate_up, down
    rows = (entry.reshape(-1, entry.shape[-1]) for entry in (x, indices.long(), weights))
    return module(*rows).detach().reshape(x.shape)


def f32(x: Tensor) -> Tensor:
    return x.to(torch.float32)


CASES: dict[str, list[Case]] = {
    "g4.load_weight": [
        Case((), lambda: LoadWeightOp(SymbolRef("w"), tensor("4x3xbf16")), None, lambda e: (0, 0, 0)),
    ],
    "g4.constant": [
        Case(
            (),
            lambda: ConstantOp(Dense.of(np.arange(6, dtype=np.float32).reshape(2, 3))),
            lambda: torch.arange(6.0).reshape(2, 3),
            lambda e: (0, 0, 0),
        ),
        Case((), lambda: ConstantOp(Dense.scalar(39.25, DType.BF16)), lambda: torch.tensor(39.25), lambda e: (0, 0, 0)),
    ],
    "g4.call": [
        Case(
            ("2xF", "3xi32"),
            lambda x, y: CallOp((x, y), SymbolRef("layer"), (y.type, x.type)),
            None,
            lambda e: (0, 2 * e + 12, 2 * e + 12),
        ),
    ],
    "g4.linear": [
        Case(("2x3x4xF", "5x4xF"), LinearOp, F.linear, lambda e: (2 * 2 * 3 * 5 * 4, (24 + 20) * e, 30 * e)),
        Case(("256xF", "7x256xF"), LinearOp, F.linear, lambda e: (2 * 7 * 256, (256 + 7 * 256) * e, 7 * e)),
    ],
    "g4.matmul": [
        Case(("2x3x4xF", "2x4x5xF"), MatmulOp, torch.matmul, lambda e: (2 * 2 * 3 * 5 * 4, (24 + 40) * e, 30 * e)),
        Case(("3x4xF", "4x1xF"), MatmulOp, torch.matmul, lambda e: (2 * 3 * 4, (12 + 4) * e, 3 * e)),
    ],
    "g4.rms_norm": [
        Case(("2x3x8xF", "8xF"), lambda x, w: RmsNormOp(x, w, 1e-6), norm, lambda e: (0, 56 * e, 48 * e)),
        Case(("2x3x8xF",), lambda x: RmsNormOp(x, None, 1e-6), norm, lambda e: (0, 48 * e, 48 * e)),
        Case(("4x8xF 0..0.001",), lambda x: RmsNormOp(x, None, 1e-6), norm, lambda e: (0, 32 * e, 32 * e)),
    ],
    "g4.rope": [
        Case(("2x3x4x8xF", "2x3x4xF", "2x3x4xF"), RopeOp, rope, lambda e: (0, (192 + 48) * e, 192 * e)),
        Case(("1x2x1x512xF", "1x2x256xF", "1x2x256xF"), RopeOp, rope, lambda e: (0, (1024 + 1024) * e, 1024 * e)),
    ],
    "g4.attention": [
        attention("2x3x4x16xF", [("2x9x2x16xF", "2x9xi32 0..9")], "2x3xi32 9..12", 1.0, 0, (13824, 384 + 2 * 576, 384)),
        attention(
            "2x3x4x16xF", [("2x9x2x16xF", "2x9xi32 -1..9")], "2x3xi32 5..9", 0.25, 4, (13824, 384 + 2 * 576, 384)
        ),
        attention(
            "1x5x8x256xF", [("1x9x1x256xF", "1x9xi32 0..9")], "1x5xi32 0..9", 0.1, 3, (368640, 10240 + 4608, 10240)
        ),
        attention("1x1x2x512xF", [("1x9x1x512xF", "1x9xi32 0..9")], "1x1xi32 8..9", 0.1, 0, (36864, 1024 + 9216, 1024)),
        # a ring and the rows of a chunk
        attention(
            "2x3x4x16xF",
            [("2x9x2x16xF", "2x9xi32 -1..20"), ("2x3x2x16xF", "2x3xi32 18..24")],
            "2x3xi32 18..24",
            0.25,
            8,
            (4 * 2 * 3 * 4 * 16 * 12, 384 + 2 * (576 + 192), 384),
        ),
        # queries that see no key: padding, keys that are all later, and keys farther away than the window
        attention("1x4x2x16xF", [("1x9x1x16xF", "1x9xi32 0..9")], "1x4xi32 -2..0", 1.0, 0, (4608, 128 + 288, 128)),
        attention("1x4x2x16xF", [("1x9x1x16xF", "1x9xi32 20..29")], "1x4xi32 0..20", 1.0, 0, (4608, 128 + 288, 128)),
        attention("1x4x2x16xF", [("1x9x1x16xF", "1x9xi32 0..9")], "1x4xi32 12..30", 1.0, 3, (4608, 128 + 288, 128)),
    ],
    "g4.held_positions": [
        Case(
            (f"5x3xi32 {low}..{low + 9}",),
            lambda p, slots=slots, updated=updated: HeldPositionsOp(p, slots, updated),
            held_positions(slots, updated),
            lambda e, slots=slots: (0, 60, 20 * slots),
        )
        for low in (-1, 3, 40)
        for slots in (1, 7, 12)
        for updated in (True, False)
    ],
    "g4.kv_update": [
        Case(
            ("3x5x2x4xF", "3x1x2x4xF", f"3x1xi32 {low}..{low + 12}"),
            KvUpdateOp,
            update,
            lambda e: (0, 24 * e + 12, 24 * e),
        )
        for low in (-1, 0, 7)
    ],
    "g4.embedding": [
        Case(
            ("2x3xi32 0..7", "7x4xF"),
            lambda ids, table: EmbeddingOp(ids, table, 39.25),
            embedding,
            lambda e: (0, 24 + 24 * e, 24 * e),
        ),
    ],
    "g4.gather": [
        Case(
            ("7x4xF", "2x3xi32 0..7"),
            GatherOp,
            lambda table, indices: F.embedding(indices, table),
            lambda e: (0, 24 + 24 * e, 24 * e),
        ),
        Case(("7xF", "i32 0..7"), GatherOp, lambda table, index: table[index], lambda e: (0, 4 + e, e)),
    ],
    "g4.select_rows": [
        Case(
            ("2x5x4xF", "2x3xi32 0..5"),
            SelectRowsOp,
            lambda x, rows: torch.gather(x, 1, rows.long()[:, :, None].expand(-1, -1, 4)),
            lambda e: (0, 24 + 24 * e, 24 * e),
        ),
    ],
    "g4.top_k": [
        Case(("2x3x40xF",), lambda x: TopKOp(x, 8), top_k(8), lambda e: (0, 240 * e, 48 * (e + 4))),
        Case(("9xF",), lambda x: TopKOp(x, 9), top_k(9), lambda e: (0, 9 * e, 9 * (e + 4))),
        # in bf16 there are three numbers in this range: most entries are equal to others
        Case(("5x300xF 2..2.03",), lambda x: TopKOp(x, 70), top_k(70), lambda e: (0, 1500 * e, 350 * (e + 4))),
    ],
    "g4.experts": [
        Case(
            ("2x3x16xF", "2x3x2xi32 0..5", "2x3x2xf32 0..1", "5x24x16xF", "5x16x12xF"),
            ExpertsOp,
            experts,
            lambda e: (6 * 12 * 16 * 12, (96 + 5 * 3 * 192) * e + 96, 96 * e),
            bf16_tolerance=1e-2,  # gate, up, their product and each expert's output are rounded, too
        ),
        Case(
            ("1x16xF", "1x3xi32 0..8", "1x3xF 0..1", "8x24x16xF", "8x16x12xF"),
            ExpertsOp,
            experts,
            lambda e: (6 * 3 * 16 * 12, (16 + 3 + 3 * 3 * 192) * e + 12, 16 * e),
            bf16_tolerance=1e-2,
        ),
    ],
    "g4.gated_gelu": [
        Case(
            ("2x8xF -4..4", "2x8xF"),
            GatedGeluOp,
            lambda gate, up: F.gelu(gate, approximate="tanh") * up,
            lambda e: (0, 32 * e, 16 * e),
        ),
    ],
    "g4.softcap": [
        Case(
            ("2x8xF -90..90",),
            lambda x: SoftcapOp(x, 30.0),
            lambda x: 30 * torch.tanh(x / 30),
            lambda e: (0, 16 * e, 16 * e),
        ),
    ],
    "g4.per_layer_input": [
        Case(
            ("1x2x3x4xF", "1x2x3x4xF"),
            lambda context, token: PerLayerInputOp(context, token, 2**-0.5),
            lambda context, token: (context + token) * 2**-0.5,
            lambda e: (0, 48 * e, 24 * e),
        ),
    ],
    "g4.add": [
        *elementwise(AddOp, torch.add),
        Case(("2xi32", "2xi32"), AddOp, torch.add, lambda e: (0, 16, 8)),
    ],
    "g4.sub": [*elementwise(SubOp, torch.sub), Case(("2xi32", "2xi32"), SubOp, torch.sub, lambda e: (0, 16, 8))],
    "g4.mul": [
        *elementwise(MulOp, torch.mul),
        Case(("2xi32 1000000..2000000", "2xi32 1000000..2000000"), MulOp, torch.mul, lambda e: (0, 16, 8)),  # wraps
    ],
    "g4.div": elementwise(DivOp, torch.div),
    "g4.max": [*elementwise(MaxOp, torch.maximum), Case(("2xi8", "2xi8"), MaxOp, torch.maximum, lambda e: (0, 4, 2))],
    "g4.min": elementwise(MinOp, torch.minimum),
    "g4.pow": elementwise(PowOp, torch.pow, "0.1..3"),
    "g4.and": [Case(("3x1xi1", "4xi1"), AndOp, torch.logical_and, lambda e: (0, 7, 12))],
    "g4.neg": [*elementwise(NegOp, torch.neg), Case(("2xi32",), NegOp, torch.neg, lambda e: (0, 8, 8))],
    "g4.exp": elementwise(ExpOp, torch.exp),
    "g4.log": elementwise(LogOp, torch.log, "0.01..9"),
    "g4.tanh": elementwise(TanhOp, torch.tanh),
    "g4.cos": elementwise(CosOp, torch.cos, "-100..100"),
    "g4.sin": elementwise(SinOp, torch.sin, "-100..100"),
    "g4.rsqrt": elementwise(RsqrtOp, torch.rsqrt, "0.01..4"),
    "g4.gelu": elementwise(GeluOp, lambda x: F.gelu(x, approximate="tanh"), "-4..4"),
    "g4.convert": [
        Case(("2x3xF",), lambda x: ConvertOp(x, tensor("2x3xbf16")), lambda x: x, lambda e: (0, 6 * e, 12)),
        Case(("2x3xF",), lambda x: ConvertOp(x, tensor("2x3xf32")), lambda x: x, lambda e: (0, 6 * e, 24)),
        Case(("4xF -9..9",), lambda x: ConvertOp(x, tensor("4xi32")), lambda x: x.int(), lambda e: (0, 4 * e, 16)),
        Case(("4xi32",), lambda x: ConvertOp(x, tensor("4xf32")), f32, lambda e: (0, 16, 16)),
        Case(("4xi1",), lambda x: ConvertOp(x, tensor("4xf32")), f32, lambda e: (0, 4, 16)),
    ],
    "g4.compare": [
        Case(
            (f"2x3x{kind}", f"3x{kind}"),
            lambda x, y, direction=direction: CompareOp(x, y, direction),
            getattr(torch, direction),
            cost,
        )
        for direction in ("eq", "ne", "lt", "le", "gt", "ge")
        for kind, cost in (("F", lambda e: (0, 9 * e, 6)), ("i32", lambda e: (0, 36, 6)), ("i1", lambda e: (0, 9, 6)))
    ],
    "g4.select": [
        Case(("2x1xi1", "3xF", "F"), SelectOp, torch.where, lambda e: (0, 2 + 4 * e, 6 * e)),
        Case(("3xi1", "3xi32", "3xi32"), SelectOp, torch.where, lambda e: (0, 27, 12)),
    ],
    "g4.reshape": [
        Case(
            ("2x6xF",), lambda x: ReshapeOp(x, x.type.with_shape((3, 4))), lambda x: x.reshape(3, 4), lambda e: (0,) * 3
        ),
        Case(("1x1xF",), lambda x: ReshapeOp(x, x.type.with_shape(())), lambda x: x.reshape(()), lambda e: (0,) * 3),
    ],
    "g4.transpose": [
        Case(
            ("2x3x4xF",),
            lambda x: TransposeOp(x, (2, 0, 1)),
            lambda x: x.permute(2, 0, 1),
            lambda e: (0, 24 * e, 24 * e),
        ),
    ],
    "g4.slice": [
        Case(
            ("4x5xF",),
            lambda x: SliceOp(x, (1, 0), (3, 5)),
            lambda x: x[1:3, 0:5],
            lambda e: (0, 10 * e, 10 * e),
        ),
        Case(("4x5xF",), lambda x: SliceOp(x, (1, 2), (1, 5)), lambda x: x[1:1, 2:5], lambda e: (0, 0, 0)),
    ],
    "g4.concat": [
        Case(
            ("2x3xF", "2x1xF", "2x3xF"),
            lambda *xs: ConcatOp(xs, 1),
            lambda *xs: torch.cat(xs, 1),
            lambda e: (0, 14 * e, 14 * e),
        ),
    ],
    "g4.broadcast": [
        Case(
            ("3x1xF",),
            lambda x: BroadcastOp(x, x.type.with_shape((2, 3, 4))),
            lambda x: x.expand(2, 3, 4),
            lambda e: (0, 3 * e, 24 * e),
        ),
    ],
    "g4.iota": [
        Case(
            (),
            lambda: IotaOp(0, tensor("3x2xi32"), -1),
            lambda: torch.tensor([[-1, -1], [0, 0], [1, 1]]).int(),
            lambda e: (0, 0, 24),
        ),
        Case((), lambda: IotaOp(1, tensor("2x3xf32")), lambda: torch.arange(3.0).expand(2, 3), lambda e: (0, 0, 24)),
    ],
    "g4.reduce": [
        Case(("2x3x4xF",), lambda x: ReduceOp(x, "sum", (0, 2)), lambda x: x.sum((0, 2)), lambda e: (0, 24 * e, 3 * e)),
        Case(
            ("2x3x4xF",),
            lambda x: ReduceOp(x, "mean", (1,), True),
            lambda x: x.mean(1, keepdim=True),
            lambda e: (0, 24 * e, 8 * e),
        ),
        Case(("2x3x4xF",), lambda x: ReduceOp(x, "max", (0, 1, 2)), torch.amax, lambda e: (0, 24 * e, e)),
    ],
}
