"""All passes, and the pipelines that g4c runs, on one page.

In: nothing. Out: `PASSES` by name, `DEFAULT_PIPELINE` (what `g4c compile` runs), `CPU_PIPELINE` (what makes the CPU
backend's own form of a program), `TILED_PIPELINE` (what kernels are made from), `KERNEL_PIPELINE`, and their names.
"""

from __future__ import annotations

from g4c.passes.canonicalize import Canonicalize
from g4c.passes.contract import Pass
from g4c.passes.cse import Cse
from g4c.passes.dce import Dce
from g4c.passes.eliminate_shared_kv import EliminateSharedKv
from g4c.passes.fold_norms import FoldNorms
from g4c.passes.fuse_projections import FuseProjections
from g4c.passes.inline_layers import InlineLayers
from g4c.passes.mask_kv_updates import MaskKvUpdates
from g4c.passes.outline_kernels import OutlineKernels
from g4c.passes.precompute_ple import PrecomputePle
from g4c.passes.precompute_rope import PrecomputeRope
from g4c.passes.prune_prefill import PrunePrefill
from g4c.passes.rebuild_keys import RebuildKeys
from g4c.passes.specialize_layers import SpecializeLayers
from g4c.passes.split_logits import SplitLogits
from g4c.passes.split_matvec import SplitMatvec
from g4c.passes.tile_contractions import TileContractions
from g4c.passes.window_kv_cache import WindowKvCache

_ALL: tuple[type[Pass], ...] = (
    Canonicalize,
    PrecomputeRope,
    SpecializeLayers,
    EliminateSharedKv,
    WindowKvCache,
    RebuildKeys,
    PrunePrefill,
    PrecomputePle,
    FoldNorms,
    FuseProjections,
    SplitLogits,
    Cse,
    Dce,
    InlineLayers,
    TileContractions,
    SplitMatvec,
    MaskKvUpdates,
    OutlineKernels,
)
PASSES: dict[str, type[Pass]] = {cls.name: cls for cls in _ALL}

# Simplify first, so that patterns are met in one form. Passes that follow values from layer to layer see whole
# programs; rings before pruning, which must see what shared layers read; projections are joined last, when it is
# settled which rows each one works on. Cutting the layers out comes at the end, so that what became of a layer decides
# its kind.
DEFAULT_PIPELINE = (
    "canonicalize,precompute-rope,eliminate-shared-kv,window-kv-cache,prune-prefill,precompute-ple,"
    "fold-norms,fuse-projections,canonicalize,cse,dce,specialize-layers"
)

# What makes the CPU backend's own form of a program, on top of the default.
CPU_PIPELINE = "split-matvec,mask-kv-updates"

# What kernels are made from.
TILED_PIPELINE = f"{DEFAULT_PIPELINE},tile-contractions"

# What makes calls of kernels.
KERNEL_PIPELINE = f"{TILED_PIPELINE},outline-kernels"

# What may stand for a whole pipeline on the command line.
NAMED_PIPELINES = {
    "default": DEFAULT_PIPELINE,
    "cpu": f"{DEFAULT_PIPELINE},{CPU_PIPELINE}",
    "tiled": TILED_PIPELINE,
    "kernels": KERNEL_PIPELINE,
}


def pass_summaries() -> list[tuple[str, str]]:
    """Name and one line for every pass, for `g4c list`."""
    return [(name, cls.summary()) for name, cls in PASSES.items()]
