"""The reference interpreter: runs any function of a module on numpy arrays, op by op.

In: a module, a function's name, arrays for its inputs and caches, data for its weights. Out: arrays for its results.
Invariant: an op's `reference` is its only meaning here; values are dropped after their last use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from g4c.errors import G4cError
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops.structure import CallOp, LoadWeightOp
from g4c.ir.types import Array, TensorType

Observer = Callable[[str, Op, tuple[Array, ...]], None]


def interpret(
    module: Module,
    function: str,
    inputs: Mapping[str, Array],
    weights: Mapping[str, Array],
    *,
    observe: Observer | None = None,
) -> dict[str, Array]:
    """Run `function`. `inputs` by parameter name (caches included), `weights` by symbol; returns results by name.

    Arrays must have exactly the declared shape and dtype, and nothing may be missing (G4C-V020); weights with a
    constant value need no entry. `observe(function, op, results)` is called after every op. KeyError where no function
    has that name.
    """
    target = module.functions[function]
    arguments = []
    for param in target.params:
        if param.name not in inputs:
            raise G4cError("G4C-V020", f"no input for parameter {param.name} ({param.type})", where=function)
        arguments.append(_checked(param.name, inputs[param.name], param.type))
    outputs = _run(module, target, arguments, weights, observe)
    return {result.name: array for result, array in zip(target.results, outputs, strict=True)}


def _run(
    module: Module,
    function: Function,
    arguments: list[Array],
    weights: Mapping[str, Array],
    observe: Observer | None,
) -> list[Array]:
    last = {value: index for index, op in enumerate(function.ops) for value in op.operands}
    kept = {result.value for result in function.results}
    values: dict[Value, Array] = dict(zip(function.params, arguments, strict=True))
    for index, op in enumerate(function.ops):
        operands = [values[value] for value in op.operands]
        results = _execute(module, op, operands, weights, observe)
        for value, array in zip(op.results, results, strict=True):
            assert array.shape == value.shape, (op, array.shape)
            assert array.dtype == value.dtype.numpy, (op, array.dtype)
            values[value] = array
        if observe is not None:
            observe(function.name, op, results)
        for value in (*op.operands, *op.results):
            if last.get(value, -1) <= index and value not in kept:
                values.pop(value, None)
    return [values[result.value] for result in function.results]


def _execute(
    module: Module, op: Op, operands: list[Array], weights: Mapping[str, Array], observe: Observer | None
) -> tuple[Array, ...]:
    if isinstance(op, CallOp):
        return tuple(_run(module, module.functions[op.callee.name], operands, weights, observe))
    if isinstance(op, LoadWeightOp):
        weight = module.weights[op.weight.name]
        if weight.name in weights:
            return (_checked(weight.name, weights[weight.name], weight.type),)
        if weight.value is None:
            raise G4cError("G4C-V020", f"no data for weight {weight.name} ({weight.type})")
        return (weight.materialize(_unavailable),)
    outcome = op.reference(*operands)
    return tuple(map(np.asarray, outcome)) if isinstance(outcome, tuple) else (np.asarray(outcome),)


def _unavailable(source: object) -> Array:
    raise AssertionError(f"constant weights have no sources: {source}")


def _checked(name: str, array: Array, type: TensorType) -> Array:
    found = f"{list(array.shape)} {array.dtype}"
    if array.shape != type.shape or array.dtype != type.dtype.numpy:
        raise G4cError("G4C-V020", f"{name} must be {type}, got {found}")
    return array
