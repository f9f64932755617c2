"""Kernels of a bundle: made and written by a compile, and simulated when its programs run on the CPU.

In: a module's kernel functions and a target; an opened bundle. Out: artefacts by function, their files and manifest
entries; the form of a program in which XLA's CPU backend calls the simulator.
Invariant: what is simulated is the source in the bundle, under the rules of the bundle's target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g4c.errors import G4cError
from g4c.lowering.neuron.neuronx_cc import TARGETS
from g4c.runtime.bundle import Bundle, BundleWriter, Kernel, Program, tensor_json
from g4c.runtime.session import cpu_form

if TYPE_CHECKING:
    from g4c.ir.module import Module
    from g4c.ir.types import Array
    from g4c.lowering.nki.artifact import KernelArtifact

_OLDEST_NKI, _NEWEST_NKI = "0.4", "0.6"  # the newest that is documented
_WRONG = "G4C-K049"  # a bug, where other codes of a family say that there is no such kernel


def make_kernels(module: Module, target: str, note: Callable[[str], None]) -> dict[str, KernelArtifact]:
    """The kernels of the module's kernel functions for `target`, by function. Functions without one stay plain HLO,
    and `note` is told, in one line per reason."""
    from g4c.lowering.nki.families import artifact_of

    found: dict[str, KernelArtifact] = {}
    plain: dict[str, list[str]] = {}
    for function in module.functions.values():
        if function.role != "kernel":
            continue
        try:
            found[function.name] = artifact_of(function, target)
        except G4cError as error:
            if not error.code.startswith("G4C-K04") or error.code == _WRONG:
                raise
            plain.setdefault(error.message, []).append(function.name)
    for reason, names in plain.items():
        note(f"plain HLO instead of kernels on {target}: {', '.join(names)}: {reason}")
    return found


def write_kernel(writer: BundleWriter, artifact: KernelArtifact, target: str) -> dict[str, Any]:
    """Write the source of a kernel, and beside it what its compiler must know; returns its manifest entry."""
    from g4c.lowering.neuron.kernel_calls import kernel_file

    file = kernel_file(artifact)
    entry = {
        "name": artifact.name,
        "file": file,
        "family": artifact.family,
        "schedule": artifact.schedule,
        "inputs": [tensor_json(*tensor) for tensor in artifact.inputs],
        "outputs": [tensor_json(*tensor) for tensor in artifact.outputs],
        "aliases": [list(pair) for pair in artifact.aliases],
        "cores": artifact.cores,
    }
    spec = {
        **entry,
        "entrypoint": artifact.name,
        "source_sha256": artifact.sha256,
        "target": target,
        "lnc": TARGETS[target].logical_cores or 1,
        "has_collectives": False,
        "min_nki": _OLDEST_NKI,
        "max_nki": _NEWEST_NKI,
    }
    writer.write(file, artifact.source)
    writer.write(str(Path(file).with_name("spec.json")), json.dumps(spec, indent=1) + "\n")
    return entry


def cpu_programs(bundle: Bundle, kernels: str) -> Callable[[Program], bytes]:
    """The form of the bundle's programs for a Session on the CPU. `kernels` is reference: the CPU's own form, or
    simulate: that for the device, with its kernels called in the simulator. G4C-R071 where there are none."""
    if kernels == "reference":
        return cpu_form
    if not any(program.kernels for program in bundle.programs.values()):
        raise G4cError(
            "G4C-R071",
            "--cpu-kernels simulate, but no program of the bundle calls a kernel",
            where=str(bundle.path),
            help="compile it with --kernels attention, or leave --cpu-kernels out",
        )
    return partial(_simulated, bundle)


def _simulated(bundle: Bundle, program: Program) -> bytes:
    from g4c.lowering.neuron.kernel_calls import for_cpu

    target = _simulated_target(bundle)
    return for_cpu(program.file.read_bytes(), {sha: _number(bundle.kernels[sha], target) for sha in program.kernels})


def _simulated_target(bundle: Bundle) -> str:
    from g4c.lowering.nki.families import CPU_TARGET

    target = TARGETS[bundle.manifest["target"]]
    return CPU_TARGET if target.family is None else target.name


@cache
def _number(kernel: Kernel, target: str) -> int:
    """The number by which programs call `kernel` in the simulator."""
    from g4c.lowering.nki.simulator.source import load
    from g4c.runtime.cpu_kernels import CpuKernel, register_kernel

    run = load(kernel.file.read_text(encoding="utf-8"), kernel.name, str(kernel.file)).specialize(target)
    run = run[kernel.cores] if kernel.cores > 1 else run

    def results(*operands: Array) -> Sequence[Array]:
        found = run(*operands)
        return found if isinstance(found, tuple | list) else (found,)

    return register_kernel(CpuKernel(kernel.name, results, kernel.aliases))
