"""Prefill time and decode tokens/s of g4c's engine on the CPU backend, beside Hugging Face eager, in one run.

Both sides run in this process, on the same arrays of random weights (bf16, the seed's), on the same number of
threads, taking turns: one repetition of one side, then of the other. g4c: a bundle compiled for the run,
`Engine.generate`, greedy. The peer: `Gemma4ForCausalLM` with eager attention and a DynamicCache, called in the loop
that `generate` runs, greedy, without `generate`'s own overhead; its prefill computes the logits of the last position
only, as g4c's does. A prefill is a prompt as long as its bucket, timed until its first token. Decode follows the
shortest prompt. Its cost depends on the compiled context in g4c and on the actual length in Hugging Face. Each figure
is the median, then the fastest, of the repetitions after one that warms up; the ratio is the peer's time over g4c's,
above 1 where g4c is faster. The cosine of both sides' first logits shows that they run the same model; how close they
are is for `g4c verify` to say. Both sides want every CPU: on a machine that does other work, the figures of Hugging
Face's side suffer most.

python benchmarks/decode_cpu.py --variant e2b        (peak memory 10.5 GB)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measurement import AT_END, AT_START, REPOSITORY, machine, model, print_machine

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig
    from g4c.ir.weights import Source

FIRST_PLAIN_TOKEN = 8
DECODE = "decode"


@dataclass(frozen=True)
class Repetition:
    """One prompt: seconds until its first token, and seconds per further token (0 without any)."""

    first_token_seconds: float
    step_seconds: float


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", type=model, default="tiny-e2b", help="or e2b, or any MODEL of g4c compile")
    parser.add_argument("--buckets", default="128,512", help="prefill lengths (default 128,512)")
    parser.add_argument("--max-context", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=32, help="decode steps of a repetition (default 32)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions after the warm-up (default 5)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all CPUs")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and prompts (default 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    options = parser.parse_args(argv)
    sys.path.insert(0, str(REPOSITORY))
    print_machine(AT_START)
    machines = [machine()]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch  # torch leaves files there
        bundle = Path(scratch) / "bundle"
        command = [sys.executable, "-m", "g4c", "compile", options.variant, "-o", str(bundle), "--quiet"]
        shapes = ["--buckets", options.buckets, "--max-context", str(options.max_context)]
        if subprocess.run([*command, *shapes], stdout=subprocess.DEVNULL, cwd=REPOSITORY).returncode:
            return 1
        figures = compare(options, bundle)
    machines.append(machine())
    print_machine(AT_END)
    if options.json:
        print(json.dumps({"options": vars(options), "machine": machines, **figures}))
        return 0
    _print_table(
        f"{options.variant}, bf16, {options.threads} threads, {options.repeat} repetitions", figures["seconds"]
    )
    print(f"g4c's preparation, XLA's compile included: {figures['g4c_preparation_seconds']:.1f} s")
    print(f"cosine of the first logits: {figures['cosine']:.6f}")
    print(f"peak memory of the process: {figures['peak_bytes'] / 1e9:.2f} GB")
    return 0


def _print_table(title: str, seconds: dict[str, list[list[float]]]) -> None:
    print(f"{title:<48} {'g4c':>11} {'HF eager':>11} {'ratio':>7}")
    for name, samples in seconds.items():
        for statistic, of in (("median", statistics.median), ("fastest", min)):
            ours, theirs = (of(side) for side in samples)
            cells = (f"{1 / side:7.2f} t/s" if name == DECODE else f"{side:9.3f} s" for side in (ours, theirs))
            print(f"{name + ', ' + statistic:<48} {' '.join(cells)} {theirs / ours:7.2f}")


def compare(options: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """Run both sides in turns. `seconds`: what is timed -> the repetitions of g4c, those of Hugging Face."""
    from g4c.frontend.config import load_model_config

    config = load_model_config(options.variant)
    weights = SharedWeights(config, options.seed)
    start = time.perf_counter()
    theirs = HuggingFaceSide(config, weights, options.threads)  # draws the weights
    drawn = time.perf_counter()
    sides: tuple[G4cSide | HuggingFaceSide, ...] = (G4cSide(bundle, weights, options.threads), theirs)
    prepared = time.perf_counter()
    random = np.random.default_rng(options.seed)
    lengths = sorted(int(bucket) for bucket in options.buckets.split(","))
    prompts = [random.integers(FIRST_PLAIN_TOKEN, config.vocab_size, length).tolist() for length in lengths]
    first = [side.first_logits(prompts[0]) for side in sides]
    prefills = {length: f"prefill of {length} tokens" for length in lengths}
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in (*prefills.values(), DECODE)}
    for repetition in range(options.repeat + 1):
        for prompt in prompts:
            steps = options.steps if prompt is prompts[0] else 0
            for index, side in enumerate(sides):
                measured = side.run(prompt, steps)
                if not repetition:
                    continue
                seconds[prefills[len(prompt)]][index].append(measured.first_token_seconds)
                if steps:
                    seconds[DECODE][index].append(measured.step_seconds)
    return {
        "seconds": seconds,
        "cosine": float(first[0] @ first[1] / np.linalg.norm(first[0]) / np.linalg.norm(first[1])),
        "weights_seconds": drawn - start,
        "g4c_preparation_seconds": prepared - drawn,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


class SharedWeights:
    """Random tensors by checkpoint name, each drawn once and held: both sides work on the same memory."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        from g4c.frontend.config import decoder_tensors
        from g4c.runtime.random_weights import RandomWeights

        self._shapes = decoder_tensors(config)
        self._random = RandomWeights(seed)
        self._drawn: dict[str, np.ndarray] = {}

    def stored(self, source: Source) -> np.ndarray:
        """The tensor of `source` (what g4c's weight store asks for)."""
        if source.key not in self._drawn:
            self._drawn[source.key] = self._random.stored(source)
        return self._drawn[source.key]

    def tensor(self, name: str) -> np.ndarray:
        """The tensor `name` in bf16 (what the Hugging Face model is filled with)."""
        from g4c.ir.types import DType, TensorType
        from g4c.ir.weights import Source

        return self.stored(Source(name, TensorType(self._shapes[name], DType.BF16)))


