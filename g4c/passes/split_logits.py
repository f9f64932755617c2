"""split-logits: programs that return their best tokens and log-probabilities instead of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Value
from g4c.ir.ops import (
    ConvertOp,
    EmbeddingOp,
    ExpOp,
    LinearOp,
    LogOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    SoftcapOp,
    SubOp,
    TopKOp,
)
from g4c.ir.types import DType, TensorType
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.weight_uses import loaded_weight

TOKENS, LOGPROBS = "tokens", "logprobs"


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
        top = tokens.owner
        if not isinstance(top, TopKOp) or tokens is not top.results[1]:
            return False
        if logprobs.type != tokens.type.with_dtype(DType.F32):
            return False
        if top.k != self.k:
            message = f"returns {top.k} candidates already, k = {self.k} are asked for"
            raise G4cError("G4C-P092", message, where=program.name)
        return True

    def _split(self, program: Function, logits: Result) -> None:
        value = logits.value
        if not 1 <= self.k <= value.shape[-1]:
            message = f"k = {self.k} is not within 1 to {value.shape[-1]}, the vocabulary"
            raise G4cError("G4C-P091", message, where=program.name)
        tokens, logprobs = _candidates(program, value, self.k)
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


def _widened(build: Builder, x: Value) -> Value:
    return x if x.dtype == DType.F32 else build.emit(ConvertOp(x, x.type.with_dtype(DType.F32)))


def _factors(n: int) -> tuple[int, int]:
    """(a, b) with a * b == n, a the largest divisor of n up to its root."""
    a = next(a for a in range(math.isqrt(n), 0, -1) if n % a == 0)
    return a, n // a
