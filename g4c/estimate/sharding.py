"""What of a model one of `tp` cores would hold and do: an even split, until sharding is a pass.

In: a tensor parallel degree and the model's config. Out: shares, as exact fractions. Invariant: with tp = 1 every share
is 1. Matrices and tables are split evenly, K/V projections and caches by KV head (a core has at least one, so heads are
replicated where tp exceeds their number), vectors are replicated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from g4c.ir.types import TensorType
from g4c.ir.weights import Weight

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig

ONE = Fraction(1)
_KV_PROJECTION = re.compile(r"layers\.(\d+)\.self_attn\.[kv]_proj\.")
# A contraction whose contracted axis is split ends in an all-reduce; one whose outputs are split and needed whole, in
# an all-gather.
_REDUCED = ("self_attn.o_proj.", "mlp.down_proj.", "experts.", ".per_layer_projection.")
_GATHERED = ("per_layer_model_projection.", "embed_tokens.")


def head_share(heads: int, tp: int) -> Fraction:
    """The share of `heads` KV heads that a core has."""
    return Fraction(-(-heads // tp), heads)


@dataclass(frozen=True)
class Split:
    """The split over `tp` cores of the model that `config` describes."""

    config: ModelConfig
    tp: int

    def source(self, key: str, shape: tuple[int, ...]) -> Fraction:
        """A core's share of a checkpoint tensor."""
        match = _KV_PROJECTION.match(key)
        if match:
            return head_share(self.config.layers[int(match[1])].kv_heads, self.tp)
        return Fraction(1, self.tp) if len(shape) > 1 else ONE

    def weight(self, weight: Weight) -> Fraction:
        """A core's share of a weight, by the sizes of what it is made of. Constants are replicated."""
        matrices = [s for s in weight.sources if s.type.rank > 1] or list(weight.sources)
        total = sum(source.type.size for source in matrices)
        if not total:
            return ONE
        held = (source.type.size * self.source(source.key, source.type.shape) for source in matrices)
        return sum(held, Fraction()) / total

    @property
    def even(self) -> Fraction:
        """A core's share of what is split evenly: query heads, for one."""
        return Fraction(1, self.tp)

    def cache(self, type: TensorType) -> Fraction:
        """A core's share of a cache [batch, slots, kv_heads, head_dim]."""
        return head_share(type.shape[2], self.tp)

    def traffic(self, keys: Iterable[str], result_bytes: int) -> int:
        """Bytes that a core sends after a contraction by the checkpoint tensors `keys`, in a ring; 0: none."""
        if self.tp == 1:
            return 0
        names = [f".{key}" for key in keys]
        hops = Fraction(self.tp - 1, self.tp)
        if any(part in name for name in names for part in _REDUCED):
            return int(2 * hops * result_bytes)
        if any(part in name for name in names for part in _GATHERED):
            return int(hops * result_bytes)
        return 0
