"""The legality lint: is this finished HLO module one that neuronx-cc is known to compile?

In: a serialized HLO module and the target. Out: findings, each with its rule, the op, and the module path it came
from. Invariant: a module without an error finding uses only the vocabulary of `legality_rules` and obeys its
structural rules; the numbers of XLA's own verifier are not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from g4c.errors import G4cError
from g4c.lowering.neuron import legality_rules as rules
from g4c.lowering.neuron.hlo_proto import ELEMENT_TYPES, TUPLE, HloModule, element_bits, shape_text
from g4c.lowering.neuron.kernel_calls import API_VERSION, decoded
from g4c.lowering.neuron.kernel_calls import TARGET as KERNEL
from g4c.lowering.neuron.legality_module import check_structure
from g4c.lowering.neuron.legality_rules import RULES, Rule

Emit = Callable[[str, Any, str], None]


@dataclass(frozen=True)
class Finding:
    """One violation: the rule, the instruction (`dot.42 f32[1,8]`), its module path, and what is wrong with it."""

    rule: Rule
    op: str
    path: str
    detail: str

    @property
    def is_error(self) -> bool:
        return self.rule.severity == "error"

    def __str__(self) -> str:
        diagnostic = f" [{self.rule.diagnostic}]" if self.rule.diagnostic else ""
        path = f" from {self.path}" if self.path else ""
        return f"{self.rule.severity}: {self.rule.code}: {self.op}{path}: {self.detail} ({self.rule.text}){diagnostic}"


def check(proto: bytes, *, target: str, allow_calls: bool = False) -> list[Finding]:
    """Every finding for `target` (inf2, trn1, trn2, trn3, cpu), errors first, else in module order."""
    findings: list[Finding] = []

    def emit(code: str, instruction: Any, detail: str) -> None:
        op = f"{instruction.name} {shape_text(instruction.shape)}" if instruction is not None else "module"
        path = instruction.metadata.op_name if instruction is not None else ""
        findings.append(Finding(RULES[code], op, path, detail))

    if len(proto) > rules.MAX_PROTO_BYTES:
        emit("proto-size", None, f"{len(proto)} bytes")
        return findings
    module = HloModule.FromString(proto)
    check_structure(module, emit)
    computations = {computation.id: computation for computation in module.computations}
    for computation in module.computations:
        by_id = {instruction.id: instruction for instruction in computation.instructions}
        for instruction in computation.instructions:
            _check_types(instruction, target, emit)
            if instruction.opcode in rules.CONTROL_FLOW:
                if not (allow_calls and instruction.opcode == "call"):
                    emit("call-inlined", instruction, f"{instruction.opcode} is left")
            elif instruction.opcode not in rules.VOCABULARY:
                emit("op-vocabulary", instruction, f"{instruction.opcode} is not in the vocabulary")
            elif all(operand in by_id for operand in instruction.operand_ids):
                operands = [by_id[operand] for operand in instruction.operand_ids]
                _check_op(instruction, operands, computations, by_id, emit)
    return sorted(findings, key=lambda finding: not finding.is_error)


def refuse_errors(findings: list[Finding], *, program: str) -> None:
    """G4C-L006 naming the first ten error findings, if there are any."""
    errors = [finding for finding in findings if finding.is_error]
    if not errors:
        return
    more = f"\n... and {len(errors) - 10} more" if len(errors) > 10 else ""
    raise G4cError(
        "G4C-L006",
        f"the HLO module of {program} breaks {len(errors)} rule(s): {errors[0].op}: {errors[0].detail}",
        where=errors[0].path or None,
        excerpt="\n".join(map(str, errors[:10])) + more,
    )


def _arrays(shape: Any) -> Iterator[Any]:
    if shape.element_type == TUPLE:
        for element in shape.tuple_shapes:
            yield from _arrays(element)
    else:
        yield shape


def _check_types(instruction: Any, target: str, emit: Emit) -> None:
    for shape in _arrays(instruction.shape):
        name = ELEMENT_TYPES.get(shape.element_type, f"type {shape.element_type}")
        if name in rules.SIXTY_FOUR_BIT:
            emit("no-64-bit", instruction, f"element type {name}")
        elif name not in rules.ELEMENT_TYPES:
            emit("element-type", instruction, f"element type {name}")
        elif name == "f8e4m3fn" and target not in rules.FP8_FN_TARGETS:
            emit("fp8-of-target", instruction, f"element type {name} on {target}")
        if any(shape.is_dynamic_dimension):
            emit("static-shape", instruction, "a dimension is dynamic")
        if len(shape.dimensions) >= 5:
            emit("rank", instruction, f"rank {len(shape.dimensions)}")


def _dtype(instruction: Any) -> str:
    return ELEMENT_TYPES.get(instruction.shape.element_type, "?")


def _check_op(
    instruction: Any, operands: list[Any], computations: dict[int, Any], by_id: dict[int, Any], emit: Emit
) -> None:
    opcode = instruction.opcode
    if opcode in rules.ELEMENTWISE:
        _check_elementwise(instruction, operands, emit)
    elif opcode == "dot" and any(_dtype(operand) in rules.INTEGERS for operand in operands):
        emit("integer-dot", instruction, f"operands are {' and '.join(map(_dtype, operands))}")
    elif opcode == "constant":
        elements = 1
        for extent in instruction.shape.dimensions:
            elements *= extent
        size = elements * element_bits(instruction.shape.element_type) // 8
        if size > rules.MAX_CONSTANT_BYTES:
            emit("constant-size", instruction, f"{size} bytes")
    elif opcode == "reduce":
        _check_reduce(instruction, operands, computations, emit)
    elif opcode == "reduce-window":
        dilated = any(d.window_dilation > 1 or d.base_dilation > 1 for d in instruction.window.dimensions)
        if dilated or len(operands) != 2:
            emit("reduce-window", instruction, "dilated" if dilated else f"{len(operands)} operands")
    elif opcode in ("gather", "scatter"):
        _check_lookup(instruction, operands, computations, by_id, emit)
    elif opcode == "dynamic-update-slice":
        constant = [operand.opcode == "constant" for operand in operands[2:]]
        if any(constant) and not all(constant):
            emit("update-starts", instruction, f"{sum(constant)} of {len(constant)} starts are constants")
    elif opcode == "sort":
        emit("sort", instruction, f"{len(operands)} operands")
    elif opcode == "custom-call" and instruction.custom_call_target not in rules.CUSTOM_CALLS:
        emit("custom-call-target", instruction, f"target {instruction.custom_call_target!r}")
    elif opcode == "custom-call" and instruction.custom_call_target == KERNEL:
        _check_kernel_call(instruction, operands, emit)
    elif opcode in ("all-reduce", "reduce-scatter") and any(_dtype(operand) in rules.INTEGERS for operand in operands):
        emit("integer-collective", instruction, f"operand is {_dtype(operands[0])}")


def _check_kernel_call(instruction: Any, operands: list[Any], emit: Emit) -> None:
    fields = decoded(instruction.backend_config)
    if fields is None or not fields.get("func_name"):
        emit("kernel-call", instruction, "backend_config names no kernel")
    if instruction.custom_call_api_version != API_VERSION:
        emit("kernel-call", instruction, f"API version {instruction.custom_call_api_version}, not {API_VERSION}")
    results = list(_arrays(instruction.shape))
    for alias in instruction.output_operand_aliasing:
        index, operand = (list(alias.output_shape_index) or [0])[0], alias.operand_index
        if not (index < len(results) and operand < len(operands)):
            emit("kernel-call", instruction, f"operand {operand} and result {index} do not both exist")
        elif shape_text(results[index]) != shape_text(operands[operand].shape):
            shapes = f"{shape_text(operands[operand].shape)} and {shape_text(results[index])}"
            emit("kernel-call", instruction, f"operand {operand} and result {index} are one, of shapes {shapes}")


def _check_elementwise(instruction: Any, operands: list[Any], emit: Emit) -> None:
    shapes = [shape_text(operand.shape) for operand in operands]
    result = shape_text(instruction.shape)
    wanted = result if instruction.opcode != "compare" else "pred" + shapes[0][shapes[0].index("[") :]
    if len(set(shapes)) > 1 or (instruction.opcode != "compare" and shapes[0] != result) or result != wanted:
        emit("operand-type", instruction, f"{instruction.opcode}({', '.join(shapes)}) -> {result}")
    elif instruction.opcode == "add" and _dtype(instruction) == "pred":
        emit("boolean-add", instruction, "add on predicates")
    elif instruction.opcode == "power" and _dtype(instruction) in rules.INTEGERS:
        emit("integer-power", instruction, f"power on {_dtype(instruction)}")


def _root(computation: Any) -> Any:
    return next(i for i in computation.instructions if i.id == computation.root_id)


def _check_reduce(instruction: Any, operands: list[Any], computations: dict[int, Any], emit: Emit) -> None:
    combiner = _root(computations[instruction.called_computation_ids[0]]).opcode
    if combiner not in rules.REDUCERS or len(operands) != 2:
        emit("reduce-combiner", instruction, f"combiner is {combiner}, {len(operands) // 2} input(s)")
    elif operands[1].opcode != "constant":
        emit("reduce-combiner", instruction, f"the initial value is a {operands[1].opcode}")
    rank = len(operands[0].shape.dimensions)
    squared = operands[0].opcode == "multiply" and len(set(operands[0].operand_ids)) == 1
    if combiner == "add" and squared and rank >= 4:
        emit("norm-rank", instruction, f"sum of squares over {shape_text(operands[0].shape)}")


def _check_lookup(
    instruction: Any, operands: list[Any], computations: dict[int, Any], by_id: dict[int, Any], emit: Emit
) -> None:
    extents = operands[0].shape.dimensions
    if instruction.opcode == "scatter":
        root = _root(computations[instruction.called_computation_ids[0]])
        if root.opcode != "parameter" or root.parameter_number != 1:
            emit("scatter-assign", instruction, f"combiner is {root.opcode}")
        axes = instruction.scatter_dimension_numbers.scatter_dims_to_operand_dims
    else:
        axes = instruction.gather_dimension_numbers.start_index_map
    bounds = _bounds(operands[1], by_id)
    if bounds is None or len(axes) != 1:
        return
    low, high = bounds
    slices = list(instruction.gather_slice_sizes)
    last = extents[axes[0]] - (slices[axes[0]] if slices else 1)
    if low < 0 or high > last:
        emit("index-bounds", instruction, f"indices are in {low}..{high}, the operand has 0..{last}")


def _bounds(instruction: Any, by_id: dict[int, Any], depth: int = 8) -> tuple[int, int] | None:
    """Smallest and largest value, where that follows from iotas and constants alone."""
    opcode = instruction.opcode
    if opcode == "iota":
        return 0, instruction.shape.dimensions[instruction.dimensions[0]] - 1
    if opcode == "constant":
        values = instruction.literal.s32s
        return (min(values), max(values)) if len(values) else None
    operands = [by_id[i] for i in instruction.operand_ids if i in by_id]
    if depth == 0 or len(operands) != len(instruction.operand_ids):
        return None
    if opcode in ("reshape", "broadcast", "transpose", "copy", "slice"):
        return _bounds(operands[0], by_id, depth - 1)
    if opcode in ("add", "multiply"):
        left, right = (_bounds(operand, by_id, depth - 1) for operand in operands)
        if left is None or right is None:
            return None
        values = [a + b if opcode == "add" else a * b for a in left for b in right]
        return min(values), max(values)
    return None
