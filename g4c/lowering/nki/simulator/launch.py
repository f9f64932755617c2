"""Running a kernel: arguments in, programs run, outputs checked and returned.

In: a kernel function, its arguments (numpy arrays, torch tensors, compile-time values), the grid and options.
Out: a `Run`: the results in the arguments' framework and what is known of the execution.
Invariants: an argument array that the kernel writes is updated in place; outputs are complete and in shared HBM, or the
run is refused. torch is never imported: a torch tensor proves that it is loaded.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from g4c.errors import G4cError
from g4c.lowering.nki.simulator import access, dtypes
from g4c.lowering.nki.simulator.addressing import array_of, marks_of
from g4c.lowering.nki.simulator.blas import one_thread
from g4c.lowering.nki.simulator.diagnostics import Site, as_refusal, error
from g4c.lowering.nki.simulator.generation import Generation
from g4c.lowering.nki.simulator.lifetimes import Peak, check_capacity
from g4c.lowering.nki.simulator.memory import LEFTOVER, UNWRITTEN, WRITTEN, MemoryRegion, Storage
from g4c.lowering.nki.simulator.pairs import Pair
from g4c.lowering.nki.simulator.program import Launch, Program, Recorder, activate
from g4c.lowering.nki.simulator.subset import check_source
from g4c.lowering.nki.simulator.tensor import NkiTensor


@dataclass(frozen=True)
class Options:
    """How to run: the generation, strict or lenient, who records each program's instructions, and whether to compute.

    `dry`: nothing is computed, see dry.py: the `Run` has no results.
    """

    generation: Generation
    strict: bool = True
    recorder: Callable[[Program], Recorder] | None = None
    dry: bool = False


@dataclass
class Run:
    """One execution: results, and per program the number of instructions and the peaks of SBUF and PSUM."""

    results: Any
    instructions: list[int] = field(default_factory=list)
    peaks: list[tuple[Peak, Peak]] = field(default_factory=list)
    recorders: list[Recorder] = field(default_factory=list)


class _Inputs:
    """Argument arrays as tensors, and what must be copied back."""

    def __init__(self, region: MemoryRegion, shared: bool, strict: bool) -> None:
        self.region = region
        self.shared = shared
        self.strict = strict
        self.torch = False
        self.storages: set[Storage] = set()
        self.tensors: list[NkiTensor] = []
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []

    def tensor(self, value: Any, name: str) -> Any:
        """A tensor for an array argument; tuples item by item; everything else as it is."""
        if isinstance(value, list) and self.strict:
            raise error("G4C-K030", f"argument {name} is a list", "lists are no compile-time values: use a tuple")
        if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            return type(value)(self.tensor(item, f"{name}_{n}") for n, item in enumerate(value))
        if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
            self.torch = True
            value = _from_torch(value)
        if not isinstance(value, np.ndarray):
            return value
        kind = dtypes.canonical(value.dtype)
        data = np.ascontiguousarray(value)
        if data is not value and value.flags.writeable:
            self.copies.append((value, data))
        shape = value.shape or (1,)
        storage = Storage(self.region, shape, kind, data.reshape(-1).view(np.uint8))
        storage.uniform = WRITTEN
        storage.shared = self.shared
        self.storages.add(storage)
        self.tensors.append(NkiTensor(shape, kind, storage, self.region, name))
        return self.tensors[-1]

    def copy_back(self) -> None:
        """Update arguments that could not be shared because they are not contiguous."""
        for target, source in self.copies:
            target[...] = source


def run(
    function: Callable[..., Any], arguments: tuple, keywords: dict[str, Any], grid: int | None, options: Options
) -> Run:
    """Execute `function` as one program, or as two that share HBM (grid 2)."""
    programs = grid or 1
    if programs not in (1, 2):
        raise error("G4C-K030", f"grid {programs}", "the grid is the number of cores of a logical core: 1 or 2")
    if programs == 2 and options.generation.number < 3:
        raise error("G4C-K030", f"grid 2 on {options.generation.name}", "LNC 2 exists from NeuronCore-v3 on")
    if options.strict:
        check_source(function)
    region = MemoryRegion.shared_hbm if programs == 2 else MemoryRegion.private_hbm
    inputs = _Inputs(region, programs == 2, options.strict)
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*arguments, **keywords)
    except TypeError as problem:
        raise error("G4C-K030", f"{function.__name__}: {problem}", f"{function.__name__}{signature}") from problem
    for name, value in bound.arguments.items():
        bound.arguments[name] = inputs.tensor(value, name)
    launch = Launch(programs, grid=grid is not None)
    made = functools.partial(Program, options.generation, options.strict, launch=launch, dry=options.dry)
    states = [made(number=number) for number in range(programs)]
    if options.recorder is not None:
        for state in states:
            state.recorder = options.recorder(state)

    def body(state: Program) -> Any:
        try:
            with activate(state), np.errstate(all="ignore"):  # infinities and NaN are values, as on the device
                return function(*bound.args, **bound.kwargs)
        except G4cError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError) as problem:
            refusal = as_refusal(problem)
            if refusal is None:
                raise
            raise refusal from problem

    with one_thread():
        if programs == 1:
            returned = body(states[0])
        else:
            pair = Pair(states)
            launch.meeting = pair
            returned = pair.run([lambda state=state: body(state) for state in states])[0]
    result = Run(None, [state.instructions for state in states])
    result.peaks = [check_capacity(state) for state in states]
    result.recorders = [state.recorder for state in states if state.recorder is not None]
    if options.dry:
        return result
    for tensor in inputs.tensors:
        _check_complete(states[0], tensor)
    result.results = _outputs(states[0], returned, inputs, _definition(function))
    inputs.copy_back()
    return result


def _definition(function: Callable[..., Any]) -> Site:
    """The line with the `def` of a kernel."""
    line = function.__code__.co_firstlineno
    while linecache.getline(function.__code__.co_filename, line).startswith("@"):
        line += 1
    return Site(function.__code__.co_filename, line, function.__name__)


def _outputs(program: Program, returned: Any, inputs: _Inputs, site: Site) -> Any:
    """Returned tensors as arrays, checked; `site`: of the kernel."""
    if isinstance(returned, tuple | list):
        return type(returned)(_outputs(program, item, inputs, site) for item in returned)
    if not isinstance(returned, NkiTensor):
        if returned is not None:
            what = f"the kernel returns {type(returned).__name__}"
            program.refuse("G4C-K014", what, "outputs are tensors, one or a tuple of them", site)
        return returned
    storage = returned.storage
    if returned.on_chip or (storage not in inputs.storages and storage.region is not MemoryRegion.shared_hbm):
        program.refuse(
            "G4C-K014",
            f"the kernel returns {returned!r}",
            "outputs are allocated with buffer=nl.shared_hbm",
            site=storage.site,
        )
    _check_complete(program, returned)
    array = array_of(returned)
    return _to_torch(array) if inputs.torch else np.array(array)


def _check_complete(program: Program, tensor: NkiTensor) -> None:
    """Refuse an output with elements that nothing wrote, or that were computed from such."""
    storage = tensor.storage
    if not program.strict or storage.uniform == WRITTEN:
        return
    marks = marks_of(tensor, storage.mark_array(tensor.itemsize), storage.unit)
    if storage.leftovers is not None and (marks == LEFTOVER).any():
        access.refuse_leftovers(program, storage.leftovers, f"; it reaches the output {tensor!r}")
    missing = np.argwhere(marks == UNWRITTEN)
    if len(missing):
        program.refuse(
            "G4C-K014",
            f"{len(missing)} elements of the output {tensor!r} are not written, the first is "
            f"{[int(n) for n in missing[0][: tensor.ndim]]}",
            "every element of an output is written",
            site=storage.site,
        )


def _from_torch(tensor: Any) -> np.ndarray:
    """A torch tensor's memory as a numpy array."""
    torch = sys.modules["torch"]
    value = tensor.detach().cpu()
    bits = {
        torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
        torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
        torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
    }.get(value.dtype)
    if bits is None:
        return value.numpy()
    return value.view(bits[0]).numpy().view(bits[1])


def _to_torch(array: np.ndarray) -> Any:
    """A copy of `array` as a torch tensor."""
    torch = sys.modules["torch"]
    array = np.array(array, order="C")
    name = array.dtype.name
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        carrier = np.int16 if array.itemsize == 2 else np.uint8
        return torch.from_numpy(array.view(carrier)).view(getattr(torch, name))
    return torch.from_numpy(array)
