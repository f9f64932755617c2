"""The part of the legality lint that looks at the module as a whole: ids, order, layouts, names, aliases, metadata.

In: a parsed HloModule. Out: calls of `emit(rule code, instruction or None, detail)`. Invariant: nothing is changed,
and a damaged module is reported, not stumbled over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from g4c.lowering.neuron.finish import CACHE_INPUT_SUFFIX, MAX_TENSOR_NAME
from g4c.lowering.neuron.hlo_proto import MUST_ALIAS, TUPLE, shape_text
from g4c.lowering.neuron.legality_rules import MAX_ID

Emit = Callable[[str, Any, str], None]


def check_structure(module: Any, emit: Emit) -> None:
    """Apply the structural rules to `module`."""
    _check_ids(module, emit)
    for computation in module.computations:
        for instruction in computation.instructions:
            if not _has_layout(instruction.shape):
                emit("layout", instruction, "no row-major layout")
            if not instruction.metadata.op_name:
                emit("metadata", instruction, "no op_name")
    entries = [c for c in module.computations if c.id == module.entry_computation_id]
    if len(entries) != 1 or module.computations[-1].id != module.entry_computation_id:
        emit("operand-order", None, "the entry computation is not the last one")
        return
    _check_entry(module, entries[0], emit)


def _check_ids(module: Any, emit: Emit) -> None:
    seen: set[int] = set()
    names: set[str] = set()
    computations: set[int] = set()
    for computation in module.computations:
        defined: set[int] = set()
        for instruction in computation.instructions:
            if not 0 < instruction.id <= MAX_ID:
                emit("id-range", instruction, f"id {instruction.id}")
            if instruction.id in seen:
                emit("id-unique", instruction, f"id {instruction.id} is used twice")
            if not instruction.name or instruction.name in names:
                emit("name-unique", instruction, f"name {instruction.name!r}")
            missing = [i for i in instruction.operand_ids if i not in defined]
            missing += [i for i in instruction.called_computation_ids if i not in computations]
            if missing:
                emit("operand-order", instruction, f"id {missing[0]} is not defined before")
            seen.add(instruction.id)
            defined.add(instruction.id)
            names.add(instruction.name)
        if computation.root_id not in defined:
            emit("operand-order", None, f"the root {computation.root_id} of {computation.name} is not in it")
        if not 0 < computation.id <= MAX_ID:
            emit("id-range", None, f"computation id {computation.id}")
        if computation.id in seen or computation.id in computations:
            emit("id-unique", None, f"computation id {computation.id} is used twice")
        computations.add(computation.id)
        seen.add(computation.id)


def _has_layout(shape: Any) -> bool:
    if shape.element_type == TUPLE:
        return all(map(_has_layout, shape.tuple_shapes))
    if not shape.HasField("layout"):
        return False
    order: list[int] = list(shape.layout.minor_to_major)
    return order == list(range(len(shape.dimensions) - 1, -1, -1)) and not shape.layout.tiles


def _check_entry(module: Any, entry: Any, emit: Emit) -> None:
    parameters = sorted((i for i in entry.instructions if i.opcode == "parameter"), key=lambda i: i.parameter_number)
    root = next((i for i in entry.instructions if i.id == entry.root_id), None)
    if root is None:
        return
    results = list(root.shape.tuple_shapes) if root.shape.element_type == TUPLE else [root.shape]
    by_id = {instruction.id: instruction for instruction in entry.instructions}
    if root.opcode not in ("tuple", "copy", "custom-call") or (root.opcode == "tuple" and len(results) < 2):
        emit("root", root, f"the root is a {root.opcode} of {len(results)} result(s)")
    for operand in root.operand_ids if root.opcode == "tuple" else ():
        if operand in by_id and by_id[operand].opcode == "parameter":
            emit("root", root, f"{by_id[operand].name} is returned as it is")
    for where, shape in (("host", module.host_program_shape), ("entry", entry.program_shape)):
        want = [shape_text(p.shape) for p in parameters], shape_text(root.shape)
        if want != ([shape_text(p) for p in shape.parameters], shape_text(shape.result)):
            emit("program-shape", None, f"the {where} program shape differs from the entry computation")
        if not all(map(_has_layout, [*shape.parameters, shape.result])):
            emit("layout", None, f"the {where} program shape lacks a row-major layout")
    names = [p.frontend_attributes.map.get("neff_input_names", "") for p in parameters]
    outputs = root.frontend_attributes.map.get("neff_output_names", "").split(",")
    _check_names(names, outputs, parameters, results, root, emit)
    if len(outputs) == len(results):
        _check_aliases(module, names, outputs, [p.shape for p in parameters], results, emit)


def _check_names(
    names: list[str], outputs: list[str], parameters: list[Any], results: list[Any], root: Any, emit: Emit
) -> None:
    for parameter, name in zip(parameters, names, strict=True):
        if not name or len(name) > MAX_TENSOR_NAME or names.count(name) > 1:
            emit("tensor-name", parameter, f"input name {name[:40]!r}")
    if len(outputs) != len(results):
        emit("tensor-name", root, f"{len(outputs)} output names for {len(results)} results")
    for name in outputs:
        if not name or len(name) > MAX_TENSOR_NAME or outputs.count(name) > 1:
            emit("tensor-name", root, f"output name {name[:40]!r}")


def _check_aliases(
    module: Any, names: list[str], outputs: list[str], parameters: list[Any], results: list[Any], emit: Emit
) -> None:
    aliased: set[int] = set()
    for entry in module.input_output_alias.entries:
        number, index = entry.parameter_number, (list(entry.output_shape_index) or [0])[0]
        aliased.add(number)
        if not (0 <= number < len(names) and 0 <= index < len(outputs)):
            emit("alias", None, f"parameter {number} and result {index} do not both exist")
            continue
        if entry.kind != MUST_ALIAS:
            emit("alias", None, f"{outputs[index]} is not MUST_ALIAS")
        if names[number] != outputs[index] + CACHE_INPUT_SUFFIX:
            emit("alias", None, f"input {names[number]} is aliased to output {outputs[index]}")
        if shape_text(parameters[number]) != shape_text(results[index]):
            shapes = f"{shape_text(parameters[number])} and {shape_text(results[index])}"
            emit("alias", None, f"{outputs[index]} has the shapes {shapes}")
    for number, name in enumerate(names):
        if name.endswith(CACHE_INPUT_SUFFIX) and number not in aliased:
            emit("alias", None, f"{name} is not aliased")
