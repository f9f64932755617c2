"""`install()`: makes `import nki` resolve to the simulator where the real package is absent.

In: the target and mode that kernels run with by default.
Out: `nki`, `nki.language`, `nki.isa`, `nki.typing` and `nki.collectives` in `sys.modules`, with the module paths that
kernels of releases 0.3 to 0.6 import from; and `neuronxcc.nki.typing`, which AWS's router kernel takes its annotations
from.
Invariant: a real `nki` or `neuronxcc` package is never hidden.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from g4c.lowering.nki.simulator import kernel
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.surface import VERSION

_PACKAGE = "g4c.lowering.nki.simulator"
MODULES = {
    "nki": f"{_PACKAGE}.surface",
    "nki.language": f"{_PACKAGE}.language",
    "nki.isa": f"{_PACKAGE}.isa",
    "nki.isa.constants": f"{_PACKAGE}.isa",
    "nki.typing": f"{_PACKAGE}.typing",
    "nki.dtype": f"{_PACKAGE}.language",
    "nki.tensor": f"{_PACKAGE}.tensor",
    "nki.collectives": f"{_PACKAGE}.collectives",
}
ANNOTATIONS = {
    "neuronxcc": f"{_PACKAGE}.legacy",
    "neuronxcc.nki": f"{_PACKAGE}.legacy",
    "neuronxcc.nki.typing": f"{_PACKAGE}.typing",
}


def installed() -> bool:
    """Whether `nki` is the simulator."""
    module = sys.modules.get("nki")
    return module is not None and getattr(module, "__g4c_simulator__", False)


def _is_there() -> bool:
    """Whether a real `nki` is imported or importable. A mere folder of that name on the path is none."""
    found = importlib.util.find_spec("nki") if "nki" not in sys.modules else sys.modules["nki"].__spec__
    return found is not None and found.origin is not None


def _takes_neuronxcc() -> bool:
    """Whether the simulator stands for `neuronxcc`: it does already, or nothing has that name."""
    module = sys.modules.get("neuronxcc")
    if module is not None:
        return module.__name__ == ANNOTATIONS["neuronxcc"]
    return importlib.util.find_spec("neuronxcc") is None


def install(target: str | None = None, lenient: bool = False) -> ModuleType:
    """Register the modules and return `nki`. Calling again changes target and mode.

    `target`: trn1, inf2, trn2, trn3, gen2, gen3, gen4; None: NEURON_PLATFORM_TARGET_OVERRIDE, else trn3.
    """
    if not installed() and _is_there():
        raise error("G4C-K028", "a real nki package is importable", "use nki.simulate of that package")
    kernel.configure(target, lenient)
    for name, source in (MODULES | (ANNOTATIONS if _takes_neuronxcc() else {})).items():
        module = importlib.import_module(source)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    assert sys.modules["nki"].__version__ == VERSION
    return sys.modules["nki"]


def uninstall() -> None:
    """Remove what `install` registered and forget target and mode."""
    kernel.configure(None, lenient=False)
    if installed():
        for name in (*MODULES, *(ANNOTATIONS if "neuronxcc" in sys.modules and _takes_neuronxcc() else ())):
            sys.modules.pop(name, None)
