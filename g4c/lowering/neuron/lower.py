"""Lower one program of the IR to the HLO proto that neuronx-cc and the CPU backend get.

In: a module, a program's name, a target, artefacts for kernels that are called as such. Out: `LoweredProgram`. Phases:
StableHLO text, its verifier, XLA's converter, finishing, the legality lint. Invariant: a program that is returned has
passed the StableHLO verifier and breaks no rule that is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from g4c.ir.module import Module
from g4c.ir.types import TensorType
from g4c.lowering.neuron import legality, xla
from g4c.lowering.neuron.finish import finish
from g4c.lowering.neuron.graph_to_stablehlo import lower_to_stablehlo
from g4c.lowering.neuron.legality import Finding
from g4c.lowering.neuron.mlir_verifier import verify_stablehlo
from g4c.lowering.nki.artifact import KernelArtifact


@dataclass(frozen=True)
class LoweredProgram:
    """One program, ready for the bundle.

    The module's parameters are inputs, caches, weights in this order; its results outputs, then the caches' new states.
    `hlo_proto` is a serialized xla.HloModuleProto. `flops` and `bytes` are of one execution, as the ops' costs say.
    """

    name: str
    stablehlo: str
    hlo_proto: bytes
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    caches: tuple[tuple[str, TensorType], ...]
    weights: tuple[tuple[str, TensorType], ...]
    findings: tuple[Finding, ...]
    flops: int
    bytes: int


def lower_program(
    module: Module, program: str, *, target: str, kernels: Mapping[str, KernelArtifact] | None = None
) -> LoweredProgram:
    """Lower `program`. Codes G4C-L001 to L008; warnings of the lint are in `findings`.

    Calls of the kernel functions that `kernels` names become calls of these kernels; the others are lowered op by op.
    """
    lowered = lower_to_stablehlo(module, program, kernels)
    verify_stablehlo(lowered.text)
    signature = lowered.signature
    proto = finish(xla.stablehlo_to_hlo(lowered.text), program, signature)
    findings = legality.check(proto, target=target)
    legality.refuse_errors(findings, program=program)
    cost = module.cost(module.functions[program])
    types = iter(lowered.parameters)
    inputs, caches, weights = (
        tuple((name, next(types)) for name in names)
        for names in (signature.inputs, signature.caches, signature.weights)
    )
    outputs = tuple(zip(signature.outputs, lowered.results, strict=False))
    return LoweredProgram(
        program,
        lowered.text,
        proto,
        inputs,
        outputs,
        caches,
        weights,
        tuple(findings),
        cost.flops,
        cost.bytes_read + cost.bytes_written,
    )
