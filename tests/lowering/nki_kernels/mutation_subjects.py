"""Kernels that the mutation tests break: source, arguments, and how far results are from double precision.

In: a name. Out: a `Subject`. Invariant: `error` of its own source is at most `bound`; a larger one is a wrong result.
References are those of the kernels' own tests: formulas in double precision, torch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import decode_case
import linear_oracle
import numpy as np
import prefill_case
from attention_reference import relative_error

from g4c.ir.types import DType
from g4c.lowering.nki.attention import decode, prefill
from g4c.lowering.nki.attention.decode import DecodeProblem
from g4c.lowering.nki.attention.decode import Segment as DecodeSegment
from g4c.lowering.nki.attention.prefill import PrefillProblem, Segment
from g4c.lowering.nki.linear import lm_head, projection, residual
from g4c.lowering.nki.simulator.source import load

Array = np.ndarray
F32 = 2e-6  # relative error of sums in f32, as in the kernels' own tests
BF16 = 5e-3
STEEP = 2e-5  # scores of 150 have an absolute error of 1e-5 in f32, and so have the logarithms of their exponentials


@dataclass(frozen=True)
class Subject:
    """A kernel with its arguments, new ones for every run, and the expected results in double precision.

    The last `exact` results are compared for equality.
    """

    entry: str
    source: str
    arguments: Callable[[], list[object]]
    expected: tuple[Array, ...]
    bound: float
    exact: int = 0
    target: str = "trn2"
    cores: int = 1

    def error(self, source: str) -> float:
        """The largest relative error of the results of `source`; infinite where exact ones differ. Refusals pass on."""
        kernel = load(source, self.entry).specialize(self.target)
        results = (kernel[2] if self.cores == 2 else kernel)(*self.arguments())
        results = results if isinstance(results, tuple) else (results,)
        assert len(results) == len(self.expected)
        inexact = len(results) - self.exact
        errors = [relative_error(r, e) for r, e in zip(results[:inexact], self.expected, strict=False)]
        for found, wanted in zip(results[inexact:], self.expected[inexact:], strict=True):
            errors.append(0.0 if np.array_equal(found, wanted) else np.inf)
        return float(np.max([np.inf if np.isnan(error) else error for error in errors]))


def normal(*shape: int, seed: int = 0, dtype: object = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)  # type: ignore[call-overload]


def _sample(entry: str, arguments: tuple[object, ...], expected: Array, bound: float = F32) -> Subject:
    text = (Path(__file__).parent / "sample_kernels.py").read_text()
    return Subject(entry, text, lambda: list(arguments), (expected,), bound)


def matmul() -> Subject:
    a, b = normal(300, 200), normal(300, 700, seed=1)
    return _sample("matmul", (a, b), a.astype(np.float64).T @ b)


def rms_norm() -> Subject:
    x, gain = normal(150, 256), normal(256, seed=1)
    wide = x.astype(np.float64)
    return _sample("rms_norm", (x, gain, 1e-3), wide / np.sqrt(np.square(wide).mean(1, keepdims=True) + 1e-3) * gain)


def flash() -> Subject:
    q, k, v = (normal(640, 256, seed=n) for n in range(3))
    scores = q.astype(np.float64) @ k.T / 16
    scores[np.triu_indices(640, 1)] = -np.inf
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return _sample("flash_attention", (q, k, v, 1 / 16), weights / weights.sum(1, keepdims=True) @ v)


def _prefill(case: prefill_case.Case, **changes: int) -> Subject:
    schedule = dataclasses.replace(prefill.schedules(case.problem, 3)[0], **changes)
    artifact = prefill.emit(case.problem, schedule, 3)
    values = list(case.operands.values())
    bound = F32 if case.problem.dtype is DType.F32 else BF16
    return Subject(artifact.name, artifact.source, lambda: [v.copy() for v in values], (case.reference(),), bound)


def window() -> Subject:
    """Prefill of 300 rows, 10 of them padding, over a past of 256 in a window of 160: 4 heads over 2."""
    problem = PrefillProblem(
        1, 300, 4, 2, 256, (Segment("past", 256), Segment("chunk", 300)), window=160, dtype=DType.F32
    )
    return _prefill(prefill_case.make(problem, [(200, 290)]))


def online() -> Subject:
    """Prefill of 1100 rows, d 512, in blocks of 512 keys: maxima and sums are carried over; 2 heads over 1."""
    problem = PrefillProblem(1, 1100, 2, 1, 512, (Segment("chunk", 1100),), dtype=DType.F32, scale=0.5)
    return _prefill(prefill_case.make(problem, [(0, 1100)]), banks=1)


def step() -> Subject:
    """Decode of 2 rows for 2 sequences, with a ring of 300 slots that the kernel updates; 4 heads over 2."""
    segments = (DecodeSegment("past", 300), DecodeSegment("chunk", 2))
    problem = DecodeProblem(2, 2, 4, 2, 256, segments, window=300, dtype=DType.F32, update=True, scale=0.5)
    case = decode_case.make(problem, [(320, 2), (100, 1)])
    artifact = decode.emit(problem, decode.schedules(problem, 3)[0], 3)
    return Subject(
        artifact.name,
        artifact.source,
        lambda: [case.operands[name].copy() for name, _ in artifact.inputs],
        (case.reference(), case.updated("keys"), case.updated("values")),
        F32,
        exact=2,
    )


def steep() -> Subject:
    """Prefill of 600 rows with scores of up to 150."""
    problem = PrefillProblem(1, 600, 2, 1, 256, (Segment("chunk", 600),), dtype=DType.F32)
    made = _prefill(prefill_case.make(problem, [(0, 600)], spread=40.0), banks=1)
    return dataclasses.replace(made, bound=STEEP)


def steep_step() -> Subject:
    """Decode of 2 rows for 2 sequences with scores of up to 150."""
    problem = DecodeProblem(2, 2, 4, 2, 256, (DecodeSegment("past", 300), DecodeSegment("chunk", 2)), dtype=DType.F32)
    case = decode_case.make(problem, [(280, 2), (100, 1)], spread=40.0)
    artifact = decode.emit(problem, decode.schedules(problem, 3)[0], 3)
    arguments = [case.operands[name] for name, _ in artifact.inputs]
    return Subject(artifact.name, artifact.source, lambda: list(arguments), (case.reference(),), STEEP)


def _linear(module: object, problem: object, by_torch: Callable[..., object], bound: float = F32) -> Subject:
    artifact = module.emit(problem, module.schedules(problem, 3)[0], 3)  # type: ignore[attr-defined]
    expected = by_torch(problem, artifact.inputs).numpy()  # type: ignore[attr-defined]
    widths = [kind.shape[-1] for _, kind in artifact.outputs]
    parts = tuple(np.split(expected, np.cumsum(widths)[:-1], axis=-1))
    arguments = [linear_oracle.operand(*entry) for entry in artifact.inputs]
    return Subject(artifact.name, artifact.source, lambda: list(arguments), parts, bound)


def layer() -> Subject:
    """The residual stream of 3 rows: O projection, MLP, per-layer gate and scalar."""
    problem = residual.ResidualProblem((3,), 384, DType.F32, 1e-6, 200, 330, 130, True)
    return _linear(residual, problem, linear_oracle.residual_by_torch)


def qkv() -> Subject:
    """Norm and projection of 3 rows to q, k and v."""
    problem = projection.ProjectionProblem((3,), 300, (520, 130, 130), DType.F32, 1e-6)
    return _linear(projection, problem, linear_oracle.projection_by_torch)


def shared() -> Subject:
    """Prefill of 300 rows on two cores: each does one KV head."""
    problem = PrefillProblem(1, 300, 4, 2, 256, (Segment("chunk", 300),), dtype=DType.F32)
    schedule = next(s for s in prefill.schedules(problem, 3, 2) if s.cores == 2)
    case, artifact = prefill_case.make(problem, [(0, 300)]), prefill.emit(problem, schedule, 3)
    values = list(case.operands.values())
    return Subject(artifact.name, artifact.source, lambda: list(values), (case.reference(),), F32, cores=2)


def halves() -> Subject:
    """Norm and projection of 3 rows on two cores: each does half of the columns."""
    problem = projection.ProjectionProblem((3,), 300, (520, 130, 130), DType.F32, 1e-6)
    schedule = next(s for s in projection.schedules(problem, 3, 2) if s.cores == 2)
    artifact = projection.emit(problem, schedule, 3)
    return dataclasses.replace(qkv(), entry=artifact.name, source=artifact.source, cores=2)


def head() -> Subject:
    """Norm, projection and soft cap of 3 rows."""
    problem = lm_head.HeadProblem((3,), 300, 1100, DType.F32, cap=3.0, epsilon=1e-6)
    return _linear(lm_head, problem, linear_oracle.head_by_torch)


@functools.cache
def subject(name: str) -> Subject:
    """One of the functions above, made once."""
    made: Subject = globals()[name]()
    return made


SUBJECTS = ("matmul", "rms_norm", "flash", "window", "online", "step", "steep", "steep_step", "layer", "qkv", "head")
PAIRS = ("shared", "halves")  # kernels of two cores
