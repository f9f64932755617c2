"""inline-layers: the inverse of specialize-layers."""

from __future__ import annotations

from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Loc, Op, Value
from g4c.ir.ops import CallOp
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import remove_uncalled_functions
from g4c.passes.layer_paths import to_layer


@dataclass(frozen=True)
class InlineLayers(Pass):
    """Replace every call of a layer by the ops of its callee, under the module path of the call.

    For targets that take no calls: shipped Neuron stacks emit none. Calls of kernels stay.

    before:  %1:3 = "g4.call"(%0, ..., %w) {callee = @decode.sliding_own} ... loc("model.layers.3")
             func.func @decode.sliding_own(%hidden, ..., %mlp.down_proj.weight) {
               %1 = "g4.linear"(%0, %mlp.down_proj.weight) ... loc("model.layers.*.mlp.down_proj")
    after:   %1 = "g4.linear"(%0, %w) ... loc("model.layers.3.mlp.down_proj")
    """

    name = "inline-layers"
    runs_after = ("specialize-layers", "eliminate-shared-kv")
    level_before = None

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        calls = sum(inline_calls(module, program) for program in module.programs)
        functions = remove_uncalled_functions(module) if calls else 0
        return PassResult(calls > 0, {"calls": calls, "functions": functions})


def inline_calls(module: Module, function: Function) -> int:
    """Replace the calls of layers in `function`, and those that this brings in; returns how many."""
    mapping: dict[Value, Value] = {}
    ops: list[Op] = []
    calls = 0
    todo = function.ops[::-1]
    while todo:
        op = todo.pop()
        op.replace_operands(mapping)
        callee = module.functions[op.callee.name] if isinstance(op, CallOp) else None
        if not isinstance(op, CallOp) or callee is None or callee.role == "kernel":
            ops.append(op)
            continue
        calls += 1
        inner: dict[Value, Value] = dict(zip(callee.params, op.args, strict=True))
        body = []
        for original in callee.ops:
            new = original.copy(inner, _placed(original.loc, op.loc))
            inner.update(zip(original.results, new.results, strict=True))
            body.append(new)
        todo += body[::-1]
        mapping.update((old, inner[result.value]) for old, result in zip(op.results, callee.results, strict=True))
    function.ops = ops
    function.replace_uses(mapping)
    return calls


def _placed(loc: Loc, call: Loc) -> Loc:
    return to_layer(loc, call.path) if call.path else loc
