"""The kernels that a model's programs call.

In: a model and what to compile it for: buckets, context, batch, a target. Out: per kernel function its artifact, with
the schedule that the cost model chose, its profile, and how often the programs call it.
Invariant: the functions are those that `g4c compile --kernels all` outlines; no weight is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from g4c.errors import G4cError
from g4c.ir.module import Function, Module
from g4c.ir.ops import CallOp
from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.choose import Choice
from g4c.lowering.nki.cost.profile import TITLES
from g4c.lowering.nki.families import choice_of

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig


@dataclass(frozen=True)
class Wanted:
    """What to compile. `model`: as `load_model_config` takes it; `tp`: of so many cores that share it, one."""

    model: str
    buckets: tuple[int, ...] = (512,)
    max_context: int = 2048
    batch: int = 1
    dtype: DType = DType.BF16
    target: str = "trn2"
    tp: int = 1


@dataclass(frozen=True)
class ModelKernel:
    """A kernel function: the programs that call it, with the number of calls, and its choice or why there is none."""

    function: str
    calls: tuple[tuple[str, int], ...]
    choice: Choice | None
    refusal: str = ""

    @property
    def name(self) -> str:
        return self.choice.artifact.name if self.choice is not None else self.function

    def summary(self) -> dict[str, Any]:
        """For programs, as JSON has it."""
        found: dict[str, Any] = {"name": self.name, "function": self.function, "calls": dict(self.calls)}
        if self.choice is None:
            return {**found, "refusal": self.refusal}
        artifact = self.choice.artifact
        return {
            **found,
            "family": artifact.family,
            "inputs": {name: str(kind) for name, kind in artifact.inputs},
            "outputs": {name: str(kind) for name, kind in artifact.outputs},
            "schedule": artifact.schedule,
            "cores": artifact.cores,
            "compared": [{"schedule": item.line, "modelled_us": item.us} for item in self.choice.compared],
            "profile": self.choice.profile.summary(),
        }


class _Phase(Protocol):
    result: str


class Reporter(Protocol):
    """Who is told how it goes."""

    def phase(self, name: str) -> AbstractContextManager[_Phase]: ...
    def detail(self, text: str) -> None: ...


def model_kernels(wanted: Wanted, reporter: Reporter) -> list[ModelKernel]:
    """The kernels of all programs, in the order of their first call."""
    with reporter.phase("trace") as phase:
        module = outlined(wanted, reporter.detail)
        phase.result = ", ".join(program.name for program in module.programs)
    found: list[ModelKernel] = []
    with reporter.phase("choose schedules") as phase:
        for function, calls in _called(module).items():
            try:
                found.append(ModelKernel(function, calls, choice_of(module.functions[function], wanted.target)))
            except G4cError as error:
                if not error.code.startswith("G4C-K04") or error.code == "G4C-K049":
                    raise
                found.append(ModelKernel(function, calls, None, error.message))
        compared = sum(len(kernel.choice.compared) for kernel in found if kernel.choice is not None)
        phase.result = f"{len(found)} kernels, {compared} schedules compared"
    return found


def outlined(wanted: Wanted, sink: Callable[[str], None]) -> Module:
    """The programs with their kernels outlined; `sink` gets the passes' remarks.

    Refusals: those of a compile with these options.
    """
    from g4c.compile_options import CompileOptions
    from g4c.frontend.config import load_model_config
    from g4c.frontend.torch_cache import without_cache_directory
    from g4c.passes.manager import PipelineOptions, run_pipeline
    from g4c.passes.pipeline import parse_pipeline
    from g4c.passes.pipelines import TILED_PIPELINE

    config = load_model_config(wanted.model)
    if wanted.tp > 1:
        config = _shard(config, wanted.tp)
    shapes: dict[str, Any] = {"batch": wanted.batch, "max_context": wanted.max_context, "buckets": wanted.buckets}
    CompileOptions(wanted.model, Path("kernels"), **shapes, target=wanted.target).check(config)
    with without_cache_directory():
        from g4c.frontend.trace import TraceOptions, trace_programs

        module = trace_programs(config, TraceOptions(**shapes, dtype=wanted.dtype))
    pipeline = parse_pipeline(f"{TILED_PIPELINE},outline-kernels")
    run_pipeline(module, pipeline, PipelineOptions(verify_each=False, repro_dir=None, sink=sink))
    return module


def _shard(config: ModelConfig, tp: int) -> ModelConfig:
    """The model of which one core's part of `config` is the whole: query heads and MLPs split, KV heads as far as there
    are. Embeddings and the head stay whole. Refusals: G4C-C020: something does not divide."""
    from g4c.frontend.config import load_model_config

    whole = {**config.config_json}
    text = {**whole.get("text_config", whole)}
    for name in ("num_attention_heads", "intermediate_size", "moe_intermediate_size"):
        if text.get(name) and (text[name] % tp or "per_layer_config" in text):
            raise G4cError("G4C-C020", f"--tp {tp} does not divide {name} {text[name]}", where=config.source)
        text |= {name: text[name] // tp} if text.get(name) else {}
    for name in ("num_key_value_heads", "num_global_key_value_heads"):
        text |= {name: -(-text[name] // tp)} if text.get(name) else {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({**whole, "text_config": text} if "text_config" in whole else text))
        return load_model_config(str(path))


def _called(module: Module) -> dict[str, tuple[tuple[str, int], ...]]:
    """Kernel functions in the order of their first call, with the calls of each program, through layers too."""
    found: dict[str, dict[str, int]] = {}
    for program in module.programs:
        for name, count in _calls(module, program).items():
            found.setdefault(name, {})[program.name] = count
    return {name: tuple(calls.items()) for name, calls in found.items()}


def _calls(module: Module, function: Function) -> Counter[str]:
    """How often `function` calls each kernel function."""
    total: Counter[str] = Counter()
    for call in function.ops_of(CallOp):
        callee = module.functions[call.callee.name]
        total.update([callee.name] if callee.role == "kernel" else _calls(module, callee))
    return total


def listing(kernels: list[ModelKernel]) -> str:
    """The kernels for people: name, calls, modelled time, bound; shapes and schedule below. Last the kernels of each
    program, one after the other."""
    lines = []
    totals: dict[str, list[float]] = {}
    for kernel in kernels:
        calls = ", ".join(f"{count} in {program}" for program, count in kernel.calls)
        if kernel.choice is None:
            lines += [f"{kernel.name}: no kernel: {kernel.refusal}", f"    calls     {calls}"]
            continue
        artifact, found = kernel.choice.artifact, kernel.choice.profile
        for program, count in kernel.calls:
            totals.setdefault(program, []).extend([found.us] * count)
        lines += [
            f"{kernel.name}: {found.us:,.1f} us modelled, bound by {TITLES.get(found.bound, found.bound)}",
            f"    calls     {calls}",
            f"    shape     {', '.join(f'{name} {shape(kind)}' for name, kind in artifact.inputs)}",
            f"    schedule  {artifact.schedule} (of {len(kernel.choice.compared)} compared)",
        ]
    for program, times in totals.items():
        lines.append(
            f"{program}: {len(times)} kernel calls, {sum(times) / 1000:,.2f} ms modelled; other ops not counted"
        )
    return "\n".join(lines) if lines else "no program calls a kernel"


def shape(kind: TensorType) -> str:
    """A tensor type as --arg takes it: 1x2048x8x512xbf16."""
    return "x".join([*map(str, kind.shape), {DType.S32: "s32"}.get(kind.dtype, kind.dtype.value)])
