"""How much memory the activations of a program need: bytes alive at once, at the worst moment.

In: a module and a program of it. Out: bytes. Invariant: weights, constants and caches do not count (caches are updated
in place); a reshape, a broadcast or a split into tiles is the same memory; during an op its operands and results are
alive; a program's inputs are alive until its end, results from where they are computed. Cutting a program into layer
functions changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from g4c.estimate.sharding import head_share
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import BroadcastOp, CallOp, ConstantOp, KvUpdateOp, LoadWeightOp, ReshapeOp, SplitTilesOp


def peak_activation_bytes(module: Module, program: Function, tp: int = 1) -> int:
    """The most bytes of activations that are alive at once in one execution of `program`, calls included.

    With tp > 1 those of one core: attention's [b, s, heads, d] are split by heads, all else is held in full.
    """
    inputs = sum(param.type.nbytes for param in program.params if param.cache is None)
    static: set[Value] = {param for param in program.params if param.cache is not None}
    return inputs + _Memory(module, program, static, tp).peak()


class _Memory:
    """Which values of a function take memory beyond its parameters', how much, and after which op they die.

    `static`: parameters that are weights or caches.
    """

    def __init__(self, module: Module, function: Function, static: set[Value], tp: int) -> None:
        self.module = module
        self.tp = tp
        self.function = function
        self.static = set(static)
        self.roots: dict[Value, Value] = {}
        self.sizes: dict[Value, int] = {}
        self.inner: dict[Op, _Memory] = {}
        last: dict[Value, int] = {}
        for index, op in enumerate(function.ops):
            self.enter(op)
            for value in (*op.operands, *op.results):
                last[self.root(value)] = index
        kept = {self.root(result.value) for result in function.results}
        self.dying: dict[int, list[Value]] = {}
        for value, index in last.items():
            if value not in kept:
                self.dying.setdefault(index, []).append(value)

    def root(self, value: Value) -> Value:
        """The value whose memory `value` is."""
        return self.roots.get(value, value)

    def enter(self, op: Op) -> None:
        """Give the results of `op` memory: their own, or another value's."""
        if isinstance(op, LoadWeightOp | ConstantOp):
            self.static.update(op.results)
        elif isinstance(op, BroadcastOp | ReshapeOp | SplitTilesOp):
            self.roots |= dict.fromkeys(op.results, self.root(op.x))
        elif isinstance(op, KvUpdateOp) and self.root(op.cache) in self.static:
            self.roots[op.result] = self.root(op.cache)
        elif isinstance(op, CallOp):
            self.enter_call(op)
        else:
            self.sizes.update((value, self.size(op, value)) for value in op.results)

    def size(self, op: Op, value: Value) -> int:
        heads = value.type.rank == 4 and ".self_attn" in op.loc.path
        return int(value.type.nbytes * head_share(value.shape[2], self.tp)) if heads else value.type.nbytes

    def enter_call(self, op: CallOp) -> None:
        callee = self.module.functions[op.callee.name]
        passed = {p: self.root(a) for p, a in zip(callee.params, op.args, strict=True)}
        static: set[Value] = {param for param, root in passed.items() if root in self.static}
        inner = self.inner[op] = _Memory(self.module, callee, static, self.tp)
        for value, result in zip(op.results, callee.results, strict=True):
            root = inner.root(result.value)
            if root in passed:
                self.roots[value] = passed[root]
            else:
                self.sizes[value] = value.type.nbytes

    def peak(self, donated: Collection[Value] = ()) -> int:
        """Bytes at the worst moment, without the function's parameters but for those that its caller needs no more."""
        sizes = self.sizes | {param: param.type.nbytes for param in donated}
        alive = peak = sum(param.type.nbytes for param in donated)
        for index, op in enumerate(self.function.ops):
            born = sum(sizes.get(value, 0) for value in op.results)
            freed = sum(sizes.get(value, 0) for value in self.dying.get(index, ()))
            peak = max(peak, alive + born)
            if isinstance(op, CallOp):
                given = self.given(op, [value for value in self.dying.get(index, ()) if value in sizes])
                rest = alive - sum(param.type.nbytes for param in given)
                peak = max(peak, rest + self.inner[op].peak(given))
            alive += born - freed
        return peak

    def given(self, call: CallOp, dying: list[Value]) -> list[Value]:
        """The callee's parameters whose memory nobody else uses from here on."""
        params = self.inner[call].function.params
        roots = [self.root(argument) for argument in call.args]
        return [p for p, root in zip(params, roots, strict=True) if root in dying and roots.count(root) == 1]
