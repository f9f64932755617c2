"""What the modelled figures rest on, in words.

In: what is estimated, and on which cores. Out: sentences. Invariant: every constant of the model of the machine stands
in one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from g4c.estimate.kv import RESERVE_BYTES
from g4c.estimate.machines import Cores
from g4c.estimate.timing import COLLECTIVE_BANDWIDTH, COLLECTIVE_SECONDS
from g4c.passes.pipeline import Pipeline

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig


def assumptions(config: ModelConfig, cores: Cores, tp: int, dtype: str, pipeline: Pipeline) -> tuple[str, ...]:
    """Everything that the modelled figures assume."""
    chip, instance = cores.instance.chip, cores.instance
    figures = f"{cores.flops / 1e12:.1f} TFLOPS in {dtype}, {cores.bandwidth / 1e9:.0f} GB/s"
    lines = [
        "modelled figures are bounds from documented peaks; nothing was measured on a device",
        f"a logical core has its even share of a {chip.name} ({chip.source}): {figures}, "
        f"{cores.memory / 2**30:.0f} GiB of HBM; {instance.name} has {instance.logical_cores} ({instance.source})",
        "an execution takes max(FLOP / peak, bytes / bandwidth) plus its collectives, at 100 % of both peaks; "
        "published results on Neuron reach 60 to 70 % of this bound in decode, 4 to 70 % in prefill",
        "bytes are the weights once per execution (rows only, of tables that are looked up), K and V once per layer "
        "that reads them, new K and V; activations stay on the chip",
        "only contractions count as FLOP; norms, RoPE, softmax and elementwise work run beside them",
        "a prompt runs in chunks of the largest bucket, its rest in the smallest bucket that holds it; an execution "
        "costs the same wherever its chunk starts, because attention computes every slot of a cache",
        "with tile skipping, attention computes and reads only keys that a query sees, and no query that is padding",
        "host, launch, sampling and loading take no time",
        f"microcode takes {cores.microcode / 1e6:.0f} MB per logical core; activations, scratchpad, DMA rings and "
        f"program code fit a reserve of {RESERVE_BYTES >> 30} GiB, or of the live activations where they take more",
        "attention never stores its scores: activations are the values between ops",
    ]
    if chip.dma is not None and cores.dma is not None and cores.dma < cores.bandwidth:
        lines.append(
            f"the DMA engines are no bottleneck; by the NKI bandwidth guide they may move {cores.dma / 1e9:.0f} GB/s "
            f"per logical core, which would make traffic {cores.bandwidth / cores.dma:.2f} times as slow"
        )
    if config.moe is not None:
        experts, top_k = config.moe.num_experts, config.moe.top_k
        lines.append(f"an execution over n tokens reads min({experts}, {top_k} n) experts, the most that n tokens need")
    if "rebuild-keys" in pipeline.names:
        lines.append(
            "K is rebuilt from V beside the contractions, on the chip and in no time, which flatters it: see the "
            "activation traffic for what it moves at most"
        )
    if tp > 1:
        lines += _sharding_assumptions(tp)
    return tuple(lines)


def _sharding_assumptions(tp: int) -> list[str]:
    sent = "sent = 2 (tp-1)/tp of the tensor for an all-reduce, (tp-1)/tp for an all-gather"
    seconds = f"{COLLECTIVE_SECONDS * 1e6:.0f} us + sent bytes / {COLLECTIVE_BANDWIDTH / 1e9:.0f} GB/s"
    return [
        f"tensor parallelism over {tp} cores is modelled, g4c has no pass for it yet: matrices, tables, experts and "
        "query heads are split evenly; K/V projections and caches by KV head, at least one per core, so they are "
        "replicated where there are fewer; vectors are replicated, and activations that have no axis of heads",
        "per layer an all-reduce follows o_proj, down_proj (of experts, too) and the per-layer-input projection, an "
        "all-gather the whole model's per-layer-input projection and the logits; each takes "
        f"{seconds}, {sent}, and overlaps with nothing",
    ]
