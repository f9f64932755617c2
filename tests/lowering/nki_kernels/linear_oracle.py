"""What kernels of the linear family compute, twice: as IR ops, and by torch in double precision.

The functions are as outline-kernels makes them: weights [k, n], which the body transposes. The operators of torch are
its own: rms_norm, linear, gelu(approximate="tanh").
"""

from __future__ import annotations

import functools
import zlib

import numpy as np
import torch
from torch.nn import functional as F

from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Value
from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.linear.lm_head import HeadProblem
from g4c.lowering.nki.linear.projection import ProjectionProblem
from g4c.lowering.nki.linear.residual import ResidualProblem
from g4c.lowering.nki.simulator import dtypes, source

TARGETS = {2: "trn1", 3: "trn2", 4: "trn3"}
BF16, F32 = DType.BF16, DType.F32
STREAMS = ("x", "hidden", "attended", "per_layer_input")


@functools.lru_cache(maxsize=32)
def operand(name: str, kind: TensorType) -> np.ndarray:
    """Random: streams of variance 1, gains about 1, weights that do not shrink the variance."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(kind.shape, np.float32)
    if kind.rank == 1:
        values = 1 + values / 8
    elif name not in STREAMS:
        values /= np.float32(min(kind.shape) ** 0.5)
    return values.astype(kind.dtype.numpy)


@functools.lru_cache(maxsize=32)
def double(name: str, kind: TensorType) -> torch.Tensor:
    return torch.from_numpy(operand(name, kind).astype(np.float64))


def run(artifact, generation: int) -> tuple[np.ndarray, ...]:
    """What the generated kernel gives under the rules of a generation, on as many cores as share its work."""
    kernel = source.load(artifact.source, artifact.name).specialize(TARGETS[generation])
    results = (kernel if artifact.cores == 1 else kernel[artifact.cores])(
        *(operand(*entry) for entry in artifact.inputs)
    )
    return results if isinstance(results, tuple) else (results,)


def written(artifact: KernelArtifact, generation: int) -> list[int]:
    """Bytes that each program writes to HBM."""
    recorders = profile(artifact, None, f"gen{generation}").recorders
    return [sum(recorder.kinds[kind].cost.hbm_written for kind, _, _ in recorder.rows) for recorder in recorders]


def check_psum_addresses(artifact: KernelArtifact, generation: int) -> None:
    """The documented alignment of addresses in PSUM: nl.tile_size.psum_min_align, 4 bytes."""
    (recorder,) = profile(artifact, None, f"gen{generation}").recorders
    views = [view for tile in recorder.tiles if tile.memory == "psum" for view in tile.views]
    assert views
    for offset, _, _, dtype, *_ in views:
        assert offset * dtypes.ITEMSIZE[dtype] % 4 == 0


def check_halves(artifact: KernelArtifact, generation: int) -> None:
    """Two programs write every byte of the results between them (a run refuses outputs with gaps), and none twice."""
    total = sum(kind.nbytes for _, kind in artifact.outputs)
    assert artifact.cores == 2
    assert written(artifact, generation) == [total // 2, total // 2]


def relative_error(found: np.ndarray, expected: torch.Tensor) -> float:
    wanted = expected.numpy()
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def references(function: Function) -> tuple[np.ndarray, ...]:
    """The results of the ops' references, one after the other."""
    module = Module("m")
    module.functions[function.name] = function
    found = interpret(module, function.name, {p.name: operand(p.name, p.type) for p in function.params}, {})
    return tuple(found[result.name] for result in function.results)


class _Body:
    """A kernel function under construction."""

    def __init__(self, inputs: tuple[tuple[str, TensorType], ...]) -> None:
        self.function = Function("kernel", "program")
        self.given = {name: self.function.add_param(name, kind) for name, kind in inputs}

    def __getitem__(self, name: str) -> Value:
        return self.given[name]

    def linear(self, x: Value, weight: str) -> Value:
        transposed = self.function.append(ops.TransposeOp(self[weight], (1, 0))).result
        return self.function.append(ops.LinearOp(x, transposed)).result

    def norm(self, x: Value, gain: str, epsilon: float) -> Value:
        """Without a weight where there is no such operand."""
        return self.function.append(ops.RmsNormOp(x, self.given.get(gain), epsilon)).result

    def add(self, op: ops.ElementwiseOp) -> Value:
        return self.function.append(op).result

    def columns(self, x: Value, start: int, limit: int) -> Value:
        starts = (*(0 for _ in x.shape[:-1]), start)
        return self.function.append(ops.SliceOp(x, starts, (*x.shape[:-1], limit))).result

    def give(self, **results: Value) -> Function:
        self.function.results = [Result(value, name) for name, value in results.items()]
        return self.function


