"""The compile driver: one model in, one bundle out.

In: `CompileOptions`. Out: the path of a bundle. Phases: load the config, trace, run the passes, make kernels, lower
every program, pack the weights of a checkpoint, write. Invariant: the bundle is complete or absent; the same inputs,
options and versions give the same `key`, and a bundle that is there with that key is reused.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from g4c.compile_options import DTYPES, CompileOptions, compile_key, plain, versions
from g4c.errors import G4cError
from g4c.kernels import make_kernels, write_kernel
from g4c.runtime.bundle import BundleWriter, check_target, open_bundle, tensor_json, type_json, weight_json

if TYPE_CHECKING:
    from g4c.frontend.checkpoint import CheckpointIndex
    from g4c.frontend.config import ModelConfig
    from g4c.ir.module import Module
    from g4c.lowering.nki.artifact import KernelArtifact
    from g4c.passes.contract import Pass
    from g4c.passes.pipeline import Pipeline

_COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
_CUTS = ("specialize-layers", "tile-contractions")  # from there on a program is not whole, or not at GRAPH level


class Phase(Protocol):
    """A running phase; `result` is what its line says when it ends."""

    result: str


class Reporter(Protocol):
    """Who is told how the compile goes (g4c.cli.progress has the ones for people and programs)."""

    def plan(self, total: int) -> None: ...
    def phase(self, name: str) -> AbstractContextManager[Phase]: ...
    def note(self, text: str) -> None: ...
    def detail(self, text: str) -> None: ...
    def logging(self, path: Path) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class _Run:
    """What one compile works on."""

    options: CompileOptions
    given: frozenset[str]
    config: ModelConfig
    key: str
    reporter: Reporter


def compile_model(options: CompileOptions, reporter: Reporter, *, given: frozenset[str] = frozenset()) -> Path:
    """Compile `options.model` into a bundle; returns its path. `given` names the options that the user chose.

    Errors: everything that the stages refuse, always as one G4cError; nothing is left at `options.output` then.
    """
    from g4c.frontend.config import load_model_config

    with reporter.phase("load config") as phase:
        config = load_model_config(options.model)
        options.check(config)
        check_target(options.output)
        checkpoint = _open_checkpoint(config, options)
        run = _Run(options, given, config, compile_key(options, config), reporter)
        reporter.plan(5 + len(options.buckets) + (checkpoint is not None) + (options.kernels != "none"))
        phase.result = _describe_config(config)
    reporter.detail(f"options: {_describe_options(options, given)}")
    if _is_current(run):
        reporter.note(f"{options.output} is up to date: same model, options and versions (--force compiles it again)")
        return options.output
    with BundleWriter(options.output) as writer:
        with reporter.logging(writer.place("compile.log")):
            manifest = _build(run, writer, checkpoint)
        with reporter.phase("write bundle") as phase:
            writer.commit(manifest)
            phase.result = f"{options.output}, {_size(writer.size)}"
    reporter.note(f"peak memory of this compile: {_size(_peak_memory())}")
    return options.output


def _build(run: _Run, writer: BundleWriter, checkpoint: CheckpointIndex | None) -> dict[str, Any]:
    """Everything between the config and the manifest, which is returned."""
    options, reporter = run.options, run.reporter
    with reporter.phase("trace") as phase:
        from g4c.frontend.torch_cache import without_cache_directory

        with without_cache_directory():
            module = _trace(run)
        phase.result = _describe_module(module)
    with reporter.phase("passes") as phase:
        pipeline = _run_passes(run, module)
        writer.write("ir/module.mlir", _text(module))
        on_cpu = _for_cpu(run, module)
        phase.result = _describe_module(module)
    forms = _Forms(module, on_cpu)
    entries: dict[str, Any] = {}
    if options.kernels != "none":
        with reporter.phase("make kernels") as phase:
            forms = _Forms(module, on_cpu, make_kernels(module, options.target, reporter.note))
            entries = {kernel.sha256: write_kernel(writer, kernel, options.target) for kernel in forms.kernels.values()}
            phase.result = f"{len(entries)} kernels"
    programs = {}
    for function in module.programs:
        with reporter.phase(f"lower {function.name}") as phase:
            programs[function.name], phase.result = _lower(run, writer, forms, function.name)
    if checkpoint is not None:
        with reporter.phase("pack weights") as phase:
            phase.result = _pack(module, checkpoint, writer)
    writer.write("config.json", json.dumps(run.config.config_json, indent=2) + "\n")
    if run.config.checkpoint is not None:
        for path in _companions(run.config.checkpoint):
            writer.write(path.name, path.read_bytes())
    return {
        "key": run.key,
        "name": options.name,
        "variant": run.config.variant,
        "versions": versions(),
        "options": {
            field.name: {
                "value": plain(getattr(options, field.name)),
                "origin": "command line" if field.name in run.given else "default",
            }
            for field in dataclasses.fields(options)
        },
        "pipeline": pipeline,
        "target": options.target,
        "dtype": DTYPES[options.dtype].mlir,
        "vocabulary": run.config.vocab_size,
        "batch": options.batch,
        "max_context": options.max_context,
        "bos_token_id": run.config.bos_token_id,
        "eos_token_ids": list(run.config.eos_token_ids),
        "programs": programs,
        "caches": {name: type_json(cache.type) for name, cache in module.caches.items()},
        "weights": {name: weight_json(weight) for name, weight in module.weights.items()},
        "kernels": entries,
    }


def _trace(run: _Run) -> Module:
    """The programs of the model as Hugging Face's code does them."""
    from g4c.frontend.trace import TraceOptions, trace_programs

    options = run.options
    wanted = TraceOptions(
        batch=options.batch,
        max_context=options.max_context,
        buckets=options.buckets,
        dtype=DTYPES[options.dtype],
        logit_rows=options.logit_rows,
    )
    return trace_programs(run.config, wanted)


