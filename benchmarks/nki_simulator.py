"""How fast the NKI simulator runs kernels: instructions per second, and what its checks cost.

The sample kernels of the tests, and the generated prefill attention kernel (one batch, causal, one KV head) at its
default schedule. Each runs strict (every check), lenient (the checks that the real package's simulator documents) and
dry (checks and lifetimes, no values); they take turns, repetition by repetition, so that other work on the machine
meets all of them. A time is the fastest of the repetitions. The checks' cost is strict over lenient.

python benchmarks/nki_simulator.py        (about half a minute)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ml_dtypes
import numpy as np
from measurement import AT_END, AT_START, REPOSITORY, machine, print_machine

sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests" / "lowering" / "nki_kernels"))

BF16 = np.dtype(ml_dtypes.bfloat16)
TARGETS = {"trn1": 2, "trn2": 3, "trn3": 4}


@dataclass(frozen=True)
class Case:
    """A kernel and its arguments."""

    name: str
    kernel: object
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Row:
    """Seconds per mode, and instructions executed."""

    name: str
    instructions: int
    strict: float
    lenient: float
    dry: float


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    option = parser.add_argument
    option("--target", choices=TARGETS, default="trn2")
    option("--tokens", type=int, default=2048, help="of the prefill kernel (default 2048)")
    option("--heads", type=int, default=8)
    option("--head-dim", type=int, default=512)
    option("--repeat", type=int, default=3, help="repetitions; the fastest counts (default 3)")
    option("--json", action="store_true")
    arguments = parser.parse_args(argv)
    print_machine(AT_START)
    cases = [*sample_cases(), prefill_case(arguments)]
    if not arguments.json:
        print(
            f"{'kernel':40s} {'instructions':>12s} {'strict':>9s} {'lenient':>9s} {'dry':>9s} {'instr/s':>9s}  checks"
        )
    for case in cases:
        row = measure(case, arguments.target, arguments.repeat)
        if arguments.json:
            print(json.dumps({**row.__dict__, "target": arguments.target, **machine()}), flush=True)
            continue
        print(
            f"{row.name:40s} {row.instructions:12,d} {row.strict:7.2f} s {row.lenient:7.2f} s {row.dry:7.2f} s "
            f"{row.instructions / row.strict:9,.0f}  x{row.strict / row.lenient:.2f}",
            flush=True,
        )
    print_machine(AT_END)
    return 0


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """bf16 numbers, normally distributed."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(BF16)


def sample_cases() -> list[Case]:
    """The kernels that the tests of the simulator run, at sizes that take a noticeable time."""
    import sample_kernels

    return [
        Case("matmul 1024 x 1024 x 2048", sample_kernels.matmul, (normal(1024, 1024), normal(1024, 2048))),
        Case("softmax 2048 x 2048", sample_kernels.softmax, (normal(2048, 2048),)),
        Case("RMSNorm 2048 x 2048", sample_kernels.rms_norm, (normal(2048, 2048), normal(2048), 1e-6)),
        Case(
            "flash attention 1024 x 512, one head",
            sample_kernels.flash_attention,
            (*(normal(1024, 512, seed=n) for n in range(3)), 512**-0.5),
        ),
    ]


def prefill_case(arguments: argparse.Namespace) -> Case:
    """The generated prefill attention kernel of `--tokens` tokens."""
    from g4c.lowering.nki.attention import prefill
    from g4c.lowering.nki.attention.prefill_problem import PrefillProblem, Segment
    from g4c.lowering.nki.simulator.source import load

    tokens, heads, width = arguments.tokens, arguments.heads, arguments.head_dim
    problem = PrefillProblem(1, tokens, heads, 1, width, (Segment("chunk", tokens),))
    generation = TARGETS[arguments.target]
    artifact = prefill.emit(problem, prefill.schedules(problem, generation)[0], generation)
    operands = {
        "q": normal(1, tokens, heads, width),
        "chunk_keys": normal(1, tokens, 1, width, seed=1),
        "chunk_values": normal(1, tokens, 1, width, seed=2),
        "positions": np.arange(tokens, dtype=np.int32)[None],
    }
    values = tuple(operands[name] for name, _ in artifact.inputs)
    name = f"prefill attention {tokens}, {heads} heads, d {width}"
    return Case(name, load(artifact.source, artifact.name), values)


def measure(case: Case, target: str, repeat: int) -> Row:
    """The fastest of `repeat` runs in each mode, in turns."""
    kernel = case.kernel.specialize(target)  # type: ignore[attr-defined]
    modes: dict[str, Callable[[], object]] = {
        "strict": lambda: kernel.run(*case.arguments),
        "lenient": lambda: kernel.specialize(lenient=True).run(*case.arguments),
        "dry": lambda: kernel.run(*case.arguments, dry=True),
    }
    fastest = dict.fromkeys(modes, float("inf"))
    run = kernel.run(*case.arguments, dry=True)
    for _ in range(repeat):
        for mode, execute in modes.items():
            start = time.perf_counter()
            execute()
            fastest[mode] = min(fastest[mode], time.perf_counter() - start)
    return Row(case.name, sum(run.instructions), **fastest)


if __name__ == "__main__":
    sys.exit(main())
