"""Does a pass keep the numbers? Runs programs on the reference interpreter before and after, on the same random data.

In: modules. Out: nothing, or G4C-P012 with the first result that differs. Data is drawn per name from the name itself,
so that a module and its rewritten form see the same weights and inputs whatever order or number they have. Programs
with caches run several times in a row, from empty caches: what a cache looks like is a pass's own business, what comes
out is not.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from g4c.errors import G4cError
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module
from g4c.ir.op import Value
from g4c.ir.ops import CallOp, EmbeddingOp, GatherOp, HeldPositionsOp, KvUpdateOp, SelectRowsOp
from g4c.ir.types import Array, DType
from g4c.ir.weights import Source

LIMIT_BYTES = 1 << 30
TOLERANCE = {DType.F32: 1e-5, DType.BF16: 2e-2, DType.F16: 2e-3}


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def sample_weight(source: Source, seed: int = 0) -> Array:
    """Random data: matrices keep variance, vectors are in [0.05, 0.2], scalars in [0.2, 0.9].

    Vectors are mostly the weights of norms. With larger ones softmax is all but a choice, and 35 layers of choices make
    of one rounding another model.
    """
    random, shape = _generator(source.key, seed), source.type.shape
    if source.type.rank >= 2:
        data = random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))
    else:
        low, high = (0.05, 0.2) if source.type.size > 1 else (0.2, 0.9)
        data = random.uniform(low, high, shape).astype(np.float32)
    return data.astype(source.type.dtype.numpy)


def sample_weights(module: Module, seed: int = 0) -> dict[str, Array]:
    """Data for every weight of the module, its transforms replayed on random sources."""
    return {
        weight.name: weight.materialize(lambda source: sample_weight(source, seed))
        for weight in module.weights.values()
    }


def sample_inputs(module: Module, function: str, seed: int = 0, *, position: int | None = None) -> dict[str, Array]:
    """Random arguments by parameter name. Integers are valid where they are used: ids in tables, rows in sequences.

    Positions count up from `position`; by default from 0, or, where one token meets a longer cache, from the middle of
    the cache.
    """
    target = module.functions[function]
    bounds = integer_bounds(module, target)
    inputs: dict[str, Array] = {}
    for param in target.params:
        random = _generator(param.cache or param.name, seed)
        if param.dtype != DType.S32:
            inputs[param.name] = random.standard_normal(param.shape, dtype=np.float32).astype(param.dtype.numpy)
            continue
        kind, bound = bounds.get(param, ("index", 1))
        if kind == "position":
            length = param.shape[-1]
            start = position if position is not None else (bound // 2 if length == 1 else 0)
            data = np.broadcast_to(np.arange(start, start + length), param.shape)
        else:
            data = random.integers(0, bound, param.shape)
        inputs[param.name] = np.asarray(data.astype(np.int32))
    return inputs


def integer_bounds(module: Module, function: Function) -> dict[Value, tuple[str, int]]:
    """For integer values what they index ("position" or "index") and the smallest extent they index."""
    bounds: dict[Value, tuple[str, int]] = {}

    def enter(value: Value, kind: str, bound: int) -> None:
        known = bounds.get(value, (kind, bound))
        bounds[value] = ("position" if "position" in (kind, known[0]) else kind, min(bound, known[1]))

    for op in function.ops:
        if isinstance(op, EmbeddingOp):
            enter(op.ids, "index", op.table.shape[0])
        elif isinstance(op, GatherOp):
            enter(op.indices, "index", op.table.shape[0])
        elif isinstance(op, SelectRowsOp):
            enter(op.rows, "index", op.x.shape[1])
        elif isinstance(op, KvUpdateOp):
            enter(op.positions, "position", _context(module, op.cache.shape[1]))
        elif isinstance(op, HeldPositionsOp):
            enter(op.positions, "position", _context(module, op.slots))
        elif isinstance(op, CallOp):
            callee = module.functions[op.callee.name]
            inner = integer_bounds(module, callee)
            for param, argument in zip(callee.params, op.args, strict=True):
                if param in inner:
                    enter(argument, *inner[param])
    return bounds


def _context(module: Module, slots: int) -> int:
    """How many positions there are: what the module says, or as many as its longest cache holds. A ring wraps."""
    declared = module.attributes.get("max_context")
    return declared if isinstance(declared, int) else max([slots, *(c.type.shape[1] for c in module.caches.values())])


def _history(module: Module, program: Function, seed: int) -> list[dict[str, Array]]:
    """Inputs of a few executions in a row: two chunks of a prompt, the second one padded; three tokens; or just one."""
    first = sample_inputs(module, program.name, seed)
    bounds = integer_bounds(module, program)
    positions = [p for p in program.params if bounds.get(p, ("", 0))[0] == "position"]
    if not positions or not any(p.cache for p in program.params):
        return [first]
    length, bound = positions[0].shape[-1], min(bounds[p][1] for p in positions)
    starts = range(0, min(3 if length == 1 else 2 * length, bound - length + 1), length)
    history = []
    for start in starts:
        given = sample_inputs(module, program.name, seed + start, position=start)
        valid = length if start == 0 else length - length // 3
        for param in program.params:
            if param in positions:
                given[param.name][..., valid:] = -1
            elif bounds.get(param, ("", 0)) == ("index", length):
                given[param.name] %= valid
        history.append(given)
    return history


def difference(found: Array, wanted: Array) -> float:
    """Largest difference relative to the largest magnitude wanted; not-a-number must meet not-a-number."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


