"""A program of the IR as a StableHLO module: `main`, and one private function per function it calls.

In: a module, a program's name, and artefacts for the kernel functions that become custom calls; the others are lowered
as their bodies say. Out: text, and the symbols of the weights in the order of `main`'s parameters. Invariants: main's
parameters are inputs, caches, weights and its results outputs, caches; a weight that a layer function loads itself
becomes a parameter of that function; every op has a location whose name is its module path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.module import Function, Module, Parameter
from g4c.ir.op import Loc, Op, Value
from g4c.ir.ops.structure import CallOp, LoadWeightOp
from g4c.ir.types import TensorType
from g4c.lowering.neuron.finish import Signature
from g4c.lowering.neuron.kernel_calls import TARGET, placeholder
from g4c.lowering.neuron.rules import RULES
from g4c.lowering.neuron.stablehlo_builder import Locations, StablehloBuilder, Tensor
from g4c.lowering.nki.artifact import KernelArtifact


@dataclass(frozen=True)
class StablehloProgram:
    """The text of a program and what its parameters and results are."""

    text: str
    signature: Signature
    parameters: tuple[TensorType, ...]
    results: tuple[TensorType, ...]


def lower_to_stablehlo(
    module: Module, program: str, kernels: Mapping[str, KernelArtifact] | None = None
) -> StablehloProgram:
    """`program` and all it calls; `kernels` by the names of kernel functions.

    G4C-L005: an op has no rule; G4C-L007: the signature cannot be lowered.
    """
    kernels = kernels or {}
    main = module.functions[program]
    locations = Locations()
    weights = _weights(module, main, {})
    functions = []
    for name in dict.fromkeys(_callees(module, main)):
        if name not in kernels:
            functions += _inner_function(module, module.functions[name], locations, kernels)
    inputs = [param for param in main.params if param.cache is None]
    caches = [param for param in main.params if param.cache is not None]
    outputs = [result for result in main.results if result.cache is None]
    states = _cache_results(main, caches)

    order = [*inputs, *caches]
    emitted = _Function(module, main, locations, kernels)
    names = [Tensor(f"%arg{k}", param.type) for k, param in enumerate(order)]
    values: dict[Value, Tensor] = dict(zip(order, names, strict=True))
    symbols = {weight: Tensor(f"%arg{len(order) + k}", module.weights[weight].type) for k, weight in enumerate(weights)}
    results = emitted.body(values, symbols, [*(result.value for result in outputs), *states])
    paths = [*(param.name for param in order), *weights]
    text = "\n".join(
        [
            *locations.lines(),
            f"module @{_symbol(program)} {{",
            *functions,
            *_wrap("public @main", [*names, *symbols.values()], paths, results, emitted.lines),
            "}\n",
        ]
    )
    signature = Signature(
        tuple(param.name for param in inputs),
        tuple(result.name for result in outputs),
        tuple(str(param.cache) for param in caches),
        tuple(weights),
    )
    parameters = tuple(tensor.type for tensor in (*names, *symbols.values()))
    return StablehloProgram(text, signature, parameters, tuple(tensor.type for tensor in results))


def _symbol(name: str) -> str:
    return name if name.replace("_", "a").isalnum() else f'"{name}"'


def _callees(module: Module, function: Function) -> Iterator[str]:
    """Names of all functions that `function` calls, callees before callers."""
    for name in module.callees(function):
        yield from _callees(module, module.functions[name])
        yield name


def _weights(module: Module, function: Function, known: dict[str, list[str]]) -> list[str]:
    """Symbols that `function` and its callees load, in the order of the module's table."""
    if function.name not in known:
        used = {op.weight.name for op in function.ops_of(LoadWeightOp)}
        for name in module.callees(function):
            used.update(_weights(module, module.functions[name], known))
        known[function.name] = [name for name in module.weights if name in used]
    return known[function.name]


