"""One instruction in flight: operand checks that all instructions share, reads, the rounded write, the record.

In: an instruction's name, its engine, its operands by parameter name.
Out: numpy values of the operands; the destination written; a handle.
Invariant: what an instruction reads and writes goes through its `Step`, so that checks and cost model see all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import access, dtypes, indirection
from g4c.lowering.nki.simulator.diagnostics import error, kernel_site
from g4c.lowering.nki.simulator.enums import Engine, NkiInstruction, member
from g4c.lowering.nki.simulator.memory import WRITTEN, Leftovers, MemoryRegion
from g4c.lowering.nki.simulator.program import current
from g4c.lowering.nki.simulator.tensor import NkiTensor
from g4c.lowering.nki.simulator.views import merged

VECTOR, SCALAR, GPSIMD, TENSOR, DMA = Engine.vector, Engine.scalar, Engine.gpsimd, Engine.tensor, Engine.dma
_EXACT_INTEGER = 2**24
_FREE_DIMENSIONS = 4
_STARTS = {True: (0, 32, 64, 96), False: (0, 64)}


class Step:
    """An instruction that is executing."""

    __slots__ = (
        "details",
        "engine",
        "label",
        "name",
        "number",
        "operands",
        "program",
        "reads",
        "source",
        "undefined",
        "writes",
    )

    def __init__(self, name: str, label: str | None, engine: Engine, **operands: Any) -> None:
        self.name = name
        self.label = label
        self.engine = engine
        self.program = current()
        if self.program.dry:
            self.program.step = self
        self.number = self.program.count_instruction(name)
        self.operands = operands
        self.reads: list[NkiTensor] = []
        self.writes: list[NkiTensor] = []
        self.undefined: list[np.ndarray] = []  # masks of the operands that are not defined in full
        self.source: Leftovers | None = None
        self.details: dict[str, Any] = {}

    # Refusals

    def refuse(self, code: str, message: str, rule: str | None = None) -> None:
        """Refuse with the instruction's name in front; see `Program.refuse`."""
        self.program.refuse(code, f"nisa.{self.name}: {message}", rule)

    def tensor(self, parameter: str) -> NkiTensor:
        """The operand, which must be a tensor."""
        operand = self.operands[parameter]
        if not isinstance(operand, NkiTensor):
            raise error("G4C-K002", f"nisa.{self.name}: {parameter} is {type(operand).__name__}", "a tensor is needed")
        return operand

    def requires_generation(self, since: int, what: str) -> None:
        """Refuse `what` on generations before `since`."""
        if self.program.generation.number < since:
            self.refuse(
                "G4C-K019", f"{what} on {self.program.generation.name}", f"available from NeuronCore-v{since} on"
            )

    def run_on(self, asked: Any, allowed: Iterable[Engine], default: Engine) -> None:
        """Choose the engine: `asked`, or `default` where the compiler is left to choose."""
        given, asked = asked, member(Engine, asked)
        if asked is None:
            raise error("G4C-K002", f"nisa.{self.name}: engine={given!r}", "a member of nisa.engine")
        if asked is not Engine.unknown and asked not in allowed:
            names = ", ".join(engine.name for engine in allowed)
            self.refuse("G4C-K018", f"engine {asked.name}", f"it runs on {names} on {self.program.generation.name}")
        self.engine = default if asked is Engine.unknown else asked

    # Operands of compute engines

    def tiles(self, *parameters: str) -> None:
        """Check operands of a compute engine: on chip, reachable, at a legal partition."""
        for parameter in parameters:
            tensor = self.tensor(parameter)
            if not tensor.on_chip:
                self.refuse(
                    "G4C-K008",
                    f"{parameter} is {tensor!r}",
                    "HBM is reached by DMA only; compute engines use SBUF and PSUM",
                )
            if self.engine is GPSIMD and tensor.buffer is MemoryRegion.psum:
                self.refuse("G4C-K008", f"{parameter} is {tensor!r}", "the GpSimd Engine cannot access PSUM")
            self.check_partitions(parameter, tensor)
            if (
                tensor.ndim > 1 + _FREE_DIMENSIONS
                and len(merged(tensor.shape[1:], tensor.strides[1:])) > _FREE_DIMENSIONS
            ):
                self.refuse(
                    "G4C-K023",
                    f"{parameter} is {tensor!r}",
                    f"an engine walks at most {_FREE_DIMENSIONS} free dimensions that are not contiguous",
                )
            if tensor.indirection is not None:
                indirection.check(self, parameter, tensor)

    def check_partitions(self, parameter: str, tensor: NkiTensor) -> None:
        """Partitions follow each other, and start where the rule says."""
        count, start = tensor.shape[0], tensor.start_partition
        if count > 1 and tensor.strides[0] * tensor.itemsize != tensor.storage.row_bytes:
            if tensor.unchecked:
                tensor.check_bounds()
            self.refuse(
                "G4C-K006",
                f"{parameter} steps over partitions by {tensor.strides[0] // tensor.row_elements} ({tensor!r})",
                "the partitions of an operand are contiguous; a DMA or a matmul moves rows to others",
            )
        if start == 0 and count <= 128:
            return
        starts = (0,) if count > 64 else _STARTS[count <= 32]
        if start not in starts or start + count > 128:
            self.refuse(
                "G4C-K006",
                f"{parameter} uses {count} partitions from partition {start} ({tensor!r})",
                "65 to 128 partitions start at 0; 33 to 64 at 0 or 64; up to 32 at 0, 32, 64 or 96",
            )

    def same_layout(self, *parameters: str) -> None:
        """Equal partitions and equal elements per partition."""
        first = self.tensor(parameters[0])
        for parameter in parameters[1:]:
            other = self.tensor(parameter)
            if first.shape == other.shape:
                continue
            if first.shape[0] != other.shape[0] or first.size != other.size:
                self.refuse(
                    "G4C-K017",
                    f"{parameters[0]} is {list(first.shape)}, {parameter} is {list(other.shape)}",
                    "the same number of partitions and of elements per partition",
                )

    def not_both_in_psum(self, first: str, second: str) -> None:
        """The rule for two tensor inputs."""
        operands = [self.operands[first], self.operands[second]]
        if all(isinstance(o, NkiTensor) and o.buffer is MemoryRegion.psum for o in operands):
            self.refuse("G4C-K009", f"{first} and {second} are both in PSUM", "copy one of them to SBUF first")

    def check_dtype(self, parameter: str, allowed: Iterable[str]) -> None:
        """The operand's type is one of `allowed`."""
        tensor = self.tensor(parameter)
        if tensor.dtype not in allowed:
            self.refuse("G4C-K010", f"{parameter} is {tensor.dtype}", f"allowed: {', '.join(sorted(allowed))}")

    def column(self, parameter: str, partitions: int, dtypes_allowed: Iterable[str] | None = None) -> np.ndarray:
        """A scalar operand as fp32 [P, 1] or [1, 1]: a number, or a tile of one element per partition."""
        operand = self.operands[parameter]
        if not isinstance(operand, NkiTensor):
            if isinstance(operand, bool) or not isinstance(operand, int | float | np.integer | np.floating):
                raise error(
                    "G4C-K002",
                    f"nisa.{self.name}: {parameter}={operand!r}",
                    "a number, or a tile of one element per partition",
                )
            return np.full((1, 1), operand, np.float32)
        self.check_column(parameter, partitions)
        if dtypes_allowed is not None:
            self.check_dtype(parameter, dtypes_allowed)
        return self.read32(operand)

    def check_column(self, parameter: str, partitions: int) -> None:
        """A tile of one element for each of `partitions`."""
        self.tiles(parameter)
        tensor = self.tensor(parameter)
        if tensor.shape[0] != partitions or tensor.size != partitions:
            self.refuse(
                "G4C-K017", f"{parameter} is {list(tensor.shape)}", f"one element for each of {partitions} partitions"
            )

    # Values

    def read(self, tensor: NkiTensor) -> np.ndarray:
        """The elements as [partitions, elements per partition], in storage type.

        What is undefined makes the corresponding elements of the results undefined.
        """
        values, defined = self.take(tensor)
        if defined is not None:
            self.undefined.append(defined)
        return values

    def take(self, tensor: NkiTensor) -> access.Taken:
        """`read` for instructions that say themselves what becomes of undefined elements (None: all are defined)."""
        self.reads.append(tensor)
        values, defined = access.take(self.program, indirection.resolve(self, tensor))
        rows = tensor.shape[0]
        if defined is not None:
            defined = defined.reshape(rows, -1)
            if self.source is None:
                found = access.leftovers(tensor, defined.reshape(tensor.shape))
                self.source = found if found.site is not None else replace(found, site=kernel_site())
        return values if values.ndim == 2 else values.reshape(rows, -1), defined

    def read32(self, tensor: NkiTensor) -> np.ndarray:
        """`read` as fp32."""
        values, defined = self.take32(tensor)
        if defined is not None:
            self.undefined.append(defined)
        return values

    def take32(self, tensor: NkiTensor) -> access.Taken:
        """`take` as fp32."""
        self.check_numeric(tensor)
        values, defined = self.take(tensor)
        if tensor.dtype in dtypes.WIDE_INTEGERS:
            self.check_exact(tensor, values if defined is None else values[defined])
        return dtypes.to_fp32(values), defined

    def read_exactly(self, tensor: NkiTensor) -> np.ndarray:
        """`read` for operands that must be defined: indices."""
        self.reads.append(tensor)
        return access.read(self.program, tensor).reshape(tensor.shape[0], -1)

    def defined(self, rows: int, columns: int) -> np.ndarray | None:
        """Which elements of a result [rows, columns] are defined, by what was read: element by element, else by row."""
        if not self.undefined:
            return None
        result = np.ones((rows, columns), bool)
        for mask in self.undefined:
            if mask.shape in ((rows, columns), (rows, 1), (1, 1)):
                result &= mask
            elif len(mask) == rows:
                result &= mask.all(axis=1, keepdims=True)
            else:
                result &= mask.all()
        return result

    def check_numeric(self, tensor: NkiTensor) -> None:
        """Refuse packed types, which engines move but do not compute with."""
        if tensor.dtype in dtypes.PACKED:
            self.refuse("G4C-K010", f"arithmetic on {tensor!r}", "packed types are operands of MX matmuls only")

    def check_exact(self, tensor: NkiTensor, values: np.ndarray) -> None:
        """Refuse 32-bit integers that fp32 rounds."""
        if values.size and (int(values.max()) > _EXACT_INTEGER or int(values.min()) < -_EXACT_INTEGER):
            inexact = values != values.astype(np.float32).astype(np.int64)
            if inexact.any():
                self.refuse(
                    "G4C-K026",
                    f"{tensor!r} holds {int(values[inexact][0])}",
                    "the engine computes in fp32, which is exact up to 2^24; use GpSimd or bitwise operators",
                )

    def check_rounding(self, values: np.ndarray, exact: Callable[[], np.ndarray]) -> None:
        """Refuse fp32 results of 32-bit integers that are not those of `exact`, the same arithmetic in fp64."""
        if not self.program.strict or not values.size or np.abs(values).max() < _EXACT_INTEGER:
            return
        known = self.defined(*values.shape)
        wrong = np.rint(exact()) != values
        wrong &= True if known is None else known
        if wrong.any():
            self.refuse(
                "G4C-K026",
                f"the result {values[wrong][0]:.0f} of 32-bit integers is rounded",
                "the engine computes in fp32, which is exact up to 2^24; use GpSimd or bitwise operators",
            )

    def write(
        self, tensor: NkiTensor, values: np.ndarray, mark: int = WRITTEN, defined: np.ndarray | None = None
    ) -> None:
        """Round fp32 `values` once to the tensor's type and store them."""
        self.check_numeric(tensor)
        self.store(tensor, dtypes.cast(values, tensor.dtype), mark, defined)

    def store(
        self, tensor: NkiTensor, values: np.ndarray, mark: int = WRITTEN, defined: np.ndarray | None = None
    ) -> None:
        """Store `values`, which have the tensor's type; `defined`: which are, beside what `read` operands say."""
        self.writes.append(tensor)
        if self.undefined:
            inherited = self.defined(tensor.shape[0], tensor.size // tensor.shape[0])
            defined = inherited if defined is None else inherited & defined.reshape(inherited.shape)
        if defined is not None and defined.all():
            defined = None
        access.write(self.program, indirection.resolve(self, tensor), values, mark, defined, self.source)

    def done(self, **details: Any) -> NkiInstruction:
        """The instruction is executed; `details` are what the cost model needs beyond the operands."""
        recorder = self.program.recorder
        if recorder is not None:
            self.details = details
            recorder.add(self)
        return NkiInstruction(self.number, self.label)
