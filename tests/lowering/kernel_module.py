"""A small NKI module whose layers call one kernel that also updates a cache, and the kernel's artefact."""

from __future__ import annotations

from g4c.ir import ops
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Level, Loc, SymbolRef
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache
from g4c.lowering.nki.artifact import KernelArtifact

ROW = TensorType((1, 1, 1, 8), DType.F32)
CACHE = TensorType((1, 4, 1, 8), DType.F32)
POSITIONS = TensorType((1, 1), DType.S32)

# Slot 0 whatever the position: the tests are at positions 0 and 4.
SOURCE = '''"""y = -x, and x in slot 0 of the cache."""

import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def negate_update(x, cache, positions):
    y = nl.ndarray((1, 1, 1, 8), dtype=nl.float32, buffer=nl.shared_hbm)
    tile = nl.ndarray((1, 8), dtype=nl.float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x[0, 0, :, :])
    nisa.dma_copy(dst=cache[0, 0, :, :], src=tile)
    nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=-1.0)
    nisa.dma_copy(dst=y[0, 0, :, :], src=tile)
    return y, cache
'''
ARTIFACT = KernelArtifact(
    family="negate",
    name="negate_update",
    source=SOURCE,
    inputs=(("x", ROW), ("cache", CACHE), ("positions", POSITIONS)),
    outputs=(("y", ROW), ("cache", CACHE)),
    aliases=((1, 1),),
    schedule="one row",
)


def kernel_module(layers: int = 2) -> Module:
    """decode(x, positions, caches) -> y, caches: every layer negates and writes what it got to its cache."""
    module = Module("m", level=Level.NKI)
    kernel = module.add_function(Function("negate", "kernel"))
    x, cache, positions = (kernel.add_param(name, type) for name, type in ARTIFACT.inputs)
    y = kernel.append(ops.NegOp(x)).result
    kernel.results = [Result(y, "y"), Result(kernel.append(ops.KvUpdateOp(cache, x, positions)).result, "cache")]

    layer = module.add_function(Function("decode.layer", "layer"))
    x, positions, cache = (
        layer.add_param(name, type) for name, type in (("x", ROW), ("positions", POSITIONS), ("cache", CACHE))
    )
    loc = Loc("model.layers.*.self_attn", "modeling.py", 7)
    call = layer.append(ops.CallOp((x, cache, positions), SymbolRef("negate"), (ROW, CACHE), loc=loc))
    layer.results = [Result(call.results[0], "y"), Result(call.results[1], "cache")]

    decode = module.add_function(Function("decode", "program"))
    value, positions = decode.add_param("x", ROW), decode.add_param("positions", POSITIONS)
    for index in range(layers):
        name = module.add_cache(Cache(f"k{index}", CACHE)).name
        state = decode.add_param(name, CACHE, name)
        loc = Loc(f"model.layers.{index}")
        call = decode.append(ops.CallOp((value, positions, state), SymbolRef("decode.layer"), (ROW, CACHE), loc=loc))
        value, updated = call.results
        decode.results.append(Result(updated, name, name))
    decode.results.insert(0, Result(value, "y"))
    return module
