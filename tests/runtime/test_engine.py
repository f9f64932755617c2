"""Generation over a runner that records what it is fed and answers with logits that depend on all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from g4c.errors import G4cError
from g4c.runtime.candidates import Candidates, Prediction
from g4c.runtime.engine import Engine, GenerationOptions, Token
from g4c.runtime.sampling import GREEDY, Sampling

VOCABULARY = 50


class Recorder:
    """Remembers the token at each position of each sequence, as caches would."""

    candidates = 0

    def __init__(self, batch: int = 1, max_context: int = 40, buckets: tuple[int, ...] = (4, 8)) -> None:
        self.batch, self.max_context, self.buckets, self.vocabulary = batch, max_context, buckets, VOCABULARY
        self.calls: list[str] = []
        self.reset()

    def reset(self) -> None:
        self.fed: list[dict[int, int]] = [{} for _ in range(self.batch)]

    def prefill(self, token_ids: np.ndarray, positions: np.ndarray, rows: np.ndarray) -> Prediction:
        assert token_ids.shape == positions.shape
        assert token_ids.shape[1] <= self.buckets[-1]
        self.calls.append(f"prefill {token_ids.shape[1]}")
        for sequence in range(self.batch):
            self._feed(sequence, positions[sequence], token_ids[sequence])
        return self._said([self._logits(i, int(positions[i, row[0]])) for i, row in enumerate(rows)])

    def decode(self, token_ids: np.ndarray, positions: np.ndarray) -> Prediction:
        self.calls.append("decode " + ",".join(str(position) for position in positions[:, 0]))
        for sequence in range(self.batch):
            self._feed(sequence, positions[sequence], token_ids[sequence])
        return self._said([self._logits(sequence, int(positions[sequence, 0])) for sequence in range(self.batch)])

    def _said(self, logits: list[np.ndarray]) -> Prediction:
        """What the programs return: [batch, 1, vocabulary]."""
        return np.stack(logits)

    def _feed(self, sequence: int, positions: np.ndarray, ids: np.ndarray) -> None:
        """Positions go on where they stopped, up to the padding; nothing is fed twice."""
        valid = positions[positions >= 0]
        assert (positions[len(valid) :] == -1).all()
        assert valid.tolist() == list(range(len(self.fed[sequence]), len(self.fed[sequence]) + len(valid)))
        assert (valid < self.max_context).all()
        self.fed[sequence].update(zip(valid.tolist(), ids.tolist(), strict=False))

    def _logits(self, sequence: int, position: int) -> np.ndarray:
        visible = [self.fed[sequence][slot] for slot in range(position + 1)]  # fails where a slot was skipped
        return following(visible)[None]


class Chooser(Recorder):
    """Returns the best tokens and their log-probabilities instead of logits."""

    def __init__(self, candidates: int, **options: Any) -> None:
        super().__init__(**options)
        self.candidates = candidates

    def _said(self, logits: list[np.ndarray]) -> Prediction:
        found, tokens = torch.topk(torch.log_softmax(torch.from_numpy(np.stack(logits)), -1), self.candidates)
        return Candidates(tokens.to(torch.int32).numpy(), found.numpy())


def following(tokens: list[int]) -> np.ndarray:
    """The logits after `tokens`."""
    return np.random.default_rng(tokens).standard_normal(VOCABULARY).astype(np.float32)


def greedy(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(following(tokens).argmax()))
    return tokens[len(prompt) :]


def prompt_of(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, VOCABULARY, length).tolist()


@pytest.mark.parametrize("length", [1, 3, 4, 5, 7, 8, 9, 20])
def test_greedy_generation_at_every_bucket_edge_and_past_the_largest(length: int) -> None:
    prompt = prompt_of(length)
    runner = Recorder()
    generation = Engine(runner).generate(prompt, GenerationOptions(max_new_tokens=6))
    tokens = list(generation)
    assert [token.id for token in tokens] == generation.token_ids() == greedy(prompt, 6)
    assert [token.finish_reason for token in tokens] == [None] * 5 + ["length"]
    chunks = [8] * (length // 8) + [length % 8] * (length % 8 > 0)
    assert runner.calls == [f"prefill {n}" for n in chunks] + [f"decode {p}" for p in range(length, length + 5)]
    assert generation.statistics.bucket == (4 if chunks[-1] <= 4 else 8)
    assert generation.statistics.prefill_steps == len(chunks)
    assert generation.statistics.decode_steps == 5


def test_each_generation_starts_over() -> None:
    engine = Engine(Recorder())
    first = [token.id for token in engine.generate(prompt_of(5))]
    assert [token.id for token in engine.generate(prompt_of(5))] == first


def test_any_end_token_ends_the_sequence_and_is_the_last() -> None:
    expected = greedy(prompt_of(5), 20)
    stop = expected[7]
    options = GenerationOptions(max_new_tokens=20, eos_token_ids=frozenset({stop, VOCABULARY + 1}))
    generation = Engine(Recorder()).generate(prompt_of(5), options)
    assert [token.id for token in generation] == expected[: expected.index(stop) + 1]
    assert generation.finish_reason() == "eos"


@pytest.mark.parametrize(("length", "new"), [(40, 1), (39, 2), (35, 6), (8, 33)])
def test_a_full_context_ends_the_sequence(length: int, new: int) -> None:
    generation = Engine(Recorder()).generate(prompt_of(length), GenerationOptions(max_new_tokens=100))
    assert [token.id for token in generation] == greedy(prompt_of(length), new)
    assert generation.finish_reason() == "context"


def test_sequences_of_a_batch_do_not_disturb_each_other() -> None:
    prompts = [prompt_of(2), prompt_of(12), prompt_of(5)]
    generation = Engine(Recorder(batch=4)).generate_batch(prompts, GenerationOptions(max_new_tokens=9))
    tokens = list(generation)
    for sequence, prompt in enumerate(prompts):
        assert generation.token_ids(sequence) == greedy(prompt, 9)
        assert [token.id for token in tokens if token.sequence == sequence] == greedy(prompt, 9)


def test_sampled_tokens_depend_on_the_seed_and_the_sequence_alone() -> None:
    def generate(seed: int, batch: int) -> list[list[int]]:
        options = GenerationOptions(max_new_tokens=12, sampling=Sampling(seed=seed))
        generation = Engine(Recorder(batch=batch)).generate_batch([prompt_of(5)] * batch, options)
        list(generation)
        return [generation.token_ids(sequence) for sequence in range(batch)]

    alone = generate(1, 1)
    together = generate(1, 2)
    assert together[0] == alone[0]
    assert together[1] != together[0]
    assert generate(2, 1) != alone


@pytest.mark.parametrize(
    ("candidates", "sampling"),
    [
        (1, GREEDY),
        (7, GREEDY),
        (7, Sampling(top_k=7, top_p=1.0)),
        (7, Sampling(top_k=3, temperature=2.0, seed=4)),
        (1, Sampling(top_k=1)),
        (VOCABULARY, Sampling(top_k=0)),
        (VOCABULARY, Sampling(top_k=2 * VOCABULARY, top_p=0.5)),
    ],
    ids=str,
)
def test_candidates_give_the_tokens_that_logits_give(candidates: int, sampling: Sampling) -> None:
    prompts = [prompt_of(12), prompt_of(3)]
    options = GenerationOptions(max_new_tokens=20, sampling=sampling, logprobs=True)
    wanted = list(Engine(Recorder(batch=2)).generate_batch(prompts, options))
    found = list(Engine(Chooser(candidates, batch=2)).generate_batch(prompts, options))
    assert [(token.sequence, token.id) for token in found] == [(token.sequence, token.id) for token in wanted]
    assert [token.logprob for token in found] == pytest.approx([token.logprob for token in wanted], abs=1e-5)


def test_the_log_probability_of_a_token_is_that_of_the_model() -> None:
    """Before temperature and top-k; only where it is asked for."""
    prompt = prompt_of(5)
    options = GenerationOptions(max_new_tokens=1, sampling=Sampling(temperature=3.0, top_k=9), logprobs=True)
    (token,) = Engine(Recorder()).generate(prompt, options)
    assert token.logprob == pytest.approx(float(torch.log_softmax(torch.from_numpy(following(prompt)), -1)[token.id]))
    (silent,) = Engine(Recorder()).generate(prompt, GenerationOptions(max_new_tokens=1))
    assert silent.logprob is None


@pytest.mark.parametrize(
    ("candidates", "sampling", "needed"),
    [
        (1, Sampling(), VOCABULARY),
        (7, Sampling(top_k=8), 8),
        (7, Sampling(top_k=0, top_p=0.1), VOCABULARY),
        (VOCABULARY - 1, Sampling(top_k=2 * VOCABULARY), VOCABULARY),
    ],
    ids=str,
)
def test_sampling_among_more_tokens_than_there_are_is_refused_at_once(
    candidates: int, sampling: Sampling, needed: int
) -> None:
    runner = Chooser(candidates)
    with pytest.raises(G4cError, match=f"the {needed} most likely tokens, the bundle gives {candidates}") as refused:
        Engine(runner).generate([1], GenerationOptions(sampling=sampling))
    assert (refused.value.code, runner.calls) == ("G4C-R070", [])


def test_tokens_come_one_at_a_time() -> None:
    runner = Recorder()
    steps = iter(Engine(runner).generate(prompt_of(5)))
    assert not runner.calls
    next(steps)
    assert runner.calls == ["prefill 5"]
    next(steps)
    assert len(runner.calls) == 2


def test_times_leave_out_what_the_caller_does() -> None:
    now = [0.0]

    class Timed(Recorder):
        def prefill(self, token_ids: np.ndarray, positions: np.ndarray, rows: np.ndarray) -> Prediction:
            now[0] += 2
            return super().prefill(token_ids, positions, rows)

        def decode(self, token_ids: np.ndarray, positions: np.ndarray) -> Prediction:
            now[0] += 0.5
            return super().decode(token_ids, positions)

    def consume(tokens: Iterator[Token]) -> None:
        for _ in tokens:
            now[0] += 100

    generation = Engine(Timed(), clock=lambda: now[0]).generate(prompt_of(10), GenerationOptions(max_new_tokens=5))
    consume(iter(generation))
    statistics = generation.statistics
    assert statistics.prefill_seconds == statistics.first_token_seconds == 4
    assert statistics.decode_seconds == 2
    assert statistics.decode_tokens_per_second == 2
    assert statistics.prefill_tokens_per_second == 2.5


@pytest.mark.parametrize(
    ("prompts", "code"),
    [
        ([[]], "G4C-R055"),
        ([list(range(41))], "G4C-R056"),
        ([[1, VOCABULARY]], "G4C-R057"),
        ([[1, -1]], "G4C-R057"),
        ([], "G4C-R059"),
        ([[1], [1]], "G4C-R059"),
    ],
)
def test_prompts_that_cannot_be_run_are_refused_at_once(prompts: list[list[int]], code: str) -> None:
    runner = Recorder()
    with pytest.raises(G4cError) as refused:
        Engine(runner).generate_batch(prompts)
    assert (refused.value.code, runner.calls) == (code, [])


def test_a_bundle_without_prefill_is_refused() -> None:
    with pytest.raises(G4cError, match="no prefill program") as refused:
        Engine(Recorder(buckets=())).generate([1])
    assert refused.value.code == "G4C-R058"


@pytest.mark.parametrize(
    ("length", "buckets"), [(1, [4]), (4, [4]), (5, [8]), (8, [8]), (9, [8, 4]), (16, [8]), (30, [8])]
)
def test_the_programs_of_a_prompt(length: int, buckets: list[int]) -> None:
    assert Engine(Recorder()).programs(length) == (*(f"prefill_{bucket}" for bucket in buckets), "decode")
