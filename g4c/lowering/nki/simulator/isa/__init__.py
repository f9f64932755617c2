"""`nki.isa`: the instructions, by engine, and their enums.

What `import nki.isa as nisa` gives a kernel; the meaning is in the modules the names come from.
"""

from __future__ import annotations

from inspect import isfunction

from g4c.errors.suggest import nearest
from g4c.lowering.nki.simulator.diagnostics import AbsentNameError, NkiValidationError, error
from g4c.lowering.nki.simulator.dry import instruction
from g4c.lowering.nki.simulator.enums import (
    DgeMode,
    DmaEngine,
    Engine,
    MatmulPerfMode,
    NcVersion,
    NkiInstruction,
    OobMode,
    ReduceCommand,
)
from g4c.lowering.nki.simulator.isa.activate import activate2, activation, activation_reduce, exponential
from g4c.lowering.nki.simulator.isa.copies import memset, tensor_copy, tensor_copy_predicated
from g4c.lowering.nki.simulator.isa.cores import core_barrier, sendrecv
from g4c.lowering.nki.simulator.isa.dma import dma_compute, dma_copy, dma_transpose
from g4c.lowering.nki.simulator.isa.elementwise import (
    reciprocal,
    scalar_tensor_tensor,
    tensor_scalar,
    tensor_tensor,
    tensor_tensor_scan,
)
from g4c.lowering.nki.simulator.isa.gathers import (
    local_gather,
    nc_n_gather,
    nc_stream_shuffle,
    nonzero_with_count,
    sequence_bounds,
)
from g4c.lowering.nki.simulator.isa.reductions import (
    bn_aggr,
    bn_stats,
    tensor_partition_reduce,
    tensor_reduce,
    tensor_scalar_cumulative,
    tensor_scalar_reduce,
)
from g4c.lowering.nki.simulator.isa.registers import register_alloc, register_load, register_move, register_store
from g4c.lowering.nki.simulator.isa.selects import affine_select, iota, range_select, select_reduce
from g4c.lowering.nki.simulator.isa.tensor_engine import nc_matmul, nc_transpose
from g4c.lowering.nki.simulator.isa.top8 import max8, nc_find_index8, nc_match_replace8, topk
from g4c.lowering.nki.simulator.isa.unsupported import (
    dropout,
    nc_matmul_mx,
    quantize_mx,
    rand2,
    rand_get_state,
    rand_set_state,
    rng,
    set_rng_seed,
)
from g4c.lowering.nki.simulator.program import current
from g4c.lowering.nki.simulator.registers import VirtualRegister

engine, reduce_cmd, dge_mode, oob_mode = Engine, ReduceCommand, DgeMode, OobMode
matmul_perf_mode, nc_version, dma_engine = MatmulPerfMode, NcVersion, DmaEngine
# Deprecated names.
tensor_engine, vector_engine, scalar_engine = Engine.tensor, Engine.vector, Engine.scalar
gpsimd_engine, unknown_engine = Engine.gpsimd, Engine.unknown


def get_nc_version():
    """The NeuronCore generation that is simulated."""
    return NcVersion(current().generation.number)


def get_nc_sub_version():
    """The silicon revision; always the first."""
    return 0


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(f"nki.isa has no {name}")
    close = nearest(name, __all__)
    raise error(
        "G4C-K020",
        f"nki.isa has no {name}",
        f"did you mean nisa.{close}?" if close else "NKI 0.4 to 0.6 have no such name",
        kind=AbsentNameError,
    )


__all__ = [
    "NkiInstruction",
    "NkiValidationError",
    "VirtualRegister",
    "activate2",
    "activation",
    "activation_reduce",
    "affine_select",
    "bn_aggr",
    "bn_stats",
    "core_barrier",
    "dge_mode",
    "dma_compute",
    "dma_copy",
    "dma_engine",
    "dma_transpose",
    "dropout",
    "engine",
    "exponential",
    "get_nc_sub_version",
    "get_nc_version",
    "gpsimd_engine",
    "iota",
    "local_gather",
    "matmul_perf_mode",
    "max8",
    "memset",
    "nc_find_index8",
    "nc_match_replace8",
    "nc_matmul",
    "nc_matmul_mx",
    "nc_n_gather",
    "nc_stream_shuffle",
    "nc_transpose",
    "nc_version",
    "nonzero_with_count",
    "oob_mode",
    "quantize_mx",
    "rand2",
    "rand_get_state",
    "rand_set_state",
    "range_select",
    "reciprocal",
    "reduce_cmd",
    "register_alloc",
    "register_load",
    "register_move",
    "register_store",
    "rng",
    "scalar_engine",
    "scalar_tensor_tensor",
    "select_reduce",
    "sendrecv",
    "sequence_bounds",
    "set_rng_seed",
    "tensor_copy",
    "tensor_copy_predicated",
    "tensor_engine",
    "tensor_partition_reduce",
    "tensor_reduce",
    "tensor_scalar",
    "tensor_scalar_cumulative",
    "tensor_scalar_reduce",
    "tensor_tensor",
    "tensor_tensor_scan",
    "topk",
    "unknown_engine",
    "vector_engine",
]

for _name in __all__:
    if isfunction(globals()[_name]):
        globals()[_name] = instruction(globals()[_name])
