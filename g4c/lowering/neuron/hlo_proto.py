"""The HLO module proto, as far as g4c touches it.

In: nothing. Out: message classes (`HloModule`, `HloComputation`, `HloInstruction`, ...) made at import from the table
below, and the element type codes. Invariant: a field that the table does not name survives parsing and serializing
unchanged, because the protobuf runtime keeps unknown fields; so the table only lists what g4c reads or writes. The
numbers are those of OpenXLA's `hlo.proto` and `xla_data.proto`; enums are declared as the int32 that they are on the
wire.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message -> field -> (number, type); "*" is repeated, "%" a map<string, string>, capitalized types are messages.
_TABLE: dict[str, dict[str, tuple[int, str]]] = {
    "HloModule": {
        "name": (1, "string"),
        "entry_computation_name": (2, "string"),
        "computations": (3, "*HloComputation"),
        "host_program_shape": (4, "ProgramShape"),
        "id": (5, "int64"),
        "entry_computation_id": (6, "int64"),
        "input_output_alias": (8, "InputOutputAlias"),
        "stack_frame_index": (17, "StackFrameIndex"),
        "frontend_attributes": (19, "FrontendAttributes"),
    },
    "HloComputation": {
        "name": (1, "string"),
        "instructions": (2, "*HloInstruction"),
        "program_shape": (4, "ProgramShape"),
        "id": (5, "int64"),
        "root_id": (6, "int64"),
    },
    "HloInstruction": {
        "name": (1, "string"),
        "opcode": (2, "string"),
        "shape": (3, "Shape"),
        "metadata": (7, "OpMetadata"),
        "literal": (8, "Literal"),
        "parameter_number": (9, "int64"),
        "tuple_index": (13, "int64"),
        "dimensions": (14, "*int64"),
        "window": (15, "Window"),
        "slice_dimensions": (17, "*SliceDimension"),
        "dynamic_slice_sizes": (20, "*int64"),
        "custom_call_target": (28, "string"),
        "dot_dimension_numbers": (30, "DotDimensionNumbers"),
        "gather_dimension_numbers": (33, "GatherDimensionNumbers"),
        "gather_slice_sizes": (34, "*int64"),
        "id": (35, "int64"),
        "operand_ids": (36, "*int64"),
        "control_predecessor_ids": (37, "*int64"),
        "called_computation_ids": (38, "*int64"),
        "backend_config": (43, "bytes"),
        "scatter_dimension_numbers": (48, "ScatterDimensionNumbers"),
        "constrain_layout": (56, "bool"),
        "operand_shapes_with_layout": (57, "*Shape"),
        "comparison_direction": (63, "string"),
        "indices_are_sorted": (67, "bool"),
        "frontend_attributes": (68, "FrontendAttributes"),
        "unique_indices": (69, "bool"),
        "output_operand_aliasing": (74, "*OutputOperandAliasing"),
        "custom_call_api_version": (77, "int32"),
    },
    "OutputOperandAliasing": {
        "output_shape_index": (1, "*int64"),
        "operand_index": (2, "int64"),
        "operand_shape_index": (3, "*int64"),
    },
    "Shape": {
        "element_type": (2, "int32"),
        "dimensions": (3, "*int64"),
        "tuple_shapes": (4, "*Shape"),
        "layout": (5, "Layout"),
        "is_dynamic_dimension": (6, "*bool"),
    },
    "Layout": {
        "minor_to_major": (1, "*int64"),
        "tiles": (6, "*Tile"),
        "tail_padding_alignment_in_elements": (16, "int64"),
    },
    "Tile": {"dimensions": (1, "*int64")},
    "ProgramShape": {"parameters": (1, "*Shape"), "result": (2, "Shape"), "parameter_names": (3, "*string")},
    "OpMetadata": {
        "op_type": (1, "string"),
        "op_name": (2, "string"),
        "source_file": (3, "string"),
        "source_line": (4, "int32"),
        "stack_frame_id": (15, "int32"),
    },
    "Literal": {
        "shape": (1, "Shape"),
        "preds": (2, "*bool"),
        "s32s": (4, "*int32"),
        "f32s": (8, "*float"),
        "f16s": (11, "bytes"),
        "bf16s": (13, "bytes"),
        "s8s": (15, "bytes"),
    },
    "SliceDimension": {"start": (1, "int64"), "limit": (2, "int64"), "stride": (3, "int64")},
    "Window": {"dimensions": (1, "*WindowDimension")},
    "WindowDimension": {
        "size": (1, "int64"),
        "stride": (2, "int64"),
        "padding_low": (3, "int64"),
        "padding_high": (4, "int64"),
        "window_dilation": (5, "int64"),
        "base_dilation": (6, "int64"),
    },
    "DotDimensionNumbers": {
        "lhs_contracting_dimensions": (1, "*int64"),
        "rhs_contracting_dimensions": (2, "*int64"),
        "lhs_batch_dimensions": (3, "*int64"),
        "rhs_batch_dimensions": (4, "*int64"),
    },
    "GatherDimensionNumbers": {
        "offset_dims": (1, "*int64"),
        "collapsed_slice_dims": (2, "*int64"),
        "start_index_map": (3, "*int64"),
        "index_vector_dim": (4, "int64"),
    },
    "ScatterDimensionNumbers": {
        "update_window_dims": (1, "*int64"),
        "inserted_window_dims": (2, "*int64"),
        "scatter_dims_to_operand_dims": (3, "*int64"),
        "index_vector_dim": (4, "int64"),
    },
    "InputOutputAlias": {"entries": (1, "*AliasEntry")},
    "AliasEntry": {
        "output_shape_index": (1, "*int64"),
        "parameter_number": (2, "int64"),
        "parameter_shape_index": (3, "*int64"),
        "kind": (4, "int32"),
    },
    "FrontendAttributes": {"map": (1, "%")},
    "StackFrameIndex": {
        "file_names": (1, "*string"),
        "function_names": (2, "*string"),
        "file_locations": (3, "*FileLocation"),
        "stack_frames": (4, "*StackFrame"),
    },
    "FileLocation": {"file_name_id": (1, "int32"), "function_name_id": (2, "int32"), "line": (3, "int32")},
    "StackFrame": {"file_location_id": (1, "int32"), "parent_frame_id": (2, "int32")},
}

_PACKAGE = "g4c.hlo"
_Field = descriptor_pb2.FieldDescriptorProto


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind == "%":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, "string")
        field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
        return
    if kind.startswith("*"):
        field.label, kind = _Field.LABEL_REPEATED, kind[1:]
    if kind[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = getattr(_Field, f"TYPE_{kind.upper()}")


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="g4c/hlo.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _TABLE.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _TABLE}


_CLASSES = _build()
HloModule = _CLASSES["HloModule"]
HloComputation = _CLASSES["HloComputation"]
HloInstruction = _CLASSES["HloInstruction"]
Shape = _CLASSES["Shape"]

MAY_ALIAS, MUST_ALIAS = 1, 2

ELEMENT_TYPES: dict[int, str] = {
    1: "pred",
    2: "s8",
    3: "s16",
    4: "s32",
    5: "s64",
    6: "u8",
    7: "u16",
    8: "u32",
    9: "u64",
    10: "f16",
    11: "f32",
    12: "f64",
    13: "tuple",
    14: "opaque",
    15: "c64",
    16: "bf16",
    17: "token",
    18: "c128",
    19: "f8e5m2",
    20: "f8e4m3fn",
    21: "s4",
    22: "u4",
    23: "f8e4m3b11fnuz",
    24: "f8e5m2fnuz",
    25: "f8e4m3fnuz",
    28: "f8e4m3",
    29: "f8e3m4",
    32: "f4e2m1fn",
    33: "f8e8m0fnu",
}
TUPLE = 13

_BITS = {"pred": 8, "s4": 4, "u4": 4, "f4e2m1fn": 4, "bf16": 16, "c64": 64, "c128": 128}


def element_bits(element_type: int) -> int:
    """Bits of one element of an array type. KeyError for tuples, tokens and unknown codes."""
    name = ELEMENT_TYPES[element_type]
    if name in _BITS:
        return _BITS[name]
    if name.startswith("f8"):
        return 8
    digits = name.lstrip("sufd")
    if not digits.isdigit():
        raise KeyError(name)
    return int(digits)


def shape_text(shape: Any) -> str:
    """A shape as HLO text writes it, without layout: `bf16[1,128]`, `(f32[], s32[2])`."""
    if shape.element_type == TUPLE:
        return f"({', '.join(map(shape_text, shape.tuple_shapes))})"
    name = ELEMENT_TYPES.get(shape.element_type, f"type{shape.element_type}")
    return f"{name}[{','.join(map(str, shape.dimensions))}]"