def _run_passes(run: _Run, module: Module) -> str:
    """Run the pipeline on `module` in place; returns the pipeline as text."""
    from g4c.passes.manager import PipelineOptions, run_pipeline

    options = run.options
    watch = PipelineOptions(verify_each=options.verify_each, dump_dir=options.dump_dir, sink=run.reporter.detail)
    v_only = _caches_v_only(run)
    report = run_pipeline(module, _pipeline(options, v_only), watch)
    for line in f"{report.format_time()}\n{report.format_stats()}".splitlines():
        run.reporter.detail(line)
    if v_only:
        _report_rebuilt_keys(run, report.stats("rebuild-keys"))
    if options.candidates and options.kernels == "all":
        _report_logits(run)
    return report.pipeline


def _report_logits(run: _Run) -> None:
    """Say where the head's kernel still gives logits, of which other ops then take the best."""
    from g4c.passes.kernel_patterns.linear import HEAD_BEST, HEAD_TILE
    from g4c.passes.split_logits import tile_size

    vocabulary, wanted = run.config.vocab_size, run.options.candidates
    if wanted > HEAD_BEST:
        reason = f"its kernel finds up to {HEAD_BEST} tokens, {wanted} are wanted"
    elif not tile_size(vocabulary, HEAD_TILE):
        reason = f"{vocabulary} tokens are no equal tiles of a multiple of 256"
    else:
        return
    run.reporter.note(f"--sample {run.options.sample}: the head's logits go through HBM: {reason}")


def _caches_v_only(run: _Run) -> bool:
    """Whether K is to be rebuilt from V. On its own g4c decides so where nothing else fits, and says why."""
    from g4c.estimate.kv import choose_kv

    options = run.options
    if options.kv != "auto" or options.pipeline is not None:
        return options.kv == "v-only"
    choice = choose_kv(
        run.config,
        target=options.target,
        context=options.max_context,
        batch=options.batch,
        dtype=DTYPES[options.dtype],
        tp=options.tp,
    )
    if choice.kind == "v-only":
        run.reporter.note(f"--kv v-only is chosen: {choice.reason}")
    return choice.kind == "v-only"