class G4cSide:
    """The bundle's programs under g4c's engine."""

    def __init__(self, bundle: Path, weights: SharedWeights, threads: int) -> None:
        from g4c.runtime.bundle import open_bundle
        from g4c.runtime.engine import Engine
        from g4c.runtime.session import Session
        from g4c.runtime.weights import WeightStore

        opened = open_bundle(bundle)
        self._session = Session(opened, WeightStore(opened.weights, weights), threads=threads)
        self._engine = Engine(self._session)
        for program in opened.programs:
            self._session.prepare(program)

    def first_logits(self, prompt: list[int]) -> np.ndarray:
        """Logits [V] f32 that follow `prompt`, which is as long as a bucket."""
        self._session.reset()
        return self._session.prefill([prompt], [range(len(prompt))], [[len(prompt) - 1]])[0, -1].astype(np.float32)

    def run(self, prompt: list[int], steps: int) -> Repetition:
        from g4c.runtime.engine import GenerationOptions

        generation = self._engine.generate(prompt, GenerationOptions(max_new_tokens=1 + steps))
        for _ in generation:
            pass
        taken = generation.statistics
        return Repetition(taken.first_token_seconds, taken.decode_seconds / steps if steps else 0.0)


class HuggingFaceSide:
    """Hugging Face's own model, eager."""

    def __init__(self, config: ModelConfig, weights: SharedWeights, threads: int) -> None:
        import torch

        from g4c.frontend.oracle import build_oracle
        from g4c.ir.types import DType

        torch.set_num_threads(threads)
        self._model = build_oracle(config, weights.tensor, DType.BF16)

    def first_logits(self, prompt: list[int]) -> np.ndarray:
        """Logits [V] f32 that follow `prompt`."""
        import torch

        logits: np.ndarray = self._forward(torch.tensor([prompt]), self._cache())[0, -1].float().numpy()
        return logits

    def run(self, prompt: list[int], steps: int) -> Repetition:
        import torch

        start = time.perf_counter()
        cache = self._cache()
        token = self._forward(torch.tensor([prompt]), cache).argmax(dim=-1)
        first = time.perf_counter()
        for _ in range(steps):
            token = self._forward(token, cache).argmax(dim=-1)
        end = time.perf_counter()
        return Repetition(first - start, (end - first) / steps if steps else 0.0)

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def _forward(self, token_ids: Any, cache: Any) -> Any:
        """Logits [1, 1, V] of the last token."""
        import torch

        with torch.inference_mode():
            return self._model(input_ids=token_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits


if __name__ == "__main__":
    sys.exit(main())
