"""What one instruction costs: the instruction table of the hardware reference as functions.

In: a simulator `Step`: name, engine, operands. Out: its `Cost`.
Invariant: a cost depends on shapes, layouts, types and memories of the operands, never on values, so that equal
instructions share one `Cost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from g4c.lowering.nki.cost import assumptions as a
from g4c.lowering.nki.cost.assumptions import Machine
from g4c.lowering.nki.cost.regions import inner_step_bytes, is_contiguous, row_bytes
from g4c.lowering.nki.simulator.enums import DgeMode, Engine
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.tensor import NkiTensor

ENGINES = {Engine.tensor: "pe", Engine.vector: "vector", Engine.scalar: "scalar", Engine.gpsimd: "gpsimd"}
# What else than its tensors decides an instruction's cost, by parameter.
DECISIVE = frozenset({"op", "op0", "op1", "value", "is_transpose", "dge_mode", "issued_by"})
_SIXTEEN_BITS = 2


@dataclass(frozen=True)
class Cost:
    """One instruction.

    `engine`: pe, vector, scalar, gpsimd or dma; `ns`: how long it occupies its engine, or for DMA the DMA engines
    `first` to `last` - 1; `cycles` of the engine (0 for DMA). `work`: the array cycles that a matmul's multiply-adds
    need at full use, 0 for transposes. `issue_ns`: how long a DMA's trigger occupies `stream`. `gpsimd_ns`: the
    descriptors that GpSimd makes for it. `sbuf`, `psum`: it touches them.
    """

    name: str
    engine: str
    ns: float
    cycles: float = 0.0
    work: float = 0.0
    flops: int = 0
    moved: int = 0
    hbm_read: int = 0
    hbm_written: int = 0
    row_bytes: int = 0
    first: int = 0
    last: int = 0
    stream: str = ""
    issue_ns: float = 0.0
    gpsimd_ns: float = 0.0
    sbuf: bool = False
    psum: bool = False
    meets: bool = False


def cost_of(step: Any, machine: Machine) -> Cost:
    """The cost of an instruction on a core of `machine`."""
    if step.name == "core_barrier":
        return Cost(step.name, "gpsimd", a.CORE_BARRIER_NS, a.CORE_BARRIER_NS * machine.gpsimd, meets=True)
    if step.engine is Engine.dma:
        return _dma(step, machine)
    engine = ENGINES[step.engine]
    tensors = [operand for operand in step.operands.values() if isinstance(operand, NkiTensor)]
    places = {tensor.buffer for tensor in tensors}
    cycles, work, flops = 0.0, 0.0, 0
    if engine == "pe":
        cycles, work, flops = _tensor_engine(step, machine)
    else:
        per_element = max(1.0, _RULES.get(step.name, _plain)(step, machine))
        if any(inner_step_bytes(tensor) > a.SLOW_STEP_BYTES for tensor in tensors):
            per_element *= 2
        cycles = _EXTRA.get(step.name, _none)(step) + max(a.MINIMUM_CYCLES, per_element)
        if engine == "gpsimd":
            cycles += a.GPSIMD_OVERHEAD_CYCLES
    if any(tensor.dynamic is not None for tensor in tensors):
        cycles = max(cycles, a.DYNAMIC_ADDRESS_CYCLES)
    return Cost(
        step.name,
        engine,
        cycles / machine.clock(engine),
        cycles,
        work,
        flops,
        sbuf=MemoryRegion.sbuf in places,
        psum=MemoryRegion.psum in places,
    )


# Tensor Engine


def _tensor_engine(step: Any, machine: Machine) -> tuple[float, float, int]:
    """(cycles, array cycles of useful work, useful FLOP)."""
    if step.name == "nc_transpose" or step.operands.get("is_transpose"):
        data = step.operands["data" if step.name == "nc_transpose" else "stationary"]
        rows, columns = data.shape[0], free_size(data)
        passes = a.FP32_TRANSPOSE_PASSES[machine.number] if data.itemsize == 4 else 1
        return passes * max(rows, min(a.MINIMUM_CYCLES, columns)), 0.0, 0
    stationary, moving = step.operands["stationary"], step.operands["moving"]
    dst = step.operands["dst"]
    columns = dst.shape[0]
    count = free_size(dst)
    rows = stationary.size // columns  # twice the partitions with double_row
    passes = a.FP32_PASSES if moving.dtype == "float32" else 1
    work = rows * columns * count / 128 / 128 * passes * (0.5 if rows > stationary.shape[0] else 1)
    return passes * max(min(a.MINIMUM_CYCLES, columns), count), work, 2 * rows * columns * count


# Vector, Scalar and GpSimd Engine: cycles by N elements per partition


def free_size(tensor: NkiTensor) -> int:
    """Elements per partition."""
    return tensor.size // tensor.shape[0]


def _largest(step: Any) -> int:
    return max(free_size(operand) for operand in step.operands.values() if isinstance(operand, NkiTensor))


def _plain(step: Any, machine: Machine) -> float:
    return _largest(step)


def _sixteen_bits(tensors: list[NkiTensor]) -> bool:
    return all(tensor.itemsize <= _SIXTEEN_BITS for tensor in tensors)


def _in_sbuf(tensors: list[NkiTensor]) -> bool:
    return all(tensor.buffer is MemoryRegion.sbuf for tensor in tensors)


def _copy(step: Any, machine: Machine) -> float:
    """tensor_copy, tensor_scalar: a quarter, or half where one of the conditions of the fast mode fails."""
    n = _largest(step)
    tensors = [step.operands["dst"], step.operands["src" if "src" in step.operands else "data"]]
    if step.engine is Engine.scalar:
        return n / 2 if machine.wide_scalar and _sixteen_bits(tensors) else n
    if step.engine is not Engine.vector or not machine.fast_vector or not _sixteen_bits(tensors):
        return n
    met = _in_sbuf(tensors) + all(is_contiguous(tensor) for tensor in tensors)
    return n / (1, 2, 4)[met]


def _tensor_tensor(step: Any, machine: Machine) -> float:
    n = _largest(step)
    dst, inputs = step.operands["dst"], [step.operands["data1"], step.operands["data2"]]
    if step.engine is Engine.gpsimd:
        return 2 * n
    everything = [dst, *inputs]
    simple = getattr(step.operands["op"], "nki_name", "") in ("add", "subtract", "multiply")
    packed = all(t.dtype == "bfloat16" and is_contiguous(t) for t in everything) and _in_sbuf(everything)
    one_in_psum = sum(tensor.buffer is MemoryRegion.psum for tensor in inputs) == 1
    cycles = n if one_in_psum or (packed and simple) else 2 * n
    fast = machine.fast_vector and _sixteen_bits(everything) and _in_sbuf(everything)
    return cycles / 2 if fast else cycles


def _scalar_tensor_tensor(step: Any, machine: Machine) -> float:
    n = _largest(step)
    tensors = [step.operands[name] for name in ("dst", "data", "operand1")]
    names = tuple(getattr(step.operands[name], "nki_name", "") for name in ("op0", "op1"))
    fast = names == ("subtract", "multiply") and all(t.dtype == "bfloat16" for t in tensors) and n % 2 == 0
    return n if fast else 2 * n


def _tensor_reduce(step: Any, machine: Machine) -> float:
    n = _largest(step)
    tensors = [step.operands["dst"], step.operands["data"]]
    fast = getattr(step.operands["op"], "nki_name", "") in ("add", "maximum")
    return n / 2 if fast and all(tensor.dtype == "bfloat16" for tensor in tensors) else n


def _predicated(step: Any, machine: Machine) -> float:
    sources = [step.operands[name] for name in ("src", "predicate", "on_true") if name in step.operands]
    in_psum = any(isinstance(t, NkiTensor) and t.buffer is MemoryRegion.psum for t in sources)
    return _largest(step) * (1 if in_psum else 2)


def _memset(step: Any, machine: Machine) -> float:
    dst = step.operands["dst"]
    fast = step.engine is Engine.vector and step.operands["value"] == 0 and dst.itemsize == _SIXTEEN_BITS
    return free_size(dst) / (2 if fast else 1)


def _local_gather(step: Any, machine: Machine) -> float:
    source, index = step.operands["src_buffer"], step.operands["index"]
    indices = 16 * free_size(index)
    each = max(1, free_size(step.operands["dst"]) // max(1, indices))
    rate = ((28 + 4 * each) / (4 * each)) / min(4 / source.itemsize, each)
    return indices * each / rate


def _n_gather(step: Any, machine: Machine) -> float:
    n = _largest(step)
    return a.GPSIMD_OVERHEAD_CYCLES * (math.ceil(n / 512) - 1) + n


def _top_k(step: Any, machine: Machine) -> float:
    return 4 * 16 * free_size(step.operands["src"]) + free_size(step.operands["val_dst"])


_RULES: dict[str, Callable[[Any, Machine], float]] = {
    "tensor_copy": _copy,
    "tensor_scalar": _copy,
    "tensor_tensor": _tensor_tensor,
    "scalar_tensor_tensor": _scalar_tensor_tensor,
    "tensor_reduce": _tensor_reduce,
    "tensor_copy_predicated": _predicated,
    "select_reduce": _predicated,
    "memset": _memset,
    "reciprocal": lambda step, machine: a.RECIPROCAL_CYCLES * _largest(step),
    "bn_aggr": lambda step, machine: a.BN_AGGR_CYCLES * _largest(step),
    "tensor_tensor_scan": lambda step, machine: 2 * _largest(step),
    "exponential": lambda step, machine: _largest(step) / 4,
    "local_gather": _local_gather,
    "nc_n_gather": _n_gather,
    "topk": _top_k,
}


def _none(step: Any) -> int:
    return 0


def _read_out(step: Any) -> int:
    return a.READ_OUT_CYCLES if step.operands.get("reduce_res") is not None else 0


_EXTRA: dict[str, Callable[[Any], int]] = {
    "activation": _read_out,
    "activation_reduce": _read_out,
    "activate2": _read_out,
    "tensor_scalar_reduce": lambda step: a.READ_OUT_CYCLES,
}


# DMA


def _dma(step: Any, machine: Machine) -> Cost:
    """A transfer: bytes over the engines that serve its partitions, slower for short rows."""
    dst = step.operands["dst"]
    sources = [operand for name, operand in step.operands.items() if name.startswith("src")]
    moved = max(tensor.size * tensor.itemsize for tensor in (*sources, dst))
    in_hbm = [tensor for tensor in (*sources, dst) if not tensor.on_chip]
    bandwidth = machine.hbm_bandwidth if in_hbm else machine.dma_bandwidth
    if step.name == "dma_transpose":
        efficiency = a.DMA_TRANSPOSE[machine.number][0 if in_hbm else 1]
        run = row_bytes(sources[0])
    else:
        run = min(row_bytes(tensor) for tensor in (*sources, dst))
        efficiency = a.dma_efficiency(run)
    first, last = _engines_of([tensor for tensor in (*sources, dst) if tensor.on_chip])
    share = bandwidth * (last - first) / a.DMA_ENGINES
    indirect = any(tensor.dynamic is not None and tensor.dynamic.vector for tensor in (*sources, dst))
    stream, issue = _stream(step, dst, sources, indirect)
    rows = -(-max(dst.shape[0], sources[0].shape[0]) // 128)
    return Cost(
        step.name,
        "dma",
        moved / (share * efficiency),
        moved=moved,
        hbm_read=sum(tensor.size * tensor.itemsize for tensor in sources if not tensor.on_chip),
        hbm_written=0 if dst.on_chip else dst.size * dst.itemsize,
        row_bytes=run,
        first=first,
        last=last,
        stream=stream,
        issue_ns=issue,
        gpsimd_ns=rows * a.ISSUE_SOFTWARE_NS if indirect else 0.0,
        meets=step.name == "sendrecv",
    )


def _engines_of(tiles: list[NkiTensor]) -> tuple[int, int]:
    """The DMA engines that serve the partitions of the narrowest tile; all of them between tensors in HBM."""
    spans = []
    for tile in tiles:
        low = tile.start_partition // a.PARTITIONS_PER_DMA_ENGINE
        high = -(-(tile.start_partition + tile.shape[0]) // a.PARTITIONS_PER_DMA_ENGINE)
        spans.append((high - low, low, high))
    return min(spans)[1:] if spans else (0, a.DMA_ENGINES)


def _stream(step: Any, dst: NkiTensor, sources: list[NkiTensor], indirect: bool) -> tuple[str, float]:
    """The in-order stream that issues a transfer, and how long its trigger takes."""
    issuer = step.operands.get("issued_by")
    if isinstance(issuer, Engine) and issuer not in (Engine.unknown, Engine.dma):
        stream = f"issued by {issuer.name}"
    elif not dst.on_chip:
        stream = "stores"
    else:
        stream = "loads" if any(not tensor.on_chip for tensor in sources) else "moves"
    mode = step.operands.get("dge_mode")
    if mode is DgeMode.hwdge:
        return stream, a.ISSUE_HARDWARE_NS
    return stream, a.ISSUE_STATIC_NS