def _report_rebuilt_keys(run: _Run, stats: dict[str, int]) -> None:
    """Say what rebuild-keys saved and what it costs. G4C-C032 where it rebuilt less than the model allows."""
    wanted = sum(layer.k_eq_v and layer.donor is None for layer in run.config.layers)
    if stats["caches"] < wanted:
        message = f"--kv v-only: K of {stats['caches']} of {wanted} layers could be proven to follow from V"
        raise G4cError("G4C-C032", message, help="rebuild-keys needs canonicalize and precompute-rope before it")
    run.reporter.note(
        f"kv: K of {wanted} layer{'s' * (wanted > 1)} is rebuilt from V: {_size(stats['cache_bytes'])} of caches less, "
        f"up to {stats['operations'] / 1e6:.1f} million elementwise operations and {_size(stats['bytes'])} moved more "
        "per execution"
    )


def _pipeline(options: CompileOptions, v_only: bool) -> Pipeline:
    """The passes of this compile: the default or the user's, with what other options ask for in its place."""
    from g4c.passes.kernel_patterns.linear import HEAD_TILE
    from g4c.passes.outline_kernels import OutlineKernels
    from g4c.passes.pipeline import parse_pipeline
    from g4c.passes.pipelines import DEFAULT_PIPELINE
    from g4c.passes.rebuild_keys import RebuildKeys
    from g4c.passes.split_logits import SplitLogits
    from g4c.passes.tile_contractions import TileContractions

    pipeline = parse_pipeline(DEFAULT_PIPELINE if options.pipeline is None else options.pipeline)
    if v_only:
        before = [i for i, name in enumerate(pipeline.names) if name in RebuildKeys.runs_after]
        pipeline = _with(pipeline, max(before, default=-1) + 1, RebuildKeys())
    if options.candidates:
        place = next((i for i, name in enumerate(pipeline.names) if name in _CUTS), len(pipeline))
        tile = HEAD_TILE if options.kernels == "all" else 0
        pipeline = _with(pipeline, place, SplitLogits(options.candidates, tile))
    if options.kernels != "none":
        if TileContractions.name not in pipeline.names:
            pipeline = _with(pipeline, len(pipeline), TileContractions())
        pipeline = _with(pipeline, len(pipeline), OutlineKernels(options.kernels))
    return pipeline


def _with(pipeline: Pipeline, place: int, step: Pass) -> Pipeline:
    """`pipeline` with `step` at `place`."""
    added = type(pipeline).of(step).entries
    return type(pipeline)((*pipeline.entries[:place], *added, *pipeline.entries[place:]))


def _for_cpu(run: _Run, module: Module) -> Module:
    """`module` in the form that the CPU backend runs fastest. Its dumps go into a directory of their own, `cpu`.

    Only for GRAPH level: what is tiled runs as it is.
    """
    from g4c.ir.op import Level
    from g4c.passes.manager import PipelineOptions, run_pipeline
    from g4c.passes.pipeline import parse_pipeline
    from g4c.passes.pipelines import CPU_PIPELINE

    copy = module.copy()
    if module.level is not Level.GRAPH:
        return copy
    dump_dir = None if run.options.dump_dir is None else run.options.dump_dir / "cpu"
    watch = PipelineOptions(verify_each=run.options.verify_each, dump_dir=dump_dir, sink=run.reporter.detail)
    run_pipeline(copy, parse_pipeline(CPU_PIPELINE), watch)
    return copy


def _program_text(module: Module, name: str) -> list[str]:
    """The text of a program and of all that it calls."""
    from g4c.ir.printer import print_function

    function = module.functions[name]
    lines = list(print_function(function))
    for callee in dict.fromkeys(module.callees(function)):
        lines += _program_text(module, callee)
    return lines


@dataclass(frozen=True)
class _Forms:
    """What programs are lowered from: for the device, with the kernels that there are, and for the CPU."""

    module: Module
    on_cpu: Module
    kernels: Mapping[str, KernelArtifact] = field(default_factory=dict)


