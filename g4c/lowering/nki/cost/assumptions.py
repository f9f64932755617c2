"""Every figure that the cost model uses, with where it comes from.

In: nothing. Out: a `Machine` per NeuronCore generation, and the constants that all of them share.
Sources: "documented" is AWS's Neuron documentation (SDK 2.32 architecture and NKI guides, instruction costs of 2.26.1);
"derived" is computed from documented figures; "assumption" is ours, to be calibrated on a device.
Invariant: no other file of the cost model has a figure of the hardware in it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

# Engine cycles that every instruction takes at least (documented: MIN_II), and what GpSimd adds to each (documented).
MINIMUM_CYCLES = 64
GPSIMD_OVERHEAD_CYCLES = 150
# An instruction with an address known at run time takes at least this long (documented).
DYNAMIC_ADDRESS_CYCLES = 600
# Reading an accumulator out, and the second stage of reductions with a result (documented).
READ_OUT_CYCLES = 64
# fp32 matmuls take four passes; PE transposes of fp32 two from v3 on, which has a transpose mode (documented).
FP32_PASSES = 4
FP32_TRANSPOSE_PASSES = {2: 4, 3: 2, 4: 2}
# Access patterns whose innermost step is larger than this many bytes run at half speed (documented).
SLOW_STEP_BYTES = 16
# Reciprocal on the Vector Engine, cycles per element; bn_aggr likewise (documented).
RECIPROCAL_CYCLES = 8
BN_AGGR_CYCLES = 13 / 3

# Cycles from the end of an instruction's occupation of its engine until another instruction can use the result.
# Vector and Scalar: documented for chains on one engine (about 100; 264 in total for one element, less the 64 of the
# instruction itself). Between engines the semaphore takes the place of the chain: the same figure is an assumption.
# PE: an assumption, the depth of the array; sums in PSUM follow each other without it. GpSimd: assumption.
RESULT_LATENCY_CYCLES = {"pe": 128, "vector": 100, "scalar": 200, "gpsimd": 100}

# DMA. Fixed time from the semaphore to the first byte (documented).
DMA_START_NS = 1300.0
# Engines per core; partitions that each serves (documented).
DMA_ENGINES = 16
PARTITIONS_PER_DMA_ENGINE = 8
# How long a trigger keeps its stream: descriptors made beforehand (assumption: a shortest instruction at 1.2 GHz), by
# the hardware generator (documented: about 600 ns, two per core), by GpSimd (assumption, per 128 rows).
ISSUE_STATIC_NS = 53.0
ISSUE_HARDWARE_NS = 300.0
ISSUE_SOFTWARE_NS = 1000.0
# Share of the bandwidth by contiguous bytes per row (assumption: it interpolates a documented qualitative curve).
DMA_EFFICIENCY = ((256, 0.2), (512, 0.35), (1024, 0.6), (2048, 0.9), (4096, 1.0))
# Share of a copy's throughput that a DMA transpose reaches, (from HBM, from SBUF): documented for the best shapes of
# v3, taken for v4; "much lower" on v2: assumption.
DMA_TRANSPOSE = {2: (0.1, 0.1), 3: (0.9, 0.5), 4: (0.9, 0.5)}
# The two cores of an LNC pair waiting for each other (not documented: assumption).
CORE_BARRIER_NS = 1000.0


@dataclass(frozen=True)
class Machine:
    """One core of a generation. Clocks in GHz, bandwidths in bytes per nanosecond (GB/s).

    `hbm_bandwidth`: what one core streams between HBM and SBUF, the lower of its share of HBM and of its DMA engines
    (derived); both cores of an LNC pair have that much each, which is the pair's share of HBM. `dma_bandwidth`: within
    SBUF (documented). `fast_vector`: 16-bit modes of the Vector Engine. `shared_ports`: Vector and GpSimd exclude each
    other on SBUF, Vector and Scalar on PSUM. `wide_scalar`: the Scalar Engine copies 16-bit data at twice the rate.
    """

    number: int
    pe: float
    vector: float
    scalar: float
    gpsimd: float
    hbm_bandwidth: float
    dma_bandwidth: float
    fast_vector: bool
    shared_ports: bool
    wide_scalar: bool

    @property
    def peak_flops(self) -> float:
        """Of one core in bf16, per nanosecond: 128 x 128 multiply-adds per cycle."""
        return 2 * 128 * 128 * self.pe

    def clock(self, engine: str) -> float:
        """GHz of pe, vector, scalar or gpsimd."""
        return float(getattr(self, engine))


MACHINES = {
    2: Machine(2, 2.8, 1.12, 1.4, 1.4, 272.0, 272.0, fast_vector=False, shared_ports=True, wide_scalar=False),
    3: Machine(3, 2.4, 0.96, 1.2, 1.2, 362.0, 368.0, fast_vector=True, shared_ports=False, wide_scalar=False),
    4: Machine(4, 2.4, 1.2, 1.2, 1.2, 528.0, 528.0, fast_vector=True, shared_ports=False, wide_scalar=True),
}


def dma_efficiency(row_bytes: int) -> float:
    """The share of the DMA bandwidth that rows of `row_bytes` contiguous bytes reach."""
    at = bisect_right(DMA_EFFICIENCY, (row_bytes, 1.0))
    return DMA_EFFICIENCY[at - 1][1] if at else row_bytes / 1280
