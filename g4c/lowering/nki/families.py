"""Kernel functions and the families of generated kernels: from what a kernel computes to its source.

In: a function of role "kernel", as outline-kernels makes them, and a target. Out: its `KernelArtifact`.
Invariant: an artefact takes and returns what the function does, in the same order; what it returns updated in place
are operands of the function.

A function's name begins with that of its family. A family is a module that makes a problem of the function's ops
(shapes, masks: everything that is not a choice), knows the schedules that fit, best guess first, and emits one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from g4c.errors import G4cError
from g4c.ir.module import Function
from g4c.ir.ops import KvUpdateOp, TiledAttentionOp
from g4c.lowering.neuron.neuronx_cc import TARGETS
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.choose import Choice, compare
from g4c.lowering.nki.simulator import generation

CPU_TARGET = "trn2"  # whose rules kernels follow where no device is compiled for


@dataclass(frozen=True)
class Family:
    """`problem` of a function; `schedules` of a problem, a generation and how many cores a logical core has, best guess
    first; `emit` of problem, schedule and generation.

    Refusals: G4C-K040 to K049: there is no kernel for this.
    """

    problem: Callable[[Function], Any]
    schedules: Callable[[Any, int, int], tuple[Any, ...]]
    emit: Callable[[Any, Any, int], KernelArtifact]


def _prefill(function: Function) -> Any:
    (attention,) = function.ops_of(TiledAttentionOp)
    return _module("attention.prefill").from_tiled_attention(attention)


def _decode(function: Function) -> Any:
    (attention,) = function.ops_of(TiledAttentionOp)
    updates = sum(1 for _ in function.ops_of(KvUpdateOp))
    return _module("attention.decode").from_tiled_attention(attention, update=updates == 2)


def _linear(name: str) -> Family:
    return _of_module(lambda function: _module(f"linear.{name}").from_function(function), f"linear.{name}")


def _module(name: str) -> Any:
    return import_module(f"g4c.lowering.nki.{name}")


def _of_module(problem: Callable[[Function], Any], name: str) -> Family:
    """The family of a module, which is loaded when it is needed."""

    def call(function: str, *arguments: Any) -> Any:
        return getattr(_module(name), function)(*arguments)

    return Family(problem, partial(call, "schedules"), partial(call, "emit"))


FAMILIES: dict[str, Family] = {
    "prefill_attention": _of_module(_prefill, "attention.prefill"),
    "decode_attention": _of_module(_decode, "attention.decode"),
    "residual": _linear("residual"),
    "lm_head": _linear("lm_head"),
    "projection": _linear("projection"),
}


def generation_of(target: str) -> int:
    """The NeuronCore generation of `target` (trn1, inf2, trn2, trn3, cpu)."""
    return generation.from_target(_device(target)).number


def cores_of(target: str) -> int:
    """How many cores a logical core of `target` has, each of which runs a kernel's program."""
    return TARGETS[_device(target)].logical_cores or 1


def _device(target: str) -> str:
    return CPU_TARGET if target == "cpu" else target


def choice_of(function: Function, target: str) -> Choice:
    """The kernel of `function` for `target` with the least modelled time, and what it was compared with.

    G4C-K040 to K048 where there is none; G4C-K049 where its operands are not those of the function.
    """
    family = next((family for name, family in FAMILIES.items() if function.name.startswith(name)), None)
    if family is None:
        raise G4cError("G4C-K047", f"no family of kernels is called as {function.name} is")
    choice = compare(family.problem(function), family, generation_of(target), cores_of(target))
    _check(function, choice.artifact)
    return choice


def artifact_of(function: Function, target: str) -> KernelArtifact:
    """The kernel of `choice_of`."""
    return choice_of(function, target).artifact


def _check(function: Function, artifact: KernelArtifact) -> None:
    """G4C-K049 unless the kernel can stand for the function."""
    wanted = [str(param.type) for param in function.params]
    found = [str(type) for _, type in artifact.inputs]
    if wanted != found:
        raise G4cError("G4C-K049", f"{artifact.name} takes {', '.join(found)}, {function.name} {', '.join(wanted)}")
    wanted = [str(result.value.type) for result in function.results]
    found = [str(type) for _, type in artifact.outputs]
    if wanted != found:
        raise G4cError("G4C-K049", f"{artifact.name} gives {', '.join(found)}, {function.name} {', '.join(wanted)}")
    params: dict[object, int] = {param: index for index, param in enumerate(function.params)}
    for operand, result in artifact.aliases:
        update = function.results[result].value.owner
        if not isinstance(update, KvUpdateOp) or params.get(update.cache) != operand:
            raise G4cError("G4C-K049", f"{artifact.name} writes operand {operand}, which {function.name} does not")
