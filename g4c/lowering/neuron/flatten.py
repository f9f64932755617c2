"""Inline every `call` of an HLO module into its entry computation, and keep one copy of equal constants and combiners.

In: an HloModule, as converted from StableHLO with one private function per layer kind. Out: the same message,
changed: the entry computation and the combiners it uses. Invariant: no `call` is left (no shipped Neuron stack emits
one), operands stay before their users, and the metadata of an inlined instruction names the module path of the layer
that the call stands for.
"""

from __future__ import annotations

import re
from typing import Any

from g4c.lowering.neuron.hlo_proto import HloComputation, HloInstruction

_LAYER = re.compile(r"\blayers\.\d+(?=\.|$)")
_ANY_LAYER = re.compile(r"\blayers\.\*(?=\.|$)")


def flatten_calls(module: Any) -> None:
    """Inline the calls of the entry computation, drop what is no longer reachable, and merge equal combiners."""
    computations = {computation.id: computation for computation in module.computations}
    fresh = _Counter(1 + max(i.id for computation in module.computations for i in computation.instructions))
    entry = computations[module.entry_computation_id]
    flat: dict[int, list[Any]] = {}

    def body(computation: Any) -> list[Any]:
        """The instructions of `computation` without calls; the id of its root may move to an inlined instruction."""
        if computation.id not in flat:
            flat[computation.id] = _inline(computation, computations, body, fresh)
        return flat[computation.id]

    instructions = _merge_constants(body(entry))
    canonical = _canonical_combiners(instructions, computations)
    for instruction in instructions:
        for k, called in enumerate(instruction.called_computation_ids):
            instruction.called_computation_ids[k] = canonical[called].id
    combiners = list({computation.id: computation for computation in canonical.values()}.values())
    kept = HloComputation(name=entry.name, id=entry.id, root_id=entry.root_id)
    kept.program_shape.CopyFrom(entry.program_shape)
    kept.instructions.extend(instructions)
    del module.computations[:]
    module.computations.extend([*combiners, kept])


class _Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def take(self) -> int:
        self.value += 1
        return self.value - 1


def _inline(computation: Any, computations: dict[int, Any], body: Any, fresh: _Counter) -> list[Any]:
    out: list[Any] = []
    alias: dict[int, int] = {}  # an id that is gone -> the id that has its value
    elements: dict[int, list[int]] = {}  # a call with several results -> the ids that have their values
    for instruction in computation.instructions:
        operands = [alias.get(i, i) for i in instruction.operand_ids]
        if instruction.opcode == "get-tuple-element" and operands[0] in elements:
            alias[instruction.id] = elements[operands[0]][instruction.tuple_index]
            continue
        if instruction.opcode != "call":
            instruction.operand_ids[:] = operands
            out.append(instruction)
            continue
        callee = computations[instruction.called_computation_ids[0]]
        copies, root, results = _copies(body(callee), callee.root_id, operands, instruction.metadata.op_name, fresh)
        out.extend(copies)
        if results is None:
            alias[instruction.id] = root
        else:
            elements[instruction.id] = results
    if computation.root_id in alias:
        computation.root_id = alias[computation.root_id]
    assert computation.root_id not in elements, "a call is the root of a computation and has several results"
    return out


def _copies(
    body: list[Any], root_id: int, arguments: list[int], path: str, fresh: _Counter
) -> tuple[list[Any], int, list[int] | None]:
    """Copies of `body` under new ids; the id of the root's value, and of each element where the root is a tuple."""
    layer = _LAYER.search(path)
    mapping: dict[int, int] = {}
    copies: list[Any] = []
    for instruction in body:
        if instruction.opcode == "parameter":
            mapping[instruction.id] = arguments[instruction.parameter_number]
            continue
        if instruction.opcode == "tuple" and instruction.id == root_id:
            return copies, 0, [mapping[i] for i in instruction.operand_ids]
        copy = HloInstruction()
        copy.CopyFrom(instruction)
        copy.id = mapping[instruction.id] = fresh.take()
        copy.operand_ids[:] = [mapping[i] for i in instruction.operand_ids]
        copy.control_predecessor_ids[:] = [mapping[i] for i in instruction.control_predecessor_ids]
        if layer:
            copy.metadata.op_name = _ANY_LAYER.sub(layer[0], copy.metadata.op_name)
        copies.append(copy)
    return copies, mapping[root_id], None


def _merge_constants(instructions: list[Any]) -> list[Any]:
    """`instructions` with one copy of equal constants, the first."""
    first: dict[bytes, int] = {}
    alias: dict[int, int] = {}
    out: list[Any] = []
    for instruction in instructions:
        if instruction.opcode == "constant":
            key = instruction.literal.SerializeToString(deterministic=True)
            alias[instruction.id] = first.setdefault(key, instruction.id)
            if alias[instruction.id] != instruction.id:
                continue
        else:
            instruction.operand_ids[:] = [alias.get(i, i) for i in instruction.operand_ids]
        out.append(instruction)
    return out


def _canonical_combiners(instructions: list[Any], computations: dict[int, Any]) -> dict[int, Any]:
    """For every combiner in use, the first one that computes the same."""
    canonical: dict[int, Any] = {}
    by_meaning: dict[bytes, Any] = {}
    for instruction in instructions:
        for called in instruction.called_computation_ids:
            if called not in canonical:
                computation = computations[called]
                canonical[called] = by_meaning.setdefault(_meaning(computation), computation)
    return canonical


def _meaning(computation: Any) -> bytes:
    """A key that two computations share if they differ in names, ids and metadata only."""
    copy = HloComputation()
    copy.CopyFrom(computation)
    number = {instruction.id: k for k, instruction in enumerate(copy.instructions)}
    copy.name, copy.id, copy.root_id = "", 0, number[copy.root_id]
    del copy.program_shape.parameter_names[:]
    for instruction in copy.instructions:
        instruction.name, instruction.id = "", number[instruction.id]
        instruction.operand_ids[:] = [number[i] for i in instruction.operand_ids]
        instruction.ClearField("metadata")
    key: bytes = copy.SerializeToString(deterministic=True)
    return key
