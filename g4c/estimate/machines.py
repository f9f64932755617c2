"""The machines that estimates are made for: chips, and the instances that have them.

In: a name. Out: an `Instance`, and what `tp` of its logical cores have together. Figures are those that AWS documents
(aws-neuron/aws-neuron-sdk v2.32.0, about-neuron/arch/neuron-hardware); each row names its source. Invariant: a logical
core's figures are its even share of the chip's.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.errors.suggest import unknown_value
from g4c.ir.types import DType

GIB = 1 << 30
MICROCODE_BYTES = 96_000_000  # per physical core (neuron-runtime/explore: device memory)


@dataclass(frozen=True)
class Chip:
    """One chip. TFLOPS are dense matmul peaks, bandwidths bytes per second, `hbm` bytes.

    `dma`: what the chip's DMA engines move per second, where the NKI bandwidth guide's per-engine figure gives less
    than the HBM bandwidth; None: no limit below the HBM's.
    """

    name: str
    target: str
    physical_cores: int
    logical_cores: int
    tflops: dict[DType, float]
    hbm: int
    bandwidth: float
    source: str
    dma: float | None = None

    @property
    def cores_per_logical(self) -> int:
        """Physical cores per logical core: the LNC."""
        return self.physical_cores // self.logical_cores


@dataclass(frozen=True)
class Instance:
    """`chips` chips of one kind under one name."""

    name: str
    chip: Chip
    chips: int
    source: str

    @property
    def logical_cores(self) -> int:
        return self.chips * self.chip.logical_cores


@dataclass(frozen=True)
class Cores:
    """`count` logical cores of an instance; the figures are of one of them: FLOP/s, bytes/s, bytes."""

    instance: Instance
    count: int
    flops: float
    bandwidth: float
    memory: int
    dma: float | None
    microcode: int


# neuron-hardware/neuron-core-v2.rst and inferentia2.rst, trainium.rst: 190 TFLOPS bf16, 47.5 f32; 32 GiB, 820 GiB/s.
# DMA: 32 engines at 17 GB/s (nki/deep-dives/nki-dma-bandwidth-guide.rst).
_V2 = {DType.BF16: 190.0, DType.F32: 47.5}
_INFERENTIA2 = Chip("Inferentia2", "inf2", 2, 2, _V2, 32 * GIB, 820.0 * GIB, "inferentia2.rst", dma=544e9)
_TRAINIUM1 = Chip("Trainium1", "trn1", 2, 2, _V2, 32 * GIB, 820.0 * GIB, "trainium.rst", dma=544e9)
# trainium2.rst: 667 TFLOPS bf16, 181 f32; 96 GiB, 2.9 TB/s. 4 logical cores: LNC2, the default.
_TRAINIUM2 = Chip("Trainium2", "trn2", 8, 4, {DType.BF16: 667.0, DType.F32: 181.0}, 96 * GIB, 2.9e12, "trainium2.rst")
# trainium3.rst: 671 TFLOPS bf16, 183 f32; 144 GiB, 4.9 TB/s. DMA: 128 engines at 33 GB/s, as above.
_TRAINIUM3 = Chip(
    "Trainium3", "trn3", 8, 4, {DType.BF16: 671.0, DType.F32: 183.0}, 144 * GIB, 4.9e12, "trainium3.rst", dma=4.224e12
)
CHIPS: dict[str, Chip] = {chip.target: chip for chip in (_INFERENTIA2, _TRAINIUM1, _TRAINIUM2, _TRAINIUM3)}

_INF2, _TRN1, _TRN2 = "inf2-arch.rst", "trn1-arch.rst", "trn2-arch.rst"
_TRN3 = "trn3-arch.rst"
INSTANCES: dict[str, Instance] = {
    instance.name: instance
    for instance in (
        Instance("inf2.xlarge", _INFERENTIA2, 1, _INF2),
        Instance("inf2.8xlarge", _INFERENTIA2, 1, _INF2),
        Instance("inf2.24xlarge", _INFERENTIA2, 6, _INF2),
        Instance("inf2.48xlarge", _INFERENTIA2, 12, _INF2),
        Instance("trn1.2xlarge", _TRAINIUM1, 1, _TRN1),
        Instance("trn1.32xlarge", _TRAINIUM1, 16, _TRN1),
        Instance("trn1n.32xlarge", _TRAINIUM1, 16, _TRN1),
        Instance("trn2.3xlarge", _TRAINIUM2, 1, "user reports; not in AWS's architecture pages"),
        Instance("trn2.48xlarge", _TRAINIUM2, 16, _TRN2),
        Instance("trn2u.48xlarge", _TRAINIUM2, 16, _TRN2),
        Instance("trn2-ultraserver", _TRAINIUM2, 64, _TRN2),
        Instance("trn3-gen1-ultraserver", _TRAINIUM3, 64, _TRN3),
        Instance("trn3-gen2-ultraserver", _TRAINIUM3, 144, _TRN3),
    )
}


def find_instance(name: str) -> Instance:
    """The instance called `name`; G4C-C002 where there is none."""
    if name not in INSTANCES:
        raise unknown_value("instance", name, INSTANCES)
    return INSTANCES[name]


def take_cores(instance: Instance, count: int, dtype: DType, query_heads: int) -> Cores:
    """`count` logical cores of `instance`; G4C-C020 where it has fewer or `query_heads` do not divide over them."""
    if count < 1:
        raise G4cError("G4C-C020", f"--tp must be at least 1, got {count}")
    if count > instance.logical_cores:
        cores = f"{instance.logical_cores} logical core{'s' if instance.logical_cores > 1 else ''}"
        raise G4cError("G4C-C020", f"--tp {count}: {instance.name} has {cores}")
    if query_heads % count:
        dividing = ", ".join(str(n) for n in range(1, query_heads + 1) if query_heads % n == 0)
        message = f"--tp {count} does not divide the model's {query_heads} query heads"
        raise G4cError("G4C-C020", message, help=f"degrees that do: {dividing}")
    chip = instance.chip
    return Cores(
        instance,
        count,
        flops=chip.tflops[dtype] * 1e12 / chip.logical_cores,
        bandwidth=chip.bandwidth / chip.logical_cores,
        memory=chip.hbm // chip.logical_cores,
        dma=None if chip.dma is None else chip.dma / chip.logical_cores,
        microcode=MICROCODE_BYTES * chip.cores_per_logical,
    )