def _unordered(cache: Array) -> Array:
    """A cache with the dims of each head sorted: in which order a pass keeps them is its own business, too."""
    return np.sort(cache.astype(np.float32), axis=-1)


class NumericsCheck:
    """Holds the results of every program of a module; `compare` runs the module as it is now and compares."""

    def __init__(self, module: Module, seed: int = 0) -> None:
        size = sum(weight.type.nbytes for weight in module.weights.values())
        if size > LIMIT_BYTES:
            raise G4cError(
                "G4C-P013",
                f"the weights take {size / 2**30:.1f} GiB, numbers are checked up to {LIMIT_BYTES / 2**30:.0f} GiB",
                help="use a tiny variant",
            )
        self.seed = seed
        self.history = {program.name: _history(module, program, seed) for program in module.programs}
        self.wanted = {name: self.run(module, name) for name in self.history}

    def run(self, module: Module, program: str) -> dict[str, Array]:
        """All results of the executions of `program`: those of the k-th as "name@k", the first and caches plainly."""
        params = module.functions[program].params
        caches = {p.name: np.zeros(p.shape, p.dtype.numpy) for p in params if p.cache is not None}
        weights: Mapping[str, Array] = sample_weights(module, self.seed)
        found: dict[str, Array] = {}
        for step, given in enumerate(self.history[program]):
            inputs = {p.name: caches[p.name] if p.cache is not None else given[p.name] for p in params}
            results = interpret(module, program, inputs, weights)
            for result in module.functions[program].results:
                if result.cache is None:
                    found[f"{result.name}@{step}" if step else result.name] = results[result.name]
                else:
                    caches |= {p.name: results[result.name] for p in params if p.cache == result.cache}
                    found[result.name] = results[result.name]
        return found

    def compare(self, module: Module, step: str) -> None:
        """G4C-P012 where a result that both forms have differs; the next pass is measured against the new form."""
        for program, wanted in self.wanted.items():
            found = self.run(module, program)
            for name in [name for name in wanted if name in found and found[name].shape == wanted[name].shape]:
                limit = TOLERANCE.get(DType.of(found[name].dtype), 0.0)
                off = difference(found[name], wanted[name])
                if off > limit and name in module.caches:
                    off = difference(_unordered(found[name]), _unordered(wanted[name]))
                if off > limit:
                    message = (
                        f"{step} changed {program}'s result {name} by {off:.2e} of its size (tolerance {limit:.0e})"
                    )
                    raise G4cError("G4C-P012", message, where=program)
            self.wanted[program] = found
