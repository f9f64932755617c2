"""What each pass is worth: FLOPs, bytes, HLO instructions and times on the CPU backend, without the pass and with it.

One process, one model: by default E2B's 35 layers with its real head dims at hidden 512, the widths of the MLP and of
the per-layer inputs in proportion, a smaller vocabulary, random weights. On is the default pipeline; off is that
pipeline without the pass, wherever it occurs. A pass that is not part of it (--add) is on where it is added. FLOPs are
those of the ops' own costs in the module that a pipeline leaves, bytes those of its tables of weights and caches; HLO
instructions are counted in the protos that neuronx-cc would get. Times are those of the CPU backend's own form, as
`g4c run` has it: a prefill of a whole bucket from position 0, then steps of decode, per step. On and off take turns,
repetition by repetition, so that other work on the machine meets both; each time is the median, then the fastest, of
the repetitions after one that warms up. Ratios are off over on: above 1 where the pass saves something. Programs of the
same HLO are compiled once, so what their times differ by is noise. The cosine of the logits shows that off and on
compute the same.

python benchmarks/passes.py        (peak memory 3 GB)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cpu_programs import Device, Programs
from measurement import AT_END, AT_START, REPOSITORY, machine, model, print_machine

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig

DTYPES = ("bfloat16", "float32")
FIRST_PLAIN_TOKEN = 8
# In proportion to hidden_size where a config has them, in multiples of 16.
SCALED = ("intermediate_size", "hidden_size_per_layer_input", "moe_intermediate_size")
MULTIPLE = 16


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    option = parser.add_argument
    option("--variant", type=model, default="e2b", help="any MODEL of g4c compile, for its layers (default e2b)")
    option("--hidden", type=int, default=512, help="its hidden size; 0 leaves all sizes as they are (default 512)")
    option("--vocabulary", type=int, default=8192, help="with --hidden (default 8192)")
    option("--dtype", choices=DTYPES, default=DTYPES[0])
    option("--bucket", type=int, default=128, help="length of the prefill (default 128)")
    option("--max-context", type=int, default=2048)
    option("--batch", type=int, default=1)
    option("--steps", type=int, default=8, help="decode steps of a repetition (default 8)")
    option("--repeat", type=int, default=5, help="repetitions after the warm-up (default 5)")
    option("--pipeline", help="what is on (default: the default pipeline)")
    option("--passes", help="measure only these of its passes, separated by commas")
    option("--add", default="rebuild-keys,split-logits", help="passes to add to it (default rebuild-keys,split-logits)")
    option("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all CPUs")
    option("--seed", type=int, default=0, help="of the weights and the prompt (default 0)")
    option("--json", action="store_true", help="one JSON object on stdout instead of a table")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(REPOSITORY))
    print_machine(AT_START)
    machines = [machine()]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch  # torch leaves files there
        rows = []
        for row in compare(options, Path(scratch)):
            rows.append(row)
            if not options.json:
                _print_row(row, options if len(rows) == 1 else None)
    machines.append(machine())
    print_machine(AT_END)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options.json:
        facts = {"options": vars(options), "machine": machines, "peak_bytes": peak}
        print(json.dumps({**facts, "rows": [row.json() for row in rows]}))
        return 0
    print(f"peak memory of the process: {peak / 1e9:.2f} GB")
    return 0


@dataclass(frozen=True)
class Comparison:
    """Two pipelines that differ in what `name` says."""

    name: str
    off: str
    on: str


def comparisons(options: argparse.Namespace) -> Iterator[Comparison]:
    """All passes, then pass by pass."""
    from g4c.passes.pipeline import parse_pipeline
    from g4c.passes.pipelines import DEFAULT_PIPELINE

    whole = parse_pipeline(DEFAULT_PIPELINE if options.pipeline is None else options.pipeline)
    wanted = whole.names if options.passes is None else parse_pipeline(options.passes, resumed=True).names
    yield Comparison("all passes", "", str(whole))
    for name in dict.fromkeys(name for name in whole.names if name in wanted):
        entries = tuple(entry for entry in whole.entries if entry.step.name != name)
        yield Comparison(name, str(dataclasses.replace(whole, entries=entries)), str(whole))
    for entry in parse_pipeline(options.add, resumed=True).entries:
        if entry.step.name not in whole.names:
            before = [i for i, name in enumerate(whole.names) if name in entry.step.runs_after]
            cut = whole.names.index("specialize-layers") if "specialize-layers" in whole.names else len(whole)
            place = max(before) + 1 if before else cut
            entries = (*whole.entries[:place], entry, *whole.entries[place:])
            yield Comparison(f"{entry.step.name}, added", str(whole), str(dataclasses.replace(whole, entries=entries)))


@dataclass
class Side:
    """One form of the programs: what it costs, and how many seconds its repetitions took."""

    costs: dict[str, float]
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        times = {"prefill_seconds": self.prefill, "decode_seconds": self.decode}
        return self.costs | {
            f"{name}_{statistic}": of(samples)
            for name, samples in times.items()
            for statistic, of in (("median", statistics.median), ("fastest", min))
        }


@dataclass
class Row:
    """A comparison as it came out. `changed`: whether off and on are different modules. `cosine`: of their logits;
    None where one of them returns none."""

    name: str
    off: Side
    on: Side
    changed: bool
    cosine: float | None

    def ratios(self) -> dict[str, float]:
        off, on = self.off.figures(), self.on.figures()
        return {name: off[name] / on[name] for name in off}

    def json(self) -> dict[str, Any]:
        return {**vars(self), "off": vars(self.off), "on": vars(self.on), "ratios": self.ratios()}


def compare(options: argparse.Namespace, scratch: Path) -> Iterator[Row]:
    """Measure every comparison. What is on, or off, in all of them is compiled once."""
    from g4c.frontend.torch_cache import without_cache_directory
    from g4c.frontend.trace import TraceOptions, trace_programs
    from g4c.ir.types import DType

    config = scaled_config(options, scratch)
    dtype = {"bfloat16": DType.BF16, "float32": DType.F32}[options.dtype]
    with without_cache_directory():
        traced = trace_programs(config, TraceOptions(options.batch, options.max_context, (options.bucket,), dtype))
    random = np.random.default_rng(options.seed)
    length = options.bucket + options.steps
    tokens = random.integers(FIRST_PLAIN_TOKEN, config.vocab_size, (options.batch, length))
    todo = list(comparisons(options))
    device = Device(options.threads, options.seed)
    whole = Programs(device, traced, todo[0].on)
    for comparison in todo:
        off, on = (
            whole if pipeline == whole.pipeline else Programs(device, traced, pipeline)
            for pipeline in (comparison.off, comparison.on)
        )
        yield take_turns(comparison.name, off, on, tokens, options)
        device.keep(whole)


def take_turns(name: str, off: Programs, on: Programs, tokens: Any, options: argparse.Namespace) -> Row:
    """Both sides, a repetition of one, then of the other."""
    sides = Side(off.costs), Side(on.costs)
    firsts: list[Any] = [None, None]
    for repetition in range(options.repeat + 1):
        for index, programs in enumerate((off, on)):
            prefill, decode, result = programs.run(tokens, options.steps)
            if repetition:
                sides[index].prefill.append(prefill)
                sides[index].decode.append(decode)
            else:
                firsts[index] = result.astype(np.float64).ravel()
    a, b = firsts
    cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) if a.shape == b.shape else None
    return Row(name, *sides, off.text != on.text, cosine)


def scaled_config(options: argparse.Namespace, scratch: Path) -> ModelConfig:
    """The config of --variant at --hidden."""
    from g4c.frontend.config import load_model_config

    config = load_model_config(options.variant)
    if not options.hidden:
        return config
    text = dict(config.config_json.get("text_config", config.config_json))
    ratio = options.hidden / text["hidden_size"]
    for name in SCALED:
        if text.get(name):
            text[name] = max(1, round(text[name] * ratio / MULTIPLE)) * MULTIPLE
    text |= {"hidden_size": options.hidden, "vocab_size": options.vocabulary}
    if text.get("hidden_size_per_layer_input"):
        text["vocab_size_per_layer_input"] = options.vocabulary
    path = scratch / "config.json"
    path.write_text(json.dumps({**text, "architectures": ["Gemma4ForCausalLM"]}))
    return load_model_config(str(path))


# figure -> title, unit, format
COLUMNS: dict[str, tuple[str, float, str]] = {
    "prefill_flops": ("prefill GFLOP", 1e9, ".3f"),
    "decode_flops": ("decode GFLOP", 1e9, ".4f"),
    "weight_bytes": ("weights MB", 1e6, ".1f"),
    "kv_bytes": ("KV MB", 1e6, ".2f"),
    "prefill_hlo": ("prefill HLO", 1, ".0f"),
    "decode_hlo": ("decode HLO", 1, ".0f"),
    "prefill_seconds_median": ("prefill ms", 1e-3, ".1f"),
    "prefill_seconds_fastest": ("fastest ms", 1e-3, ".1f"),
    "decode_seconds_median": ("decode ms", 1e-3, ".2f"),
    "decode_seconds_fastest": ("fastest ms", 1e-3, ".2f"),
}


def _print_row(row: Row, options: argparse.Namespace | None) -> None:
    """Three lines of the table, with its head where `options` are given."""
    if options is not None:
        hidden = options.hidden or "as it is"
        print(
            f"{options.variant}, hidden {hidden}, {options.dtype}, batch {options.batch}, prefill of {options.bucket}, "
            f"context {options.max_context}, {options.threads} threads, {options.repeat} repetitions"
        )
        for words in zip(*(title.split(" ") for title, _, _ in COLUMNS.values()), strict=True):
            print(f"{'':<11}" + "".join(f"{word:>10}" for word in words))
    notes = [row.name] if row.changed else [row.name, "nothing to do here"]
    print(", ".join(notes if row.cosine is None else [*notes, f"cosine {row.cosine:.6f}"]))
    for title, figures in (("  off", row.off.figures()), ("  on", row.on.figures())):
        cells = (format(figures[name] / unit, spec) for name, (_, unit, spec) in COLUMNS.items())
        print(f"{title:<11}" + "".join(f"{cell:>10}" for cell in cells))
    print(f"{'  off / on':<11}" + "".join(f"{row.ratios()[name]:>10.2f}" for name in COLUMNS), flush=True)


if __name__ == "__main__":
    sys.exit(main())
