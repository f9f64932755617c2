"""Generation: prompts in, tokens out one at a time, over whatever runs the programs.

In: token ids of up to `batch` prompts, options. Out: an iterator of `Token`s, then statistics.
Invariants: every token of a prompt is fed exactly once, at its own position, in chunks of the largest prefill bucket
and a last one through the smallest bucket that holds it; a sequence ends at an end token, at `max_new_tokens`, or when
the context is full. Nothing here knows what the programs run on, or whether they give logits or candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from g4c.errors import G4cError
from g4c.runtime.sampling import GREEDY, Sampler, Sampling, logprob

if TYPE_CHECKING:
    import numpy.typing as npt

    from g4c.runtime.candidates import Prediction

FinishReason = Literal["eos", "length", "context"]


class Runner(Protocol):
    """What runs the programs: a `Session`. `candidates`: how many it gives per row; 0: logits."""

    batch: int
    max_context: int
    buckets: tuple[int, ...]
    vocabulary: int
    candidates: int

    def prefill(self, token_ids: npt.ArrayLike, positions: npt.ArrayLike, rows: npt.ArrayLike) -> Prediction: ...
    def decode(self, token_ids: npt.ArrayLike, positions: npt.ArrayLike) -> Prediction: ...
    def reset(self) -> None: ...


@dataclass(frozen=True)
class GenerationOptions:
    """When to stop and how to choose. `eos_token_ids`: any of them ends a sequence; empty: none does. `logprobs`:
    whether tokens say how likely the model found them."""

    max_new_tokens: int = 64
    sampling: Sampling = GREEDY
    eos_token_ids: frozenset[int] = frozenset()
    logprobs: bool = False


@dataclass(frozen=True)
class Token:
    """A generated token of sequence `sequence`; `finish_reason` on its last one. `logprob`: ln of its probability, if
    asked for."""

    sequence: int
    id: int
    finish_reason: FinishReason | None
    logprob: float | None = None


@dataclass
class Statistics:
    """Times in seconds. Time that the caller spends between two tokens is not counted."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    bucket: int = 0
    prefill_steps: int = 0
    prefill_seconds: float = 0.0
    first_token_seconds: float = 0.0
    decode_steps: int = 0
    decode_seconds: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second, over all steps that a prompt took."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Decode steps per second: tokens per second of one sequence."""
        return self.decode_steps / self.decode_seconds if self.decode_seconds else 0.0


@dataclass
class _Sequence:
    """State of one sequence: `fed` tokens of `tokens` are in the caches."""

    index: int
    tokens: list[int]
    prompt: int
    sampler: Sampler
    fed: int = 0
    finish_reason: FinishReason | None = None
    new: list[int] = field(default_factory=list)


class Generation:
    """A running generation: iterate for tokens. `statistics` grows with them, `token_ids(i)` gives those of one."""

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> None:
        self.statistics = Statistics(prompt_tokens=max(len(prompt) for prompt in prompts))
        self._runner = engine.runner
        self._clock = engine.clock
        self._options = options
        self._sequences = [
            _Sequence(index, list(prompt), len(prompt), Sampler(options.sampling, index))
            for index, prompt in enumerate(prompts)
        ]
        self._steps = self._run()

    def __iter__(self) -> Iterator[Token]:
        return self._steps

    def token_ids(self, sequence: int = 0) -> list[int]:
        """The tokens generated so far, the end token included."""
        return list(self._sequences[sequence].new)

    def finish_reason(self, sequence: int = 0) -> FinishReason | None:
        """Why the sequence ended; None while it runs."""
        return self._sequences[sequence].finish_reason

    def _run(self) -> Iterator[Token]:
        start = self._clock()
        predictions = self._prefill()
        self.statistics.prefill_seconds = self._clock() - start
        tokens = self._choose(predictions)
        self.statistics.first_token_seconds = self._clock() - start
        yield from tokens
        while not all(sequence.finish_reason for sequence in self._sequences):
            start = self._clock()
            tokens = self._choose(self._decode())
            self.statistics.decode_steps += 1
            self.statistics.decode_seconds += self._clock() - start
            yield from tokens

    def _prefill(self) -> list[Prediction]:
        """Feed the prompts, chunk by chunk; per sequence the prediction after its last token."""
        runner = self._runner
        runner.reset()
        longest = max(sequence.prompt for sequence in self._sequences)
        predictions: dict[int, Prediction] = {}
        for start in range(0, longest, runner.buckets[-1]):
            found = self._prefill_chunk(start, min(longest - start, runner.buckets[-1]))
            for sequence in self._sequences:
                if start < sequence.prompt <= start + runner.buckets[-1]:
                    predictions[sequence.index] = found[sequence.index]
        return [predictions[sequence.index] for sequence in self._sequences]

    def _prefill_chunk(self, start: int, length: int) -> Prediction:
        """Feed what each prompt has from `start` on, up to `length` tokens; the prediction after its last one there."""
        runner = self._runner
        ids = np.zeros((runner.batch, length), np.int32)
        positions = np.full((runner.batch, length), -1, np.int32)
        last = np.zeros((runner.batch, 1), np.int32)
        for sequence in self._sequences:
            chunk = sequence.tokens[start : min(start + length, sequence.prompt)]
            if chunk:
                ids[sequence.index, : len(chunk)] = chunk
                positions[sequence.index, : len(chunk)] = np.arange(start, start + len(chunk))
                last[sequence.index] = len(chunk) - 1
                sequence.fed = start + len(chunk)
        self.statistics.bucket = next(bucket for bucket in runner.buckets if bucket >= length)
        self.statistics.prefill_steps += 1
        return runner.prefill(ids, positions, last)[:, -1]

    def _decode(self) -> list[Prediction]:
        """Feed one token of every sequence; the prediction after each. Ended ones sit it out, at position -1."""
        ids = np.zeros((self._runner.batch, 1), np.int32)
        positions = np.full((self._runner.batch, 1), -1, np.int32)
        for sequence in self._sequences:
            if sequence.finish_reason is None:
                ids[sequence.index], positions[sequence.index] = sequence.tokens[sequence.fed], sequence.fed
                sequence.fed += 1
        found = self._runner.decode(ids, positions)[:, -1]
        return [found[sequence.index] for sequence in self._sequences]

    def _choose(self, predictions: Sequence[Prediction]) -> list[Token]:
        """Draw the next token of every running sequence."""
        tokens = []
        for sequence in self._sequences:
            if sequence.finish_reason:
                continue
            prediction = predictions[sequence.index]
            chosen = sequence.sampler(prediction)
            sequence.tokens.append(chosen)
            sequence.new.append(chosen)
            self.statistics.new_tokens += 1
            if chosen in self._options.eos_token_ids:
                sequence.finish_reason = "eos"
            elif len(sequence.new) >= self._options.max_new_tokens:
                sequence.finish_reason = "length"
            elif sequence.fed >= self._runner.max_context:
                sequence.finish_reason = "context"
            likely = logprob(prediction, chosen) if self._options.logprobs else None
            tokens.append(Token(sequence.index, chosen, sequence.finish_reason, likely))
        return tokens