def projection_function(problem: ProjectionProblem, inputs: tuple[tuple[str, TensorType], ...]) -> Function:
    body = _Body(inputs)
    x = body["x"] if problem.epsilon is None else body.norm(body["x"], "gain", problem.epsilon)
    y, at, results = body.linear(x, "weight"), 0, {}
    for n, width in enumerate(problem.widths):
        results[f"y{n}"] = body.columns(y, at, at + width)
        at += width
    return body.give(**results)


def projection_by_torch(problem: ProjectionProblem, inputs: tuple[tuple[str, TensorType], ...]) -> torch.Tensor:
    given = {name: double(name, kind) for name, kind in inputs}
    x = given["x"]
    if problem.epsilon is not None:
        x = F.rms_norm(x, (problem.depth,), given.get("gain"), problem.epsilon)
    return F.linear(x, given["weight"].T)


def residual_function(problem: ResidualProblem, inputs: tuple[tuple[str, TensorType], ...]) -> Function:
    body = _Body(inputs)
    hidden = body["hidden"]

    def added(x: Value, weight: str, gain: str) -> Value:
        return body.add(ops.AddOp(hidden, body.norm(body.linear(x, weight), gain, problem.epsilon)))

    if problem.attention:
        hidden = added(body["attended"], "o_proj", "o_gain")
    if problem.mlp:
        both = body.linear(body.norm(hidden, "mlp_gain_in", problem.epsilon), "gate_up")
        gate, up = body.columns(both, 0, problem.mlp), body.columns(both, problem.mlp, 2 * problem.mlp)
        hidden = added(body.add(ops.GatedGeluOp(gate, up)), "down", "mlp_gain")
    if problem.per_layer:
        gated = body.add(ops.GatedGeluOp(body.linear(hidden, "gate"), body["per_layer_input"]))
        hidden = added(gated, "projection", "per_layer_gain")
    return body.give(y=body.add(ops.MulOp(hidden, body["scalar"])) if problem.scaled else hidden)


def residual_by_torch(problem: ResidualProblem, inputs: tuple[tuple[str, TensorType], ...]) -> torch.Tensor:
    given = {name: double(name, kind) for name, kind in inputs}
    hidden = given["hidden"]

    def norm(x: torch.Tensor, gain: str) -> torch.Tensor:
        return F.rms_norm(x, (problem.width,), given.get(gain), problem.epsilon)

    if problem.attention:
        hidden = hidden + norm(F.linear(given["attended"], given["o_proj"].T), "o_gain")
    if problem.mlp:
        gate, up = F.linear(norm(hidden, "mlp_gain_in"), given["gate_up"].T).chunk(2, dim=-1)
        hidden = hidden + norm(F.linear(F.gelu(gate, approximate="tanh") * up, given["down"].T), "mlp_gain")
    if problem.per_layer:
        gated = F.gelu(F.linear(hidden, given["gate"].T), approximate="tanh") * given["per_layer_input"]
        hidden = hidden + norm(F.linear(gated, given["projection"].T), "per_layer_gain")
    return hidden * given["scalar"] if problem.scaled else hidden


def head_function(problem: HeadProblem, inputs: tuple[tuple[str, TensorType], ...]) -> Function:
    body = _Body(inputs)
    x = body["x"] if problem.epsilon is None else body.norm(body["x"], "gain", problem.epsilon)
    product = ops.LinearOp(x, body["weight"]) if problem.stored else None
    logits = body.linear(x, "weight") if product is None else body.function.append(product).result
    return body.give(y=body.add(ops.SoftcapOp(logits, problem.cap)) if problem.cap else logits)


def head_by_torch(problem: HeadProblem, inputs: tuple[tuple[str, TensorType], ...]) -> torch.Tensor:
    given = {name: double(name, kind) for name, kind in inputs}
    x = given["x"]
    if problem.epsilon is not None:
        x = F.rms_norm(x, (problem.depth,), given.get("gain"), problem.epsilon)
    logits = F.linear(x, given["weight"] if problem.stored else given["weight"].T)
    return problem.cap * torch.tanh(logits / problem.cap) if problem.cap else logits
