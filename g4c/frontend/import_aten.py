"""From an exported ATen graph to elementary IR ops.

In: a `torch.export` program of `hf_model.Program`, the parameters' names, the decoder it came from. Out: an IR
`Function` of elementary ops, with each op's module path and source line, and the weights it reads in the module's
table. Invariants: nothing is recognized here, every ATen op becomes the IR ops that mean exactly the same, rounding
included; what cannot be expressed is refused (F053, F054), naming op, module and line. `layer_repeat` nodes are
replaced by the ops of the layer that they repeat, as if that layer had been traced itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from g4c.errors import G4cError
from g4c.frontend.aten_ops import HANDLERS, IDENTITIES, IGNORED
from g4c.frontend.hf_model import Decoder
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Dense, InvalidOpError, Loc, OpT, SymbolRef, Value
from g4c.ir.ops.elementwise import ConvertOp
from g4c.ir.ops.shape import ReshapeOp
from g4c.ir.ops.structure import ConstantOp, LoadWeightOp
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Weight

_DTYPES = {
    torch.float32: DType.F32,
    torch.bfloat16: DType.BF16,
    torch.float16: DType.F16,
    torch.int32: DType.S32,
    torch.bool: DType.PRED,
}
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_ROPE_BUFFER = re.compile(r"rotary_emb\.(\w+)_inv_freq$")
_ROOT = "decoder."  # where `Program` holds Hugging Face's model
_DECODER = "model."  # where that holds the decoder; checkpoint names are relative to it


@dataclass(frozen=True)
class Interface:
    """The names of a program's inputs and caches, in the order of `Program.forward`; caches are module symbols."""

    inputs: tuple[str, ...]
    caches: tuple[str, ...]
    logits: str = "logits"


def import_program(
    exported: ExportedProgram, module: Module, name: str, interface: Interface, decoder: Decoder
) -> Function:
    """Import one program of `decoder` as function `name` of `module`.

    Weights are entered into the module under their
    decoder-relative names. Errors: G4C-F053 (unknown op), F054 (unknown form of an op).
    """
    importer = _Importer(module, module.add_function(Function(name, "program")), decoder)
    importer.bind_inputs(exported, interface)
    importer.run([node for node in exported.graph.nodes if node.op == "call_function"], importer.values, None)
    (output,) = exported.graph.find_nodes(op="output")
    results = [importer.value(node, importer.values) for node in output.args[0]]
    names = [(interface.logits, None), *((cache, cache) for cache in interface.caches)]
    importer.function.results = [Result(v, *named) for v, named in zip(results, names, strict=True)]
    return importer.function


Binding = Value | list[Value] | None


class _Values:
    """What each node of the graph stands for; a repeated layer sees its own bindings first, then the program's."""

    def __init__(self, outer: _Values | None = None) -> None:
        self.bindings: dict[torch.fx.Node, Binding] = {}
        self.outer = outer

    def __getitem__(self, node: torch.fx.Node) -> Binding:
        if node in self.bindings or self.outer is None:
            return self.bindings[node]
        return self.outer[node]


@dataclass(frozen=True)
class _Renaming:
    """Module paths and parameters of layer `old` are to be read as those of layer `new`."""

    old: str
    new: str

    def __call__(self, path: str) -> str:
        return self.new + path.removeprefix(self.old) if f"{path}.".startswith(f"{self.old}.") else path


