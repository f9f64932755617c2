"""`nl.tile_size`: the hardware's tile limits, for the generation that is simulated."""

from __future__ import annotations

import os

from g4c.lowering.nki.simulator.generation import PARTITIONS, PSUM_BANK_BYTES, PSUM_BANKS
from g4c.lowering.nki.simulator.objects import NKIObject
from g4c.lowering.nki.simulator.program import current


class TileSize(NKIObject):
    """Constants of the hardware; sizes in fp32 elements where the name does not say bytes."""

    pmax = PARTITIONS
    psum_fmax = PSUM_BANK_BYTES // 4
    psum_bank_fmax = PSUM_BANK_BYTES // 4
    psum_bank_fmax_bytes = PSUM_BANK_BYTES
    gemm_stationary_fmax = 128
    gemm_moving_fmax = 512
    bn_stats_fmax = 512
    psum_min_align = 4
    sbuf_min_align = 1

    def __init__(self) -> None:
        pass

    @property
    def psum_num_banks(self) -> int:
        """Banks a kernel may use: one less where DMA transposes are lowered to the Tensor Engine."""
        taken = os.environ.get("NKI_DMA_TRANSPOSE_AS_PE_TRANSPOSE", "").lower() == "true"
        return PSUM_BANKS - (1 if taken and current().generation.number >= 3 else 0)

    @property
    def sbuf_size_bytes(self) -> int:
        """SBUF of all partitions."""
        return PARTITIONS * current().generation.sbuf_bytes

    @property
    def sbuf_fmax_bytes(self) -> int:
        """Usable bytes per partition."""
        return current().generation.sbuf_usable

    @property
    def sbuf_fmax(self) -> int:
        """Usable fp32 elements per partition."""
        return self.sbuf_fmax_bytes // 4

    @property
    def total_available_sbuf_size(self) -> int:
        """Deprecated name of `sbuf_fmax_bytes`."""
        return self.sbuf_fmax_bytes


tile_size = TileSize()
