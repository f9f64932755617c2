"""Weights that kernels take as [k, n], transposed offline.

In: stored weights [n, k], as values of functions that a kernel reads. Out: the same values with their axes swapped,
everywhere. Invariant: a weight is transposed in all programs or in none; whatever else reads it does so through a
g4.transpose, and only linear ops do: elsewhere it would have to be transposed at run time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from g4c.ir.module import Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import LinearOp, LoadWeightOp, TransposeOp
from g4c.ir.weights import Transpose
from g4c.passes.call_sites import CallSites

SWAP = (1, 0)


@dataclass(frozen=True)
class Connected:
    """Weights that are transposed together, and every value that is one of them."""

    weights: tuple[str, ...]
    values: tuple[Value, ...]


def connected(sites: CallSites, value: Value, kernel_ops: Collection[Op]) -> Connected | None:
    """What must be transposed with `value`: what a layer function is given in its place, at all calls, and so on.

    None where that is more than weights, or where something but `kernel_ops` and linear ops reads it.
    """
    weights: dict[str, None] = {}
    values: dict[Value, None] = {}
    todo = [value]
    while todo:
        value = todo.pop()
        if value in values:
            continue
        names = sites.weights(value)
        if names is None or value.type.rank != 2 or sites.results(value):
            return None
        uses = sites.users(value)
        if not all(use.op in kernel_ops or (isinstance(use.op, LinearOp) and use.name == "w") for use in uses):
            return None
        values[value] = None
        weights.update(dict.fromkeys(names))
        for name in names:
            for load in sites.loads(name):
                todo += sites.aliases(load)
    return Connected(tuple(weights), tuple(values))


def transpose_weights(module: Module, sites: CallSites, groups: Iterable[Connected], kernel_ops: Collection[Op]) -> int:
    """Swap the axes of the weights of `groups` and of every value that is one; returns how many weights.

    `kernel_ops` read what they read, without a g4.transpose: their kernels have one of their own.
    """
    weights = dict.fromkeys(name for group in groups for name in group.weights)
    for name in weights:
        module.weights[name] = module.weights[name].then(Transpose(SWAP))
    for value in dict.fromkeys(value for group in groups for value in group.values):
        value.type = value.type.with_shape(value.shape[::-1])
        load = value.owner
        if isinstance(load, LoadWeightOp):
            load.type = value.type
        others = [use.op for use in sites.users(value) if use.op is not None and use.op not in kernel_ops]
        if others:
            back = TransposeOp(value, SWAP, loc=others[0].loc)
            ops = sites.home[value].ops
            ops.insert(0 if load is None else ops.index(load) + 1, back)
            for op in others:
                op.replace_operands({value: back.result})
    return len(weights)
