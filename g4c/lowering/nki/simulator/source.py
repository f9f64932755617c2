"""Kernels given as source text: `load` makes what a file with that text would define.

In: the text of a Python file that imports `nki`, and the name of a kernel in it.
Out: the `Kernel`. Invariant: `import nki` means the simulator inside of the text, wherever else it means something; the
text can be read back by line, so that refusals and the check of the Python subset see it.
"""

from __future__ import annotations

import builtins
import importlib
import linecache
import types
from typing import Any

from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.install import MODULES
from g4c.lowering.nki.simulator.kernel import Kernel


def load(text: str, entrypoint: str, filename: str | None = None) -> Kernel:
    """The kernel `entrypoint` of the file `text`. `filename` is what refusals name; default: <entrypoint.py>.

    Refusals: G4C-K030: the text defines no such kernel.
    """
    filename = filename or f"<{entrypoint}.py>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    module = types.ModuleType(entrypoint)
    module.__file__ = filename
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
    exec(compile(text, filename, "exec"), module.__dict__)
    kernel = module.__dict__.get(entrypoint)
    if not isinstance(kernel, Kernel):
        raise error("G4C-K030", f"{filename} defines no kernel {entrypoint}", "a function decorated with @nki.jit")
    return kernel


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """`__import__` with the simulator in the place of `nki`."""
    source = MODULES.get(name) if level == 0 else None
    if source is None:
        return builtins.__import__(name, globals, locals, fromlist, level)
    return importlib.import_module(source if fromlist else MODULES["nki"])