def _cache_results(main: Function, caches: list[Parameter]) -> list[Value]:
    """The new state of every cache; a cache that is only read keeps its state."""
    states = {result.cache: result.value for result in main.results if result.cache is not None}
    unknown = states.keys() - {param.cache for param in caches}
    if unknown:
        message = f"{main.name} returns the state of {sorted(map(str, unknown))[0]}, which it does not take"
        raise G4cError("G4C-L007", message)
    values = [states.get(param.cache, param) for param in caches]
    for param, value in zip(caches, values, strict=True):
        if value.type != param.type:
            raise G4cError("G4C-L007", f"{main.name}: cache {param.cache} is {param.type}, its new state {value.type}")
    return values


class _Function:
    """The body of one function while it is written."""

    def __init__(
        self, module: Module, function: Function, locations: Locations, kernels: Mapping[str, KernelArtifact]
    ) -> None:
        self.module = module
        self.function = function
        self.kernels = kernels
        self.builder = StablehloBuilder(locations, Loc(function.name))

    @property
    def lines(self) -> list[str]:
        return self.builder.lines

    def body(self, values: dict[Value, Tensor], weights: dict[str, Tensor], results: list[Value]) -> list[Tensor]:
        """Write every op; `values` and `weights` are the parameters. Returns the results."""
        for op in self.function.ops:
            self.builder.loc = op.loc if op.loc.path else Loc(self.function.name, op.loc.file, op.loc.line)
            operands = [values[value] for value in op.operands]
            if isinstance(op, LoadWeightOp):
                tensors = [weights[op.weight.name]]
            elif isinstance(op, CallOp) and op.callee.name in self.kernels:
                kernel = self.kernels[op.callee.name]
                types = [value.type for value in op.results]
                tensors = self.builder.kernel_call(TARGET, placeholder(kernel), operands, types, kernel.aliases)
            elif isinstance(op, CallOp):
                callee = self.module.functions[op.callee.name]
                extra = [weights[name] for name in _weights(self.module, callee, {})]
                tensors = self.builder.call(callee.name, [*operands, *extra], [v.type for v in op.results])
            else:
                tensors = self.lower(op, operands)
            values.update(zip(op.results, tensors, strict=True))
        self.builder.loc = Loc(self.function.name)
        returned = [values[value] for value in results]
        self.builder.ret(returned)
        return returned

    def lower(self, op: Op, operands: list[Tensor]) -> list[Tensor]:
        rule = RULES.get(type(op))
        if rule is None:
            raise G4cError("G4C-L005", f"{op.mnemonic} has no lowering to StableHLO", where=str(op.loc) or None)
        made = rule(self.builder, op, operands)
        tensors = list(made) if isinstance(made, tuple) else [made]
        types, wanted = [tensor.type for tensor in tensors], [value.type for value in op.results]
        assert types == wanted, f"{op.mnemonic}: the rule made {types}, not {wanted}"
        return tensors


def _inner_function(
    module: Module, function: Function, locations: Locations, kernels: Mapping[str, KernelArtifact]
) -> list[str]:
    emitted = _Function(module, function, locations, kernels)
    weights = _weights(module, function, {})
    types = [*(param.type for param in function.params), *(module.weights[name].type for name in weights)]
    tensors = [Tensor(f"%arg{k}", type) for k, type in enumerate(types)]
    count = len(function.params)
    values: dict[Value, Tensor] = dict(zip(function.params, tensors[:count], strict=True))
    symbols = dict(zip(weights, tensors[count:], strict=True))
    results = emitted.body(values, symbols, [result.value for result in function.results])
    paths = [*(param.name for param in function.params), *weights]
    return _wrap(f'private @"{function.name}"', tensors, paths, results, emitted.lines)


def _wrap(head: str, parameters: list[Tensor], paths: list[str], results: list[Tensor], body: list[str]) -> list[str]:
    signature = ", ".join(
        f'{tensor.name}: {tensor.type} loc("{path}")' for tensor, path in zip(parameters, paths, strict=True)
    )
    types = ", ".join(str(tensor.type) for tensor in results)
    return [f"  func.func {head}({signature}) -> ({types}) {{", *body, "  }"]
