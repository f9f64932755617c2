"""A strict simulator of NKI kernels on the CPU: the `nki` package's dialect, eager on numpy, with the device's rules.

In: kernels written against `nki`, `nki.language` and `nki.isa`, unmodified; numpy arrays or torch tensors.
Out: their results, or a coded refusal (G4C-K...) with the kernel's source line and the rule that it breaks.
`install()` makes `import nki` work where the real package is absent; a lenient mode checks only what the simulator of
the real package documents.

    memory, tensor, views, access    storage, views of it (indirect ones: indirection), reads and writes
    program, pairs, launch, kernel   running one program or two, `nki.jit` and `nki.simulate`
    isa/, language/                  the instructions by engine, the language's functions
    operators, activations, dtypes   their arithmetic
    lifetimes, subset                checks of a whole program
"""

from __future__ import annotations

from g4c.lowering.nki.simulator.diagnostics import SimulationError, SimulationWarning
from g4c.lowering.nki.simulator.install import install, installed, uninstall
from g4c.lowering.nki.simulator.kernel import Kernel, jit, simulate

__all__ = ["Kernel", "SimulationError", "SimulationWarning", "install", "installed", "jit", "simulate", "uninstall"]
