"""The estimate of one model on one machine: trace, run the passes, count, model.

In: `EstimateOptions`. Out: `Estimate`. No weight is read. Invariant: FLOPs and bytes are sums over the ops of the
programs that a compile with the same options makes; nothing is counted from the config but where a field says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from g4c.estimate.assumptions import assumptions
from g4c.estimate.kv import RESERVE_BYTES, choose_kv, kv_per_token
from g4c.estimate.liveness import peak_activation_bytes
from g4c.estimate.machines import Cores, find_instance, take_cores
from g4c.estimate.options import DTYPES, EstimateOptions
from g4c.estimate.result import (
    AttentionCount,
    ChunkFigures,
    Estimate,
    KvFigures,
    MachineFigures,
    MemoryFigures,
    Parameters,
    PassEffect,
    ProgramFigures,
    State,
    TimingFigures,
    WorkFigures,
)
from g4c.estimate.sharding import Split
from g4c.estimate.timing import Bounds, bounds, demand, plan_chunks
from g4c.estimate.walk import measure
from g4c.estimate.work import ProgramWork
from g4c.ir.module import Module
from g4c.ir.weights import Weight
from g4c.passes.manager import PassRun, PipelineOptions, run_pipeline
from g4c.passes.pipeline import Pipeline

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig

SCHEMA = 1
_PLE_TABLE, _EMBEDDING = "embed_tokens_per_layer.weight", "embed_tokens.weight"


class Phase(Protocol):
    """A running phase; `result` is what its line says when it ends."""

    result: str


class Reporter(Protocol):
    """Who is told how the estimate goes."""

    def phase(self, name: str) -> AbstractContextManager[Phase]: ...
    def detail(self, text: str) -> None: ...


def estimate_model(options: EstimateOptions, reporter: Reporter) -> Estimate:
    """Estimate `options.model`. Errors: what options, config, tracing and passes refuse, as one G4cError."""
    from g4c.frontend.config import load_model_config

    with reporter.phase("load config") as phase:
        instance = find_instance(options.instance)
        pipeline = options.passes()
        config = load_model_config(options.model)
        options.check(config)
        cores = take_cores(instance, options.tp, DTYPES[options.dtype], config.num_heads)
        phase.result = f"{len(config.layers)} layers, hidden {config.hidden_size}"
    with reporter.phase("trace") as phase:
        module = _trace(config, options)
        phase.result = f"{', '.join(program.name for program in module.programs)}"
    with reporter.phase("passes") as phase:
        effects = run_measured(module, pipeline, reporter.detail)
        phase.result = f"{sum(effect.modified for effect in effects)} of {len(effects)} passes changed the programs"
    with reporter.phase("count"):
        return _Estimator(options, config, cores, pipeline, module).estimate(effects)


def _trace(config: ModelConfig, options: EstimateOptions) -> Module:
    from g4c.frontend.torch_cache import without_cache_directory

    with without_cache_directory():
        from g4c.frontend.trace import TraceOptions, trace_programs

        wanted = TraceOptions(
            batch=options.batch, max_context=options.context, buckets=options.buckets, dtype=DTYPES[options.dtype]
        )
        return trace_programs(config, wanted)


def run_measured(module: Module, pipeline: Pipeline, sink: Callable[[str], None]) -> tuple[PassEffect, ...]:
    """Run `pipeline` on `module` in place; what each pass did to the cost. `sink` gets the passes' remarks."""
    states = [module_state(module)]
    effects: list[PassEffect] = []

    def observe(run: PassRun) -> None:
        states.append(module_state(module) if run.modified else states[-1])
        effects.append(PassEffect(run.entry, run.modified, *states[-2:]))

    run_pipeline(module, pipeline, PipelineOptions(verify_each=False, repro_dir=None, after_pass=observe, sink=sink))
    return tuple(effects)


