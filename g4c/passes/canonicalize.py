"""canonicalize: the driver that applies the rules of `canonical_rules` until none applies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.passes.canonical_rules import RULES, Rule
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import remove_newly_dead_ops, used_values


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Bring ops into their simplest equal form: cancel inverse moves, drop identities, fold constant scalars.

    Every rule is exact, bit for bit (zeros may change their sign). Ops that the rules leave without a use go; ops that
    had none before stay, so that the passes that prove things about dead code still see it. At most `iterations`
    rounds.

    before:  %0 = "g4.transpose"(%x) {permutation = array<i64: 0, 2, 1, 3>} ...
             %1 = "g4.transpose"(%0) {permutation = array<i64: 0, 2, 1, 3>} ...
             %2 = "g4.constant"() {value = dense<1.0> : tensor<f32>} ...
             %3 = "g4.mul"(%2, %1) ...
             return %3
    after:   return %x
    """

    name = "canonicalize"
    level_before = None

    iterations: int = 10

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        fired: Counter[str] = Counter()
        for function in module.functions.values():
            for _ in range(self.iterations):
                applied = rewrite(function)
                fired += applied
                if not applied:
                    break
        return PassResult(bool(fired), dict(sorted(fired.items())))


def rewrite(function: Function) -> Counter[str]:
    """One sweep over `function`; returns how often each rule applied."""
    fired: Counter[str] = Counter()
    used = used_values(function)
    spared: set[Value] = set()  # stands for something that was dead before, and stays dead as that did
    mapping: dict[Value, Value] = {}
    ops: list[Op] = []
    for op in function.ops:
        op.replace_operands(mapping)
        rule, outcome = _apply(op)
        if rule is None or outcome is None:
            ops.append(op)
            continue
        fired[rule.name] += 1
        new = () if isinstance(outcome, Value) else outcome
        value = outcome if isinstance(outcome, Value) else outcome[-1].result
        assert value.type == op.result.type, (rule.name, op, value)
        ops.extend(new)
        mapping[op.result] = value
        if op.result not in used or op.result in spared:
            spared.add(value)
        else:
            used.update(result for replacement in new for result in replacement.results)
            used.add(value)
        used.update(operand for replacement in new for operand in replacement.operands)
    for result in function.results:
        result.value = mapping.get(result.value, result.value)
    function.ops = ops
    remove_newly_dead_ops(function, used, spared)
    return fired


def _apply(op: Op) -> tuple[Rule | None, Value | tuple[Op, ...] | None]:
    for rule in RULES:
        if isinstance(op, rule.kinds):
            outcome = rule.apply(op)
            if outcome is not None:
                return rule, outcome
    return None, None
