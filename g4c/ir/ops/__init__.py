"""The op vocabulary of the GRAPH and TILED levels, one class per op; importing this package fills the registry."""

from g4c.ir.ops.attention import AttentionOp, HeldPositionsOp, KvUpdateOp
from g4c.ir.ops.contraction import LinearOp, MatmulOp
from g4c.ir.ops.elementwise import (
    AddOp,
    AndOp,
    CompareOp,
    ConvertOp,
    CosOp,
    DivOp,
    ElementwiseOp,
    ExpOp,
    GeluOp,
    LogOp,
    MaxOp,
    MinOp,
    MulOp,
    NegOp,
    PowOp,
    RsqrtOp,
    SelectOp,
    SinOp,
    SubOp,
    TanhOp,
)
from g4c.ir.ops.experts import ExpertsOp
from g4c.ir.ops.fused import GatedGeluOp, PerLayerInputOp, RmsNormOp, RopeOp, SoftcapOp
from g4c.ir.ops.indexing import EmbeddingOp, GatherOp, SelectRowsOp
from g4c.ir.ops.ordering import TopKOp
from g4c.ir.ops.shape import BroadcastOp, ConcatOp, IotaOp, ReduceOp, ReshapeOp, SliceOp, TransposeOp
from g4c.ir.ops.structure import CallOp, ConstantOp, LoadWeightOp
from g4c.ir.ops.tiled import SplitTilesOp, TiledAttentionOp, TiledLinearOp

__all__ = [
    "AddOp",
    "AndOp",
    "AttentionOp",
    "BroadcastOp",
    "CallOp",
    "CompareOp",
    "ConcatOp",
    "ConstantOp",
    "ConvertOp",
    "CosOp",
    "DivOp",
    "ElementwiseOp",
    "EmbeddingOp",
    "ExpOp",
    "ExpertsOp",
    "GatedGeluOp",
    "GatherOp",
    "GeluOp",
    "HeldPositionsOp",
    "IotaOp",
    "KvUpdateOp",
    "LinearOp",
    "LoadWeightOp",
    "LogOp",
    "MatmulOp",
    "MaxOp",
    "MinOp",
    "MulOp",
    "NegOp",
    "PerLayerInputOp",
    "PowOp",
    "ReduceOp",
    "ReshapeOp",
    "RmsNormOp",
    "RopeOp",
    "RsqrtOp",
    "SelectOp",
    "SelectRowsOp",
    "SinOp",
    "SliceOp",
    "SoftcapOp",
    "SplitTilesOp",
    "SubOp",
    "TanhOp",
    "TiledAttentionOp",
    "TiledLinearOp",
    "TopKOp",
    "TransposeOp",
]