def _lower(run: _Run, writer: BundleWriter, forms: _Forms, name: str) -> tuple[dict[str, Any], str]:
    """Lower one program and write it; returns its manifest entry and a few words.

    Where the CPU backend wants another form, that is lowered too: same parameters and results, another file.
    """
    from g4c.lowering.neuron.kernel_calls import sources
    from g4c.lowering.neuron.lower import lower_program

    module, on_cpu = forms.module, forms.on_cpu
    lowered = lower_program(module, name, target=run.options.target, kernels=forms.kernels)
    calls = sources(lowered.hlo_proto)
    for finding in lowered.findings:
        run.reporter.detail(str(finding))
    file = f"programs/{name}.hlo.pb"
    writer.write(file, lowered.hlo_proto)
    entry: dict[str, Any] = {
        "file": file,
        "sha256": writer.sha256(file),
        "inputs": [tensor_json(*tensor) for tensor in lowered.inputs],
        "outputs": [tensor_json(*tensor) for tensor in lowered.outputs],
        "caches": [cache for cache, _ in lowered.caches],
        "weights": [weight for weight, _ in lowered.weights],
        "flops": lowered.flops,
        "bytes": lowered.bytes,
        "kernels": list(dict.fromkeys(calls)),
    }
    if calls or _program_text(on_cpu, name) != _program_text(module, name):
        entry["cpu_file"] = f"programs/{name}.cpu.hlo.pb"
        writer.write(entry["cpu_file"], lower_program(on_cpu, name, target="cpu").hlo_proto)
    words = f"HLO {_size(len(lowered.hlo_proto))}, {lowered.flops / 1e9:.2f} GFLOP, {len(lowered.weights)} weights"
    return entry, words + (f", {len(calls)} kernel calls" if calls else "")


def _pack(module: Module, checkpoint: CheckpointIndex, writer: BundleWriter) -> str:
    """Write the weights as the programs want them; returns a few words."""
    from g4c.runtime.weights import WeightStore, pack_weights

    file = "weights/rank-0.safetensors"
    size = pack_weights(writer.place(file), WeightStore(module.weights, checkpoint))
    writer.add(file)
    return f"{len(module.weights)} weights, {_size(size)}"


def _is_current(run: _Run) -> bool:
    """Whether the output is a whole bundle of the same key. Dumps are wanted from a real compile."""
    if run.options.force or run.options.dump_dir is not None:
        return False
    try:
        return bool(open_bundle(run.options.output).manifest.get("key") == run.key)
    except G4cError:
        return False


# -- words -------------------------------------------------------------------------------------------------------------


def _describe_config(config: ModelConfig) -> str:
    kinds = [layer.attention for layer in config.layers]
    shared = sum(layer.donor is not None for layer in config.layers)
    layers = f"{kinds.count('sliding')} sliding and {kinds.count('full')} full layers"
    return f"{layers}, {shared} of them share K/V, hidden {config.hidden_size}"


def _describe_options(options: CompileOptions, given: frozenset[str]) -> str:
    values = ((field.name, plain(getattr(options, field.name))) for field in dataclasses.fields(options))
    return ", ".join(f"{name}={value}{'' if name in given else ' (default)'}" for name, value in values)


def _describe_module(module: Module) -> str:
    ops = sum(len(function.ops) for function in module.functions.values())
    weights = sum(weight.type.nbytes for weight in module.weights.values())
    caches = sum(cache.type.nbytes for cache in module.caches.values())
    kinds = sum(function.role == "layer" for function in module.functions.values()) // len(module.programs)
    layers = f"{kinds} layer kinds, " if kinds else ""
    kernels = sum(function.role == "kernel" for function in module.functions.values())
    layers += f"{kernels} kernel functions, " if kernels else ""
    tables = f"{len(module.weights)} weights {_size(weights)}, {len(module.caches)} caches {_size(caches)}"
    return f"{layers}{ops} ops, {tables}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _peak_memory() -> int:
    """Bytes of this process's peak resident memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _text(module: Module) -> str:
    from g4c.ir.printer import print_module

    return print_module(module)


def _companions(checkpoint: Path) -> list[Path]:
    """Files of a checkpoint that generation needs besides the weights: the tokenizer's."""
    return [checkpoint / name for name in _COMPANIONS if (checkpoint / name).is_file()]


def _open_checkpoint(config: ModelConfig, options: CompileOptions) -> CheckpointIndex | None:
    """The checked checkpoint whose weights will be packed, if the model is one."""
    if config.checkpoint is None:
        return None
    from g4c.frontend.checkpoint import CheckpointIndex

    index = CheckpointIndex.open(config.checkpoint)
    index.check(config)
    return index if options.pack_weights else None
