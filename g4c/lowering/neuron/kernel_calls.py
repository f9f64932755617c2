"""Kernels in HLO: custom calls that carry, in the place of a compiled kernel, which source is to be compiled.

In: kernel artefacts; serialized HLO modules. Out: the `backend_config` of a call, which calls a module has, the module
as the CPU backend takes it or with compiled kernels, or a refusal where it is to be compiled for a device as it is.
Invariant: the form for the CPU differs from the one for the device in the calls' `backend_config`, their API version
and that their layouts are said to be wanted.

A call's `backend_config` is base64 of JSON. Compiled, it is what the SDK's compiler of kernels gave; g4c's placeholder
has the `kernel_format` "g4c-source", and names the source by its SHA-256 and its file in the bundle.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from g4c.errors import G4cError
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.lowering.nki.artifact import KernelArtifact

TARGET = "AwsNeuronCustomNativeKernel"
API_VERSION = 2  # status-returning
_TYPED_FFI = 4
_FORMAT = "g4c-source"


def kernel_file(artifact: KernelArtifact) -> str:
    """Where a bundle keeps the source."""
    return f"kernels/{artifact.sha256}/{artifact.name}.py"


def placeholder(artifact: KernelArtifact) -> str:
    """The `backend_config` of calls of `artifact`, as long as it is not compiled."""
    fields = {
        "kernel_format": _FORMAT,
        "kernel_version": 1,
        "func_name": artifact.name,
        "grid": artifact.cores,
        "source_sha256": artifact.sha256,
        "artifact": kernel_file(artifact),
    }
    return base64.b64encode(json.dumps(fields, sort_keys=True).encode()).decode()


def decoded(config: bytes) -> dict[str, Any] | None:
    """The JSON object of a `backend_config`; None where it is none."""
    try:
        fields = json.loads(base64.b64decode(config, validate=True))
    except (ValueError, binascii.Error):
        return None
    return fields if isinstance(fields, dict) else None


def kernel_calls(module: Any) -> Iterator[Any]:
    """The instructions of an HloModule that call kernels."""
    for computation in module.computations:
        for instruction in computation.instructions:
            if instruction.opcode == "custom-call" and instruction.custom_call_target == TARGET:
                yield instruction


def sources(proto: bytes) -> list[str]:
    """SHA-256 of the sources that a serialized module's placeholders name, one per call, in order."""
    found = (decoded(call.backend_config) or {} for call in kernel_calls(HloModule.FromString(proto)))
    return [str(fields["source_sha256"]) for fields in found if fields.get("kernel_format") == _FORMAT]


def for_cpu(proto: bytes, numbers: Mapping[str, int]) -> bytes:
    """The module with its calls as XLA's CPU backend makes them: kernels by their numbers, which `numbers` has by
    SHA-256 of the source. KeyError where it lacks one."""
    module = HloModule.FromString(proto)
    shapes = {i.id: i.shape for computation in module.computations for i in computation.instructions}
    for call in kernel_calls(module):
        fields = decoded(call.backend_config) or {}
        call.backend_config = f"{{kernel_id = {numbers[fields['source_sha256']]} : i64}}".encode()
        call.custom_call_api_version = _TYPED_FFI
        # Else XLA lays out what a call takes and gives as it likes.
        call.constrain_layout = True
        del call.operand_shapes_with_layout[:]
        call.operand_shapes_with_layout.extend(shapes[operand] for operand in call.operand_ids)
    rewritten: bytes = module.SerializeToString(deterministic=True)
    return rewritten


def with_compiled(proto: bytes, configs: Mapping[str, bytes]) -> bytes:
    """The module with compiled kernels, whose `backend_config` is in `configs` by SHA-256 of the source, in the place
    of placeholders. KeyError where one is missing."""
    module = HloModule.FromString(proto)
    for call in kernel_calls(module):
        fields = decoded(call.backend_config) or {}
        if fields.get("kernel_format") == _FORMAT:
            call.backend_config = configs[fields["source_sha256"]]
    linked: bytes = module.SerializeToString(deterministic=True)
    return linked


def refuse_placeholders(proto: bytes, program: str) -> None:
    """G4C-N001 where kernels of a module are not compiled: neuronx-cc takes no sources."""
    names = [(decoded(call.backend_config) or {}) for call in kernel_calls(HloModule.FromString(proto))]
    left = sorted({str(fields["func_name"]) for fields in names if fields.get("kernel_format") == _FORMAT})
    if left:
        many = f"{len(left)} kernels that are there as source only, {left[0]} among them"
        message = f"{program} calls {many if len(left) > 1 else f'a kernel that is there as source only, {left[0]}'}"
        raise G4cError(
            "G4C-N001",
            message,
            where=program,
            help="g4c link BUNDLE compiles them where the Neuron SDK is; with --kernels none there are none",
        )
