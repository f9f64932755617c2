"""Finish an HLO module for neuronx-cc: ids, layouts, names, aliases, metadata.

In: the serialized module that XLA's converter wrote, and the program's signature. Out: the serialized module as it is
stored in the bundle. Invariants: ids count from 1 and are unique over the module; every array shape has a row-major
layout, also in both program shapes; parameters come first; every parameter and result has the name that the runtime
binds; a cache's parameter and result are aliased (MUST_ALIAS) under the names `X.must_alias_input` and `X`; every
instruction says where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from g4c.errors import G4cError
from g4c.lowering.neuron.flatten import flatten_calls
from g4c.lowering.neuron.hlo_proto import MUST_ALIAS, TUPLE, HloInstruction, HloModule

MAX_TENSOR_NAME = 255
CACHE_INPUT_SUFFIX = ".must_alias_input"


@dataclass(frozen=True)
class Signature:
    """Names of a program's tensors. Parameters: inputs, caches, weights; results: outputs, caches; in this order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    caches: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return (*self.inputs, *(name + CACHE_INPUT_SUFFIX for name in self.caches), *self.weights)

    @property
    def result_names(self) -> tuple[str, ...]:
        return (*self.outputs, *self.caches)

    def aliases(self) -> list[tuple[int, int]]:
        """(parameter number, result number) of every cache."""
        return [(len(self.inputs) + k, len(self.outputs) + k) for k in range(len(self.caches))]


def finish(proto: bytes, name: str, signature: Signature, *, flatten: bool = True) -> bytes:
    """The finished module called `name`, without calls if `flatten`. G4C-L007 where the signature does not fit."""
    module = HloModule.FromString(proto)
    entry = _entry(module)
    _check(name, entry, signature)
    if flatten:
        flatten_calls(module)
        entry = _entry(module)
    _fill_metadata(module, name)
    _name_parameters(entry, signature)
    _finish_root(entry, signature)
    _parameters_first(entry)
    for computation in module.computations:
        for instruction in computation.instructions:
            _set_layout(instruction.shape)
            if instruction.opcode == "constant":
                _set_layout(instruction.literal.shape)
    _program_shapes(module)
    _renumber(module)
    module.name, module.id = name, 0
    del module.input_output_alias.entries[:]
    single = len(signature.result_names) == 1
    for parameter, result in signature.aliases():
        index = [] if single else [result]
        module.input_output_alias.entries.add(output_shape_index=index, parameter_number=parameter, kind=MUST_ALIAS)
    finished: bytes = module.SerializeToString(deterministic=True)
    return finished


def _entry(module: Any) -> Any:
    return next(c for c in module.computations if c.id == module.entry_computation_id)


def _check(name: str, entry: Any, signature: Signature) -> None:
    parameters, results = entry.program_shape.parameters, entry.program_shape.result.tuple_shapes
    names = (*signature.parameter_names, *signature.result_names)
    problems = []
    if len(parameters) != len(signature.parameter_names):
        problems.append(f"{len(parameters)} parameters for {len(signature.parameter_names)} names")
    if len(results) != len(signature.result_names):
        problems.append(f"{len(results)} results for {len(signature.result_names)} names")
    problems += [
        f"tensor name of {len(n)} characters, at most {MAX_TENSOR_NAME}" for n in names if len(n) > MAX_TENSOR_NAME
    ]
    problems += [f"tensor name {n!r} contains a comma" for n in names if "," in n]
    for kind in (signature.parameter_names, signature.result_names):
        problems += sorted({f"tensor name {n!r} is used twice" for n in kind if kind.count(n) > 1})
    if problems:
        raise G4cError("G4C-L007", f"the signature of {name} does not fit: {problems[0]}")


def _fill_metadata(module: Any, name: str) -> None:
    """Move source file and line from the frame index to each instruction, where older readers look; fill gaps."""
    index = module.stack_frame_index
    sources = []
    for frame in index.stack_frames:
        location = index.file_locations[frame.file_location_id - 1]
        sources.append((index.file_names[location.file_name_id - 1], location.line))
    users = {c: i.metadata for comp in module.computations for i in comp.instructions for c in i.called_computation_ids}
    for computation in module.computations:
        for instruction in computation.instructions:
            metadata = instruction.metadata
            if metadata.stack_frame_id and not metadata.source_file:
                metadata.source_file, metadata.source_line = sources[metadata.stack_frame_id - 1]
            metadata.ClearField("stack_frame_id")
    for computation in reversed(module.computations):
        for instruction in computation.instructions:
            if not instruction.metadata.op_name:
                user = users.get(computation.id)
                instruction.metadata.op_name = user.op_name if user is not None and user.op_name else name
    module.ClearField("stack_frame_index")