class _Importer:
    """The state of one import. The handlers in `aten_ops` build ops through `emit`, `scalar`, `convert`, `reshape`."""

    def __init__(self, module: Module, function: Function, decoder: Decoder) -> None:
        self.module, self.function = module, function
        self.constants, self.tied = decoder.constants, decoder.tied
        self.values = _Values()
        self.targets: dict[torch.fx.Node, str] = {}  # placeholder -> path of the parameter or buffer
        self.stored: dict[str, TensorType] = {}
        self.loaded: dict[str, Value] = {}
        self.regions: dict[int, _Region] = {}
        self.overwritten: set[torch.fx.Node] = set()
        self.locs: dict[tuple[str, str], Loc] = {}
        self.loc = Loc()
        self.where = ""

    # -- inputs
    # ---------------------------------------------------------------------------------------------------------
    def bind_inputs(self, exported: ExportedProgram, interface: Interface) -> None:
        names = [(name, None) for name in interface.inputs] + [(cache, cache) for cache in interface.caches]
        remaining = iter(names)
        specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        for node in exported.graph.find_nodes(op="placeholder"):
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                name, cache = next(remaining)
                self.values.bindings[node] = self.function.add_param(name, self.type_of(node), cache)
                continue
            assert spec.kind in (InputKind.PARAMETER, InputKind.BUFFER), spec
            path = spec.target.removeprefix(_ROOT)
            path = self.tied.get(path, path)
            self.targets[node] = path
            if path not in self.constants:
                self.stored[path] = self.type_of(node)
        assert next(remaining, None) is None, "fewer inputs than names"

    def parameter(self, path: str, like: str) -> Value:
        """The value of the parameter or buffer `path`; `like` is the traced one whose type it has."""
        name = path.removeprefix(_DECODER)
        if name in self.loaded:
            return self.loaded[name]
        if path in self.constants:
            weight = self.constant(name, self.constants[path])
            if isinstance(weight, Value):
                self.loaded[name] = weight
                return weight
        else:
            weight = Weight.stored(name, self.stored[like])
        self.module.add_weight(weight)
        self.loaded[name] = self.emit(LoadWeightOp(SymbolRef(weight.name), weight.type, loc=self.loc))
        return self.loaded[name]

    def constant(self, name: str, tensor: torch.Tensor) -> Weight | Value:
        """A buffer whose value is known: a scalar becomes a constant, anything else a weight with that value."""
        array = tensor.float().numpy().astype(_DTYPES[tensor.dtype].numpy)
        if array.ndim == 0:
            return self.emit(ConstantOp(Dense.of(array), loc=self.loc))
        rope = _ROPE_BUFFER.match(name)
        return Weight(f"rope.{rope[1]}.inv_freq" if rope else name, value=Dense.of(array))

    # -- nodes
    # ----------------------------------------------------------------------------------------------------------
    def run(self, nodes: Sequence[torch.fx.Node], values: _Values, renaming: _Renaming | None) -> None:
        """Import `nodes` in order."""
        for index, node in enumerate(nodes):
            target = str(node.target)
            self.locate(node, target, renaming)
            if target == "g4c.layer_enter.default":
                self.regions[node.args[1]] = _Region.of(nodes, index)
                values.bindings[node] = self.tensors(node.args[0], values, renaming)
            elif target == "g4c.layer_exit.default":
                values.bindings[node] = self.tensors(node.args[0], values, renaming)
            elif target == "g4c.layer_repeat.default":
                values.bindings[node] = self.repeat(node, values)
            elif target == "<built-in function getitem>":
                entries = values[node.args[0]]
                assert isinstance(entries, list)
                values.bindings[node] = entries[node.args[1]]
            elif target in IDENTITIES:
                values.bindings[node] = self.value(node.args[0], values, renaming)
            elif target not in IGNORED:
                values.bindings[node] = self.call(node, target, values, renaming)

    def repeat(self, node: torch.fx.Node, values: _Values) -> list[Value]:
        """The traced layer again, on another state and with the other layer's parameters."""
        state, layer, like = node.args
        region = self.regions[like]
        inner = _Values(values)
        inner.bindings[region.enter] = self.tensors(state, values, None)
        renaming = _Renaming(f"{_DECODER}layers.{like}", f"{_DECODER}layers.{layer}")
        self.run(region.body, inner, renaming)
        return self.tensors(region.exit.args[0], inner, renaming)

    def call(
        self, node: torch.fx.Node, target: str, values: _Values, renaming: _Renaming | None
    ) -> Value | list[Value]:
        if target not in HANDLERS:
            raise G4cError("G4C-F053", f"unsupported operation {target}", where=self.where)
        args = torch.fx.map_arg((node.args, node.kwargs), lambda entry: self.value(entry, values, renaming))
        try:
            result = HANDLERS[target](self, self.type_of(node), *args[0], **args[1])
        except InvalidOpError as error:
            raise self.unsupported(f"{target}: {error}") from error
        first = result[0] if isinstance(result, list) else result
        assert first.type == self.type_of(node), (target, first.type, self.type_of(node))
        if target.endswith("_.Tensor"):
            assert isinstance(result, Value), target
            self.overwrite(node, result, values)
        return result

    def overwrite(self, node: torch.fx.Node, result: Value, values: _Values) -> None:
        """An in-place op: from here on its first argument reads as its result. Refused where another name shares
        memory.
        """
        changed = node.args[0]
        shared = [user for user in changed.users if _shares_memory(user)]
        if _shares_memory(changed) or shared or changed.op == "placeholder":
            raise self.unsupported(f"{node.target} writes into {changed}, of which there is another view")
        values.bindings[changed] = result

    def value(self, node: torch.fx.Node, values: _Values, renaming: _Renaming | None = None) -> Value:
        if node in self.targets:
            path = self.targets[node]
            return self.parameter(renaming(path) if renaming else path, path)
        bound = values[node]
        assert isinstance(bound, Value), (node, bound)
        return bound

    def tensors(self, nodes: Sequence[torch.fx.Node], values: _Values, renaming: _Renaming | None) -> list[Value]:
        return [self.value(node, values, renaming) for node in nodes]

    # -- for the handlers
    # -----------------------------------------------------------------------------------------------
    def emit(self, op: OpT) -> Value:
        return self.function.append(op).result

    def convert(self, value: Value, dtype: DType) -> Value:
        if value.dtype == dtype:
            return value
        return self.emit(ConvertOp(value, value.type.with_dtype(dtype), loc=self.loc))

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        if value.shape == shape:
            return value
        return self.emit(ReshapeOp(value, value.type.with_shape(shape), loc=self.loc))

    def scalar(self, number: float, dtype: DType) -> Value:
        return self.emit(ConstantOp(Dense.scalar(number, dtype), loc=self.loc))

    def unsupported(self, message: str) -> G4cError:
        return G4cError("G4C-F054", message, where=self.where)

    def type_of(self, node: torch.fx.Node) -> TensorType:
        """Of several results, the first one's."""
        tensor = node.meta["val"]
        tensor = tensor[0] if isinstance(tensor, tuple | list) else tensor
        if tensor.dtype not in _DTYPES:
            raise self.unsupported(f"{node.target} yields {tensor.dtype}")
        return TensorType(tuple(tensor.shape), _DTYPES[tensor.dtype])

    def locate(self, node: torch.fx.Node, target: str, renaming: _Renaming | None) -> None:
        stack: Any = node.meta.get("nn_module_stack") or {}
        path = f"{next(reversed(stack.values()))[0]}.".removeprefix(_ROOT)[:-1] if stack else ""
        path = renaming(path) if renaming else path
        key = (path, node.meta.get("stack_trace") or "")
        if key not in self.locs:
            self.locs[key] = Loc(path, *_source_line(key[1]))
        self.loc = self.locs[key]
        self.where = f"{self.function.name}  {self.loc}"