def module_state(module: Module) -> State:
    """What `module` costs as it is."""
    works = measure(module).values()
    return State(
        stored_weight_bytes=sum(weight.type.nbytes for weight in module.weights.values()),
        cache_bytes=sum(cache.type.nbytes for cache in module.caches.values()),
        flops={work.name: work.flops for work in works},
        matmul_flops={work.name: work.flops - work.attention_flops for work in works},
        weight_bytes={work.name: work.weight_bytes for work in works},
        kv_read_bytes={work.name: work.kv_read for work in works},
        kv_written_bytes={work.name: work.kv_written for work in works},
        activation_bytes={work.name: work.activation_traffic for work in works},
        peak_activation_bytes={p.name: peak_activation_bytes(module, p) for p in module.programs},
    )


def work_figures(name: str, layers: int, work: ProgramWork) -> WorkFigures:
    """`work` as figures."""
    return WorkFigures(
        name=name,
        layers=layers,
        flops=work.flops,
        flops_by={str(component): flops for component, flops in work.components.items()},
        weight_bytes=work.weight_bytes,
        looked_up_bytes=work.looked_up,
        matmul_weights=work.matmul_weights,
        kv_read_bytes=work.kv_read,
        kv_written_bytes=work.kv_written,
        activation_bytes=work.activation_traffic,
    )


def count_parameters(weights: Sequence[Weight]) -> Parameters:
    """Elements of the checkpoint tensors behind `weights`, each once."""
    sizes = {source.key: source.type.size for weight in weights for source in weight.sources}
    ple, embedding = sizes.pop(_PLE_TABLE, 0), sizes.pop(_EMBEDDING, 0)
    buffers = sum(size for key, size in sizes.items() if key.endswith(".layer_scalar"))
    experts = sum(size for key, size in sizes.items() if ".experts." in key)
    return Parameters(sum(sizes.values()) - buffers, experts, ple, embedding, buffers)