def _name_parameters(entry: Any, signature: Signature) -> None:
    names = signature.parameter_names
    for instruction in entry.instructions:
        if instruction.opcode == "parameter":
            name = names[instruction.parameter_number]
            instruction.frontend_attributes.map["neff_input_names"] = name
            instruction.metadata.op_name = name


def _finish_root(entry: Any, signature: Signature) -> None:
    """A tuple of two or more results, none of them a bare parameter; or a copy of the only one."""
    by_id = {instruction.id: instruction for instruction in entry.instructions}
    root = by_id[entry.root_id]
    del entry.instructions[next(k for k, i in enumerate(entry.instructions) if i.id == entry.root_id)]
    single = len(root.operand_ids) == 1
    free = 1 + max(by_id)
    for k, operand in enumerate(root.operand_ids):
        value = by_id[operand]
        if not single and value.opcode != "parameter":
            continue
        copy = HloInstruction(opcode="copy", id=free + k, operand_ids=[operand])
        copy.shape.CopyFrom(value.shape)
        copy.metadata.op_name = signature.result_names[k]
        entry.instructions.append(copy)
        root.operand_ids[k] = copy.id
    if single:
        root = entry.instructions[-1]
        entry.root_id = root.id
    else:
        entry.instructions.append(root)
        root = entry.instructions[-1]
    root.frontend_attributes.map["neff_output_names"] = ",".join(signature.result_names)


def _parameters_first(entry: Any) -> None:
    ordered = sorted(
        entry.instructions, key=lambda i: i.parameter_number if i.opcode == "parameter" else len(entry.instructions)
    )
    copies = [HloInstruction.FromString(instruction.SerializeToString()) for instruction in ordered]
    del entry.instructions[:]
    entry.instructions.extend(copies)


def _set_layout(shape: Any) -> None:
    if shape.element_type == TUPLE:
        for element in shape.tuple_shapes:
            _set_layout(element)
        return
    shape.layout.minor_to_major[:] = range(len(shape.dimensions) - 1, -1, -1)
    shape.layout.tail_padding_alignment_in_elements = 1


def _program_shapes(module: Any) -> None:
    for computation in module.computations:
        shape = computation.program_shape
        shape.Clear()
        for instruction in computation.instructions:
            if instruction.opcode == "parameter":
                shape.parameters.add().CopyFrom(instruction.shape)
                attributes = instruction.frontend_attributes.map
                shape.parameter_names.append(attributes.get("neff_input_names", f"p{instruction.parameter_number}"))
            if instruction.id == computation.root_id:
                shape.result.CopyFrom(instruction.shape)
    module.host_program_shape.CopyFrom(_entry(module).program_shape)


def _renumber(module: Any) -> None:
    """Ids from 1 in order of emission, instructions and computations from one counter; names `<opcode>.<id>`."""
    numbers: dict[int, int] = {}
    computation_numbers: dict[int, int] = {}
    count = 0
    for computation in module.computations:
        for instruction in computation.instructions:
            count += 1
            numbers[instruction.id] = count
        count += 1
        computation_numbers[computation.id] = count
    for computation in module.computations:
        is_entry = computation.id == module.entry_computation_id
        for instruction in computation.instructions:
            instruction.id = numbers[instruction.id]
            instruction.operand_ids[:] = [numbers[i] for i in instruction.operand_ids]
            instruction.control_predecessor_ids[:] = [numbers[i] for i in instruction.control_predecessor_ids]
            instruction.called_computation_ids[:] = [computation_numbers[i] for i in instruction.called_computation_ids]
            instruction.name = f"{instruction.opcode}.{instruction.id}"
        computation.root_id = numbers[computation.root_id]
        computation.id = computation_numbers[computation.id]
        computation.name = "main" if is_entry else f"computation.{computation.id}"
        if is_entry:
            entry_id = computation.id
    module.entry_computation_id = entry_id
    module.entry_computation_name = "main"
