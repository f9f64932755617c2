"""`nki.jit` and `nki.simulate`: what a kernel author calls.

In: a function. Out: a `Kernel`, callable with arrays, indexed by its grid.
Settings come from `configure` (what `install` was given), and from the environment: NEURON_PLATFORM_TARGET_OVERRIDE.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from g4c.lowering.nki.simulator.diagnostics import error, warn
from g4c.lowering.nki.simulator.generation import from_target
from g4c.lowering.nki.simulator.launch import Options, Run, run
from g4c.lowering.nki.simulator.program import running


@dataclass(frozen=True)
class Settings:
    """`target` None: the environment's."""

    target: str | None = None
    lenient: bool = False


_settings = Settings()


def configure(target: str | None = None, lenient: bool | None = None) -> None:
    """Change what kernels run as by default."""
    global _settings
    from_target(target)
    _settings = Settings(target, _settings.lenient if lenient is None else lenient)


class Kernel:
    """A kernel function with its launch grid; calling it simulates it."""

    def __init__(self, function: Callable[..., Any], settings: Settings | None = None, grid: int | None = None) -> None:
        self.func = function
        self.settings = settings
        self.grid = grid
        functools.update_wrapper(self, function)

    def __getitem__(self, grid: Any) -> Kernel:
        sizes = grid if isinstance(grid, tuple) else (grid,)
        if len(sizes) != 1 or not isinstance(sizes[0], int):
            raise error("G4C-K030", f"grid {grid!r}", "kernel[n] with n the number of cores of a logical core: 1 or 2")
        return Kernel(self.func, self.settings, sizes[0])

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        program = running()
        if program is not None:
            # NKI's migration guide wants callees undecorated; AWS's own kernels call decorated ones.
            warn("G4C-K001", f"{self.__name__} is decorated with @nki.jit and called by a kernel")
            return self.func(*arguments, **keywords)
        return self.run(*arguments, **keywords).results

    def run(self, *arguments: Any, recorder: Any = None, dry: bool = False, **keywords: Any) -> Run:
        """Simulate and keep what is known of the execution; `dry`: without computing."""
        settings = self.settings or _settings
        options = Options(from_target(settings.target), not settings.lenient, recorder, dry)
        return run(self.func, arguments, keywords, self.grid, options)

    def with_schedule(self, edges: Any) -> Kernel:
        """Scheduling edges between named instructions: true of a simulator that runs in program order."""
        for later, earlier in edges:
            names = earlier if isinstance(earlier, list | tuple) else [earlier]
            if not all(isinstance(name, str) for name in (later, *names)):
                raise error("G4C-K002", f"schedule edge {(later, earlier)!r}", "(name, name) or (name, [names])")
        return self

    def specialize(self, target: str | None = None, lenient: bool | None = None) -> Kernel:
        """This kernel with other settings."""
        settings = self.settings or _settings
        changes = {"target": target or settings.target, "lenient": settings.lenient if lenient is None else lenient}
        return Kernel(self.func, replace(settings, **changes), self.grid)


def jit(fn=None, **kwargs):
    """Decorate a kernel. `mode=` is ignored, as in NKI; `platform_target=` was removed from NKI and is refused."""
    if "platform_target" in kwargs:
        raise error("G4C-K002", "nki.jit(platform_target=...)", "set NEURON_PLATFORM_TARGET_OVERRIDE")
    if fn is None:
        return functools.partial(jit, **kwargs)
    return fn if isinstance(fn, Kernel) else Kernel(fn)


def simulate(kernel, *, target: str | None = None, lenient: bool | None = None):
    """A callable that simulates `kernel` on numpy arrays or torch tensors; the keywords are g4c's."""
    made = kernel if isinstance(kernel, Kernel) else Kernel(kernel)
    return made.specialize(target, lenient) if target is not None or lenient is not None else made