@dataclass(frozen=True)
class _Estimator:
    options: EstimateOptions
    config: ModelConfig
    cores: Cores
    pipeline: Pipeline
    module: Module

    def estimate(self, effects: tuple[PassEffect, ...]) -> Estimate:
        options = self.options
        works = measure(self.module)
        return Estimate(
            schema=SCHEMA,
            model=self.config.variant or Path(options.model).stem,
            dtype=options.dtype,
            batch=options.batch,
            context=options.context,
            buckets=tuple(sorted(options.buckets)),
            tp=options.tp,
            pipeline=str(self.pipeline),
            machine=self.machine(),
            parameters=count_parameters(list(self.module.weights.values())),
            programs=tuple(self.program(work) for work in works.values()),
            attention=self.attention(works),
            memory=self.memory(),
            kv=self.kv(),
            passes=effects,
            timing=self.timing(works),
            assumptions=assumptions(self.config, self.cores, options.tp, options.dtype, self.pipeline),
        )

    @property
    def split(self) -> Split:
        return Split(self.config, self.options.tp)

    @property
    def peak(self) -> int:
        """Bytes of activations on one core, of the program that needs most."""
        return max(peak_activation_bytes(self.module, p, self.options.tp) for p in self.module.programs)

    def machine(self) -> MachineFigures:
        cores, chip = self.cores, self.cores.instance.chip
        return MachineFigures(
            cores.instance.name,
            chip.name,
            chip.target,
            cores.instance.logical_cores,
            cores.count,
            cores.memory,
            cores.bandwidth,
            cores.flops,
        )

    def bounds(self, work: ProgramWork, seen: tuple[int, int] | None = None) -> Bounds:
        return bounds(demand(work, self.module.weights, self.split, seen), self.cores)

    def program(self, work: ProgramWork) -> ProgramFigures:
        time = self.bounds(work)
        layers = sum(section.layers for section in work.sections())
        return ProgramFigures(
            name=work.name,
            tokens=work.tokens,
            total=work_figures("all", layers, work),
            layer_kinds=tuple(work_figures(s.name, s.layers, s.work) for s in work.sections()),
            peak_activation_bytes=peak_activation_bytes(self.module, self.module.functions[work.name], self.options.tp),
            modelled_compute_seconds=time.compute,
            modelled_bandwidth_seconds=time.bandwidth,
            modelled_collective_seconds=time.collectives,
            modelled_limit=time.limit,
        )

    def attention(self, works: dict[str, ProgramWork]) -> tuple[AttentionCount, ...]:
        options = self.options
        prompt = options.prompt_tokens
        chunks = plan_chunks(prompt, options.buckets)
        decode = works["decode"]
        counts = []
        purposes = [(f"prompt of {prompt} tokens", [(works[c.program], c.tokens, c.cached) for c in chunks])]
        places = dict.fromkeys((min(prompt, options.context - 1), options.context - 1))
        purposes += [(f"token after {cached}", [(decode, 1, cached)]) for cached in places]
        for what, executions in purposes:
            computed = sum(work.attention_flops for work, _, _ in executions)
            seen = sum(work.seen_flops(tokens, cached) for work, tokens, cached in executions)
            total = sum(work.flops for work, _, _ in executions)
            counts.append(AttentionCount(what, computed, seen, total, total - computed + seen))
        return tuple(counts)

    def memory(self) -> MemoryFigures:
        shares = [(weight, weight.type.nbytes * self.split.weight(weight)) for weight in self.module.weights.values()]
        ple = int(sum(size for weight, size in shares if _is_ple_table(weight)))
        weights = int(sum(size for weight, size in shares if not _is_ple_table(weight)))
        caches = int(sum(c.type.nbytes * self.split.cache(c.type) for c in self.module.caches.values()))
        reserve = max(RESERVE_BYTES, self.peak)
        rest = weights + caches + reserve + self.cores.microcode
        device = self.cores.memory
        return MemoryFigures(
            weight_bytes=weights,
            ple_table_bytes=ple,
            cache_bytes=caches,
            peak_activation_bytes=self.peak,
            reserve_bytes=reserve,
            microcode_bytes=self.cores.microcode,
            total_bytes=rest + ple,
            total_bytes_without_ple_table=rest,
            device_bytes=device,
            fits=rest + ple <= device,
            fits_without_ple_table=rest <= device,
        )

    def kv(self) -> KvFigures:
        options = self.options
        windowed, rebuilt = (name in self.pipeline.names for name in ("window-kv-cache", "rebuild-keys"))
        choice = choose_kv(
            self.config,
            target=self.cores.instance.chip.target,
            context=options.context,
            batch=options.batch,
            dtype=DTYPES[options.dtype],
            tp=options.tp,
            windowed=windowed,
            activations=0 if rebuilt else self.peak,
        )
        advice = None
        if choice.kind == "v-only" and not rebuilt:
            advice = f"--kv v-only: {choice.reason}"
        return KvFigures(kv_per_token(self.config, DTYPES[options.dtype]), windowed, rebuilt, choice, advice)

    def timing(self, works: dict[str, ProgramWork]) -> TimingFigures:
        prompt = self.options.prompt_tokens
        plain = {name: self.bounds(work) for name, work in works.items()}
        chunks = []
        for chunk in plan_chunks(prompt, self.options.buckets):
            skipping = self.bounds(works[chunk.program], (chunk.tokens, chunk.cached))
            time = plain[chunk.program]
            figures = (time.seconds, time.limit, skipping.seconds)
            chunks.append(ChunkFigures(chunk.program, chunk.tokens, chunk.cached, *figures))
        skipping = self.bounds(works["decode"], (1, min(prompt, self.options.context - 1)))
        decode = plain["decode"]
        return TimingFigures(
            prompt_tokens=prompt,
            chunks=tuple(chunks),
            modelled_ttft_seconds=sum(chunk.modelled_seconds for chunk in chunks),
            modelled_ttft_seconds_skipping=sum(chunk.modelled_seconds_skipping for chunk in chunks),
            modelled_tpot_seconds=decode.seconds,
            modelled_tpot_seconds_skipping=skipping.seconds,
            modelled_tpot_limit=decode.limit,
            modelled_tokens_per_second=self.options.batch / decode.seconds,
        )


def _is_ple_table(weight: Weight) -> bool:
    return any(source.key == _PLE_TABLE for source in weight.sources)