class Engine:
    """Generates with the programs of `runner`."""

    def __init__(self, runner: Runner, clock: Callable[[], float] = time.perf_counter) -> None:
        self.runner = runner
        self.clock = clock

    def generate(self, prompt: Sequence[int], options: GenerationOptions | None = None) -> Generation:
        """Continue one prompt. Coded errors R055 to R058 and R070, raised here and not at the first token."""
        return self.generate_batch([prompt], options)

    def generate_batch(self, prompts: Sequence[Sequence[int]], options: GenerationOptions | None = None) -> Generation:
        """Continue up to `batch` prompts at once; each sequence draws from a stream of its own. R055 to R059, R070."""
        options = options or GenerationOptions()
        if not 0 < len(prompts) <= self.runner.batch:
            raise G4cError("G4C-R059", f"{len(prompts)} prompts given, the bundle runs {self.runner.batch} at a time")
        if not self.runner.buckets:
            raise G4cError("G4C-R058", "the bundle has no prefill program", help="compile it with --buckets 128,512")
        for prompt in prompts:
            self.check(prompt)
        self.check_sampling(options.sampling)
        return Generation(self, prompts, options)

    def check(self, prompt: Sequence[int]) -> None:
        """Refuse a prompt that cannot be run: R055 empty, R056 longer than the context, R057 not of this vocabulary."""
        if not prompt:
            raise G4cError("G4C-R055", "the prompt is empty")
        if len(prompt) > self.runner.max_context:
            raise G4cError(
                "G4C-R056",
                f"the prompt has {len(prompt)} tokens, the context {self.runner.max_context} positions",
                help="shorten it, or compile with a larger --max-context",
            )
        for position, token in enumerate(prompt):
            if not 0 <= token < self.runner.vocabulary:
                raise G4cError(
                    "G4C-R057",
                    f"token id {token} at position {position} is not below the vocabulary's {self.runner.vocabulary}",
                )

    def check_sampling(self, sampling: Sampling) -> None:
        """Refuse sampling among more tokens than the programs return: R070."""
        given, wanted = self.runner.candidates, sampling.candidates_needed(self.runner.vocabulary)
        if given and wanted > given:
            raise G4cError(
                "G4C-R070",
                f"sampling needs the {wanted} most likely tokens, the bundle gives {given}",
                help=f"run with --greedy or --top-k {given}, or compile with --sample "
                + (f"on-device:{wanted}" if sampling.top_k else "host"),
            )

    def programs(self, prompt_tokens: int) -> tuple[str, ...]:
        """Names of the programs that a prompt of this length runs, so that they can be prepared beforehand."""
        largest = self.runner.buckets[-1]
        chunks = [largest] * (prompt_tokens // largest) + [prompt_tokens % largest] * (prompt_tokens % largest > 0)
        used = (next(bucket for bucket in self.runner.buckets if bucket >= chunk) for chunk in chunks)
        return (*(f"prefill_{bucket}" for bucket in dict.fromkeys(used)), "decode")