@dataclass(frozen=True)
class _Region:
    """The nodes of one traced layer, between its markers."""

    enter: torch.fx.Node
    body: tuple[torch.fx.Node, ...]
    exit: torch.fx.Node

    @staticmethod
    def of(nodes: Sequence[torch.fx.Node], start: int) -> _Region:
        layer = nodes[start].args[1]
        for stop in range(start + 1, len(nodes)):
            if str(nodes[stop].target) == "g4c.layer_exit.default" and nodes[stop].args[1] == layer:
                return _Region(nodes[start], tuple(nodes[start + 1 : stop]), nodes[stop])
        raise AssertionError(f"layer {layer} is entered and never left")


def _shares_memory(node: torch.fx.Node) -> bool:
    """Whether the node's result is another view of its operand, or may be."""
    library, _, name = str(node.target).partition(".")
    return node.op == "call_function" and library == "aten" and name.split(".")[0] in _VIEWS


_VIEWS = frozenset(("view", "reshape", "transpose", "unsqueeze", "select", "slice", "expand", "alias", "to", "type_as"))


def _source_line(stack_trace: str) -> tuple[str, int]:
    """File name and line of the innermost frame in the model's code, else of the innermost frame."""
    frames = _FRAME.findall(stack_trace)
    if not frames:
        return "", 0
    model = [frame for frame in frames if "/transformers/models/" in frame[0].replace("\\", "/")]
    file, line = (model or frames)[-1]
    return file.replace("\\", "/").rsplit("/", 1)[-1], int(line)
