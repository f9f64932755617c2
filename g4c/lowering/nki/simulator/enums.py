"""The enums of `nki.isa`, and the handle that instructions return."""

from __future__ import annotations

from enum import Enum

from g4c.lowering.nki.simulator.objects import NKIObject


def member(kind: type[Enum], value: object) -> Enum | None:
    """`value` as a member of `kind`; the values of members are taken too, as AWS's kernels pass some."""
    if isinstance(value, kind):
        return value
    try:
        return kind(value) if type(value) in (int, str) else None
    except ValueError:
        return None


class Engine(Enum):
    """Engines of a NeuronCore; `unknown` lets the compiler choose."""

    unknown = 0
    tensor = 1
    scalar = 2
    gpsimd = 3
    dma = 4
    vector = 5
    sync = 6


class ReduceCommand(Enum):
    """What an instruction does with its engine's accumulator registers."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class DgeMode(Enum):
    """Who generates the descriptors of a DMA."""

    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class OobMode(Enum):
    """What a DMA does with run-time addresses that are out of bounds."""

    error = 0
    skip = 1


class MatmulPerfMode(Enum):
    """fp8 double row: two contraction rows per partition."""

    none = "none"
    double_row = "double_row"


class NcVersion(Enum):
    """NeuronCore generation; compares as a number."""

    gen2 = 2
    gen3 = 3
    gen4 = 4

    def __lt__(self, other: NcVersion) -> bool:
        return self.value < other.value

    def __le__(self, other: NcVersion) -> bool:
        return self.value <= other.value

    def __gt__(self, other: NcVersion) -> bool:
        return self.value > other.value

    def __ge__(self, other: NcVersion) -> bool:
        return self.value >= other.value


class DmaEngine(Enum):
    """Who moves the data of a sendrecv."""

    dma = 1
    gpsimd_dma = 2


class NkiInstruction(NKIObject):
    """Handle of an executed instruction: its number in the program and its name."""

    def __init__(self, handle: int, name: str | None = None) -> None:
        self.handle = handle
        self.name = name
        self.producers: tuple[NkiInstruction, ...] = ()

    def depends_on(self, *producers: NkiInstruction) -> NkiInstruction:
        """This instruction runs after `producers`: true of a simulator that runs in program order."""
        self.producers += producers
        return self
