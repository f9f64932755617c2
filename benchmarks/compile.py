"""Compile time and peak memory: `g4c compile` beside torch-mlir's own path to StableHLO, on the same model, in one run.

g4c: the command line as a user types it, without weights: prefill programs and decode, from the config to a bundle
with HLO protos. The peer: `torch_mlir.fx.export_and_import(..., output_type="stablehlo")` on Hugging Face's
`Gemma4ForCausalLM` on the meta device (see torch_mlir_path.py), for the same programs; it ends at StableHLO in
memory. Both are measured from outside, each in its own process from start to exit: wall time and peak resident bytes.
The ratio is g4c's figure over the peer's: all programs against all, and all of g4c's against the peer's first program
alone.

python benchmarks/compile.py --variant e2b
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from measurement import AT_END, AT_START, ChildError, Run, machine, measure, model, print_machine

MEGABYTE = 1e6
_STARTUP = ("import", "build on meta")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", type=model, default="tiny-e2b", help="or e2b, or any MODEL of g4c compile")
    parser.add_argument("--buckets", default="128,512", help="prefill lengths (default 128,512)")
    parser.add_argument("--max-context", type=int, default=2048)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of tables")
    options = parser.parse_args(argv)
    programs = [*(f"prefill_{bucket}" for bucket in options.buckets.split(",")), "decode"]
    print_machine(AT_START)
    load_before = machine()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            g4c = measure(_g4c(options, Path(scratch)))
        peer = measure(_peer(options, programs))
    except ChildError as failure:
        print(failure, file=sys.stderr)
        return 1
    print_machine(AT_END)
    first = _until_first_program(peer, programs[0])
    ratios = {"all": _ratio(g4c, peer), "first": _ratio(g4c, first)}
    if options.json:
        runs = {"g4c": g4c, "torch_mlir": peer, "torch_mlir_first_program": first}
        facts = {"variant": options.variant, "programs": programs, "machine": [load_before, machine()]}
        print(json.dumps({**facts, **{name: asdict(run) for name, run in runs.items()}, "ratio": ratios}))
        return 0
    _print_run(f"g4c compile {options.variant}: {', '.join(programs)}", g4c)
    _print_run(f"torch-mlir: {', '.join(programs)}", peer)
    print(f"torch-mlir, {programs[0]} alone: {first.seconds:.2f} s, {first.peak_bytes / MEGABYTE:.0f} MB\n")
    count = len(programs)
    print(f"g4c / torch-mlir, {count} programs against {count}: {_words(ratios['all'])}")
    print(f"g4c / torch-mlir, {count} programs against 1: {_words(ratios['first'])}")
    return 0


def _g4c(options: argparse.Namespace, scratch: Path) -> list[str]:
    command = [sys.executable, "-m", "g4c", "compile", options.variant, "-o", str(scratch / "bundle"), "--json"]
    return [*command, "--buckets", options.buckets, "--max-context", str(options.max_context)]


def _peer(options: argparse.Namespace, programs: list[str]) -> list[str]:
    module = "benchmarks.torch_mlir_path"
    return [sys.executable, "-m", module, "--model", options.variant, "--context", str(options.max_context), *programs]


def _until_first_program(peer: Run, program: str) -> Run:
    """What the peer takes for its first program alone: its phases up to there, without the exit."""
    phases = tuple(phase for phase in peer.phases if phase.name in _STARTUP or phase.name.startswith(f"{program}:"))
    return Run(phases, sum(phase.seconds for phase in phases), max(phase.peak_bytes for phase in phases))


def _ratio(ours: Run, theirs: Run) -> dict[str, float]:
    return {
        "seconds": round(ours.seconds / theirs.seconds, 3),
        "peak_bytes": round(ours.peak_bytes / theirs.peak_bytes, 3),
    }


def _words(ratio: dict[str, float]) -> str:
    return f"time x {ratio['seconds']:.2f}, peak memory x {ratio['peak_bytes']:.2f}"


def _print_run(title: str, run: Run) -> None:
    print(title)
    rows = [(phase.name, phase.seconds, phase.peak_bytes) for phase in run.phases]
    rows.append(("start and exit", run.seconds - sum(phase.seconds for phase in run.phases), 0))
    for name, seconds, peak in [*rows, ("total", run.seconds, run.peak_bytes)]:
        print(f"  {name:<28} {seconds:8.2f} s {f'{peak / MEGABYTE:.0f} MB' if peak else '':>10}")
    print()


if __name__ == "__main__":
    sys.exit(main())
