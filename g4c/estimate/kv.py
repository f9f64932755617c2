"""How large the K/V caches are, in closed form, and whether they fit.

In: a model's config, a context, a target. Out: bytes, and `KvChoice`: whether to cache K and V ("full"), or V alone on
the layers whose K can be rebuilt from it ("v-only"). Invariant: the closed forms give the sizes of the caches of the
compiled module, which a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from g4c.estimate.machines import CHIPS, MICROCODE_BYTES
from g4c.estimate.sharding import Split, head_share
from g4c.ir.types import DType

if TYPE_CHECKING:
    from g4c.frontend.config import LayerConfig, ModelConfig

# What else a core's memory holds at least besides weights, caches and microcode: activations, scratchpad, DMA rings,
# program code. A guess.
RESERVE_BYTES = 1 << 30
RING_PAD = 128  # window-kv-cache rounds the slots of a ring up to a multiple of this

KvKind = Literal["full", "v-only"]


@dataclass(frozen=True)
class KvLayout:
    """How K and V are kept. `owned`: only by layers that no donor serves; `windowed`: rings on sliding layers."""

    owned: bool = True
    windowed: bool = True
    kind: KvKind = "full"


def position_bytes(layer: LayerConfig, dtype: DType, kind: KvKind = "full") -> int:
    """Bytes of one position of one sequence in one layer: K and V, or V alone where K can be rebuilt."""
    parts = 1 if kind == "v-only" and layer.k_eq_v else 2
    return parts * layer.kv_heads * layer.head_dim * dtype.bits // 8


def cache_slots(layer: LayerConfig, context: int, windowed: bool = True) -> int:
    """Positions that a layer's cache holds. `windowed`: caches of sliding layers are rings."""
    return min(context, -(-layer.window // RING_PAD) * RING_PAD) if windowed and layer.window else context


def cached_layers(config: ModelConfig, layout: KvLayout) -> list[LayerConfig]:
    """The layers that have caches."""
    return [layer for layer in config.layers if layer.donor is None or not layout.owned]


def kv_bytes(config: ModelConfig, context: int, dtype: DType, layout: KvLayout, *, batch: int = 1, tp: int = 1) -> int:
    """Bytes of all caches; with tp > 1, of those of one core."""
    total = sum(
        position_bytes(layer, dtype, layout.kind)
        * cache_slots(layer, context, layout.windowed)
        * head_share(layer.kv_heads, tp)
        for layer in cached_layers(config, layout)
    )
    return int(batch * total)


@dataclass(frozen=True)
class KvPerToken:
    """Bytes of one position of one sequence: of all layers, of owners, of those that grow with the context, of those
    that a window bounds; and of those that grow with V alone where K can be rebuilt.
    """

    all_layers: int
    owned: int
    growing: int
    sliding: int
    growing_v_only: int


def kv_per_token(config: ModelConfig, dtype: DType) -> KvPerToken:
    """Bytes per token, by what becomes of them."""
    owners = cached_layers(config, KvLayout())
    full = [layer for layer in owners if not layer.window]
    return KvPerToken(
        all_layers=sum(position_bytes(layer, dtype) for layer in config.layers),
        owned=sum(position_bytes(layer, dtype) for layer in owners),
        growing=sum(position_bytes(layer, dtype) for layer in full),
        sliding=sum(position_bytes(layer, dtype) for layer in owners if layer.window),
        growing_v_only=sum(position_bytes(layer, dtype, "v-only") for layer in full),
    )


def decoder_bytes(config: ModelConfig, dtype: DType, tp: int = 1) -> int:
    """Bytes of the decoder's weights, tables included, without dead K/V projections; of one core's part of them."""
    from math import prod

    from g4c.frontend.config import decoder_tensors, stored_kv_is_dead

    split = Split(config, tp)
    elements = sum(
        prod(shape) * split.source(name, shape)
        for name, shape in decoder_tensors(config).items()
        if not stored_kv_is_dead(config, name)
    )
    return int(elements * dtype.bits / 8)


def rope_table_bytes(config: ModelConfig, context: int, dtype: DType) -> int:
    """Bytes of the tables that precompute-rope makes: cos and sin, one column per frequency, for each kind of layer."""
    return sum(2 * context * (rope.head_dim // 2) * dtype.bits // 8 for rope in config.rope.values())


def rebuilt_bytes(config: ModelConfig, context: int, dtype: DType, *, batch: int = 1, tp: int = 1) -> int:
    """Bytes of K while it is rebuilt, one layer at a time, op by op: V times the norm's weight, and that rotated."""
    layers = (layer for layer in cached_layers(config, KvLayout()) if layer.k_eq_v)
    sizes = (position_bytes(layer, dtype, "v-only") * head_share(layer.kv_heads, tp) for layer in layers)
    return int(2 * batch * context * max(sizes, default=0))


@dataclass(frozen=True)
class KvChoice:
    """What to cache, why, and the bytes per core that decided.

    `other_bytes`: weights, microcode and reserve; `full_bytes`, `v_only_bytes`: caches; `rebuilt_bytes`: what V alone
    needs besides.
    """

    kind: KvKind
    reason: str
    fits: bool
    memory: int | None
    other_bytes: int
    full_bytes: int
    v_only_bytes: int
    rebuilt_bytes: int


def choose_kv(
    config: ModelConfig,
    *,
    target: str,
    context: int,
    batch: int = 1,
    dtype: DType = DType.BF16,
    tp: int = 1,
    windowed: bool = True,
    activations: int = 0,
) -> KvChoice:
    """Cache K and V if both fit a core's memory, V alone where K can be rebuilt if only that fits.

    V alone costs arithmetic (K is rebuilt at every execution), so memory decides and nothing else; where neither fits,
    K and V stay. `target`: trn1, inf2, trn2, trn3; any other (cpu) has all the memory that it needs. `windowed`:
    sliding layers have rings. `activations`: bytes known to be needed for them, where K and V are cached.
    """
    layouts = (KvLayout(windowed=windowed, kind="full"), KvLayout(windowed=windowed, kind="v-only"))
    full, v_only = (kv_bytes(config, context, dtype, layout, batch=batch, tp=tp) for layout in layouts)
    rebuilt = rebuilt_bytes(config, context, dtype, batch=batch, tp=tp)
    other = decoder_bytes(config, dtype, tp) + rope_table_bytes(config, context, dtype)
    chip = CHIPS.get(target)
    if chip is None:
        return KvChoice("full", f"{target} sets no limit to memory", True, None, other, full, v_only, rebuilt)
    memory = chip.hbm // chip.logical_cores
    other += MICROCODE_BYTES * chip.cores_per_logical + max(RESERVE_BYTES, activations)
    free = memory - other
    need = f"weights and reserve take {other / 1e9:.2f} of a core's {memory / 1e9:.2f} GB, K and V {full / 1e9:.2f} GB"
    alone = f"V alone on full layers {v_only / 1e9:.2f} GB and {rebuilt / 1e9:.2f} GB to rebuild K"
    kind: KvKind = "full"
    if full <= free:
        verdict = f"K and V fit: {need}"
    elif not rebuilt:
        verdict = f"K and V do not fit, and no layer's K can be rebuilt from V: {need}"
    elif v_only + rebuilt <= free:
        kind, verdict = "v-only", f"only V fits: {need}, {alone}"
    else:
        verdict = f"neither K and V fit nor V alone: {need}, {alone}"
    fits = full <= free or kind == "v-only"
    return KvChoice(kind, verdict, fits, memory, other, full, v_only, rebuilt)
