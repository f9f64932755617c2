"""split-logits: programs that return their best tokens and log-probabilities instead of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from g4c.errors import G4cError
from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Dense, Value
from g4c.ir.ops import (
    AddOp,
    ConstantOp,
    ConvertOp,
    EmbeddingOp,
    ExpOp,
    LinearOp,
    LogOp,
    MulOp,
    ReduceOp,
    ReshapeOp,
    SelectRowsOp,
    SliceOp,
    SoftcapOp,
    SubOp,
    TopKOp,
    TransposeOp,
)
from g4c.ir.types import DType, TensorType
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.weight_uses import loaded_weight

TOKENS, LOGPROBS = "tokens", "logprobs"
BEST = 8  # how many of a tile


@dataclass(frozen=True)
class SplitLogits(Pass):
    """Return the `k` best tokens of each row and their log-probabilities instead of the row's logits.

    tokens s32 [b, r, k], best first, of equal ones the lower id first; logprobs f32 [b, r, k], the values of
    log_softmax(logits) in f32 over the whole vocabulary. Both go by the logits as the model defines them: softcapped
    and rounded to its dtype, so that tokens are those that a host would choose from the logits. The logits are the only
    result of a program that embeds tokens, beside caches: a linear onto the table's vocabulary, softcapped or not.
    Programs that embed no tokens stay as they are.

    The product with the head's weight stays whole. Cut over the vocabulary with a running maximum it would spare
    writing and reading the logits, 0.1 % of the bytes that the weight takes. The exponentials are added in two steps of
    about the root of the vocabulary each, so that a sum of 262,144 terms in f32 costs few roundings.

    `tile`: the best 8 are found of tiles of equal size first, of up to so many tokens, and the exponentials of each are
    added on their own; the k best are found among these. A kernel can do that beside the product, so that no logit
    reaches HBM. Only for k up to 8, and vocabularies that have such tiles: a multiple of 256, or one tile of all.

    before:  %1 = "g4.softcap"(%0) {cap = 30.0 : f64} : (...) -> tensor<1x1x262144xbf16>
             return %1
    after:   %2:2 = "g4.top_k"(%1) {k = 1 : i64} : (...) -> (tensor<1x1x1xbf16>, tensor<1x1x1xi32>)
             %3 = "g4.convert"(%2#0) : (tensor<1x1x1xbf16>) -> tensor<1x1x1xf32>
             %4 = "g4.reshape"(%1) : (tensor<1x1x262144xbf16>) -> tensor<1x512x512xbf16>
             ...
             %8 = "g4.exp"(%7) : (tensor<1x512x512xf32>) -> tensor<1x512x512xf32>
             ...
             %11 = "g4.log"(%10) ...
             %14 = "g4.sub"(%12, %13) : (tensor<1x1x1xf32>, tensor<1x1x1xf32>) -> tensor<1x1x1xf32>
             return %2#1, %14

    Stats: programs, and those that embed no tokens (kept).
    """

    name = "split-logits"

    k: int = 1
    tile: int = 0

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        stats = {"programs": 0, "kept": 0}
        found = 0
        for program in module.programs:
            if not any(True for _ in program.ops_of(EmbeddingOp)):
                stats["kept"] += 1
                continue
            found += 1
            if self._is_split(program):
                continue
            self._split(program, _logits(program))
            stats["programs"] += 1
        if not found:
            raise G4cError("G4C-P090", "no program embeds tokens", where=f"module {module.name}")
        return PassResult(stats["programs"] > 0, stats)

    def _is_split(self, program: Function) -> bool:
        """Whether `program` returns candidates already. G4C-P092 where it returns another number of them."""
        results = [result for result in program.results if result.cache is None]
        if [result.name for result in results] != [TOKENS, LOGPROBS]:
            return False
        tokens, logprobs = (result.value for result in results)
        if tokens.dtype != DType.S32 or logprobs.type != tokens.type.with_dtype(DType.F32):
            return False
        if tokens.shape[-1] != self.k:
            message = f"returns {tokens.shape[-1]} candidates already, k = {self.k} are asked for"
            raise G4cError("G4C-P092", message, where=program.name)
        return True

    def _split(self, program: Function, logits: Result) -> None:
        value = logits.value
        if not 1 <= self.k <= value.shape[-1]:
            message = f"k = {self.k} is not within 1 to {value.shape[-1]}, the vocabulary"
            raise G4cError("G4C-P091", message, where=program.name)
        tile = tile_size(value.shape[-1], self.tile) if self.k <= BEST else 0
        tokens, logprobs = _of_tiles(program, value, self.k, tile) if tile else _candidates(program, value, self.k)
        place = program.results.index(logits)
        program.results[place : place + 1] = [Result(tokens, TOKENS), Result(logprobs, LOGPROBS)]


def _logits(program: Function) -> Result:
    """The result of `program` that is the model's logits. G4C-P090 where it is not known to be."""
    results = [result for result in program.results if result.cache is None]
    if len(results) != 1:
        names = ", ".join(result.name for result in results) or "nothing"
        raise G4cError("G4C-P090", f"returns {names} beside caches, not logits alone", where=program.name)
    value = results[0].value
    owner = value.owner
    head = owner.x.owner if isinstance(owner, SoftcapOp) else owner
    if not isinstance(head, LinearOp) or loaded_weight(head.w) is None or value.type.rank != 3:
        made = owner.mnemonic if owner is not None else "a parameter"
        message = f"the result {results[0].name}, {value.type} of {made}, is not a head's product, softcapped or not"
        raise G4cError("G4C-P090", message, where=program.name)
    vocabularies = {op.table.shape[0] for op in program.ops_of(EmbeddingOp)}
    if value.shape[-1] not in vocabularies:
        sizes = ", ".join(map(str, sorted(vocabularies)))
        message = f"the result {results[0].name} is {value.shape[-1]} wide, the token embedding has {sizes} rows"
        raise G4cError("G4C-P090", message, where=program.name)
    return results[0]


def _candidates(program: Function, logits: Value, k: int) -> tuple[Value, Value]:
    """Ops that give tokens s32 and logprobs f32 [b, r, k] of `logits` [b, r, V].

    logprob = (logit - max) - ln(sum(exp(logits - max))); top_k has found the maximum.
    """
    owner = logits.owner
    assert owner is not None
    build = Builder(program, owner.loc)
    batch, rows, vocabulary = logits.shape
    top = program.append(TopKOp(logits, k, loc=owner.loc))
    best = _widened(build, top.results[0])
    maximum = build.emit(SliceOp(best, (0, 0, 0), (batch, rows, 1)))
    table = build.emit(ReshapeOp(logits, logits.type.with_shape((batch * rows, *_factors(vocabulary)))))
    lowest = build.emit(ReshapeOp(maximum, TensorType((batch * rows, 1, 1), DType.F32)))
    exponentials = build.emit(ExpOp(build.emit(SubOp(_widened(build, table), lowest))))
    total = build.emit(ReduceOp(build.emit(ReduceOp(exponentials, "sum", (1,))), "sum", (1,)))
    normalizer = build.emit(ReshapeOp(build.emit(LogOp(total)), maximum.type))
    logprobs = build.emit(SubOp(build.emit(SubOp(best, maximum)), normalizer))
    return top.results[1], logprobs


def tile_size(vocabulary: int, most: int) -> int:
    """The largest size of up to `most` of equal tiles that a kernel finds the best of; 0: there is none."""
    if BEST <= vocabulary <= most:
        return vocabulary
    return next((size for size in range(most // 256 * 256, 0, -256) if vocabulary % size == 0), 0)


def _of_tiles(program: Function, logits: Value, k: int, size: int) -> tuple[Value, Value]:
    """The same as `_candidates`, by way of the best of every tile of `size`.

    Equal logits come in the order of their tokens: so they do in a tile, and tiles follow each other.
    """
    owner = logits.owner
    assert owner is not None
    build = Builder(program, owner.loc)
    (batch, rows, vocabulary), count = logits.shape, logits.shape[0] * logits.shape[1]
    tiles = vocabulary // size
    table = build.emit(ReshapeOp(logits, logits.type.with_shape((count, tiles, size))))
    table = build.emit(TransposeOp(table, (1, 0, 2)))
    top = program.append(TopKOp(table, BEST, loc=owner.loc))
    values = _widened(build, top.results[0])
    maxima = build.emit(SliceOp(values, (0, 0, 0), (tiles, count, 1)))
    sums = build.emit(ReduceOp(build.emit(ExpOp(build.emit(SubOp(_widened(build, table), maxima)))), "sum", (2,)))
    sums = build.emit(ReshapeOp(sums, maxima.type))

    first = np.arange(0, vocabulary, size).reshape(tiles, 1, 1).astype(DType.S32.numpy)
    tokens = build.emit(AddOp(top.results[1], build.emit(ConstantOp(Dense.of(first)))))
    peaks = build.emit(SliceOp(values, (0, 0, 0), (tiles, count, 1)))  # maxima again: these are a kernel's own
    found = [_rows(build, value) for value in (values, tokens, peaks, sums)]
    best = program.append(TopKOp(found[0], k, loc=owner.loc))
    chosen = build.emit(SelectRowsOp(found[1], best.results[1]))
    maximum = build.emit(SliceOp(best.results[0], (0, 0), (count, 1)))
    shares = build.emit(MulOp(found[3], build.emit(ExpOp(build.emit(SubOp(found[2], maximum))))))
    total = build.emit(ReshapeOp(build.emit(ReduceOp(shares, "sum", (1,))), maximum.type))
    logprobs = build.emit(SubOp(build.emit(SubOp(best.results[0], maximum)), build.emit(LogOp(total))))
    kind = chosen.type.with_shape((batch, rows, k))
    return build.emit(ReshapeOp(chosen, kind)), build.emit(ReshapeOp(logprobs, kind.with_dtype(DType.F32)))


def _rows(build: Builder, x: Value) -> Value:
    """[tiles, n, m] as [n, tiles * m]."""
    tiles, count, each = x.shape
    return build.emit(ReshapeOp(build.emit(TransposeOp(x, (1, 0, 2))), x.type.with_shape((count, tiles * each))))


def _widened(build: Builder, x: Value) -> Value:
    return x if x.dtype == DType.F32 else build.emit(ConvertOp(x, x.type.with_dtype(DType.F32)))


def _factors(n: int) -> tuple[int, int]:
    """(a, b) with a * b == n, a the largest divisor of n up to its root."""
    a = next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)
    return a, n // a
