"""Sampling against the warpers of Hugging Face's generation, and its determinism."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g4c.errors import G4cError
from g4c.runtime.candidates import Candidates
from g4c.runtime.sampling import GREEDY, Sampler, Sampling, candidates, logprob

VOCABULARY = 1000


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probabilities [vocabulary] as `generate` computes them."""
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.from_numpy(logits.astype(np.float32))[None]
    ids = torch.zeros((1, 1), dtype=torch.long)
    if sampling.temperature != 1:
        scores = TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    return torch.softmax(scores, dim=-1)[0].numpy()


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.7),
        Sampling(temperature=1.5, top_k=5),
        Sampling(top_k=0, top_p=0.3),
        Sampling(top_k=0, top_p=0.999),
        Sampling(top_k=0, top_p=1.0),
        Sampling(top_k=1),
        Sampling(top_k=2 * VOCABULARY, top_p=0.01),
    ],
    ids=str,
)
def test_candidates_are_those_of_hugging_face(sampling: Sampling, spread: float) -> None:
    for seed in range(5):
        logits = (np.random.default_rng(seed).standard_normal(VOCABULARY) * spread).astype(np.float32)
        ids, probabilities = candidates(logits, sampling)
        mine = np.zeros(VOCABULARY)
        mine[ids] = probabilities
        theirs = reference(logits, sampling)
        assert np.array_equal(mine > 0, theirs > 0)
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-7)


def test_ties_at_the_edge_of_top_k_all_stay() -> None:
    logits = np.array([1, 3, 2, 2, 0], np.float32)
    sampling = Sampling(top_k=2, top_p=1.0)
    ids, probabilities = candidates(logits, sampling)
    assert ids.tolist() == [1, 2, 3]
    np.testing.assert_allclose(probabilities, reference(logits, sampling)[ids], rtol=1e-5)


def best(logits: np.ndarray, k: int) -> Candidates:
    """What a program returns in place of `logits`."""
    import torch

    wide = torch.from_numpy(logits.astype(np.float32))
    ids = torch.sort(wide, descending=True, stable=True).indices[:k]
    return Candidates(ids.to(torch.int32).numpy(), torch.log_softmax(wide, dim=-1)[ids].numpy())


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(top_k=40), Sampling(0.6, top_k=40, top_p=1.0), Sampling(1.7, top_k=20), Sampling(top_k=1, top_p=0.1)],
    ids=str,
)
def test_the_best_tokens_are_as_good_as_all_logits(sampling: Sampling, dtype: type) -> None:
    """The same ids with the same probabilities, so the same draws. In bf16 many logits are equal."""
    for seed in range(20):
        logits = (np.random.default_rng(seed).standard_normal(VOCABULARY) * 3).astype(dtype)
        wanted, found = candidates(logits, sampling), candidates(best(logits, 60), sampling)
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)
        drawn = [Sampler(sampling)(prediction) for prediction in (logits, best(logits, 60))]
        assert drawn[0] == drawn[1]


def test_of_ties_with_the_last_candidate_only_those_given_can_stay() -> None:
    logits = np.array([1, 3, 2, 2, 2, 0], np.float32)
    sampling = Sampling(top_k=3, top_p=1.0)
    assert candidates(logits, sampling)[0].tolist() == [1, 2, 3, 4]
    assert candidates(best(logits, 5), sampling)[0].tolist() == [1, 2, 3, 4]
    assert candidates(best(logits, 3), sampling)[0].tolist() == [1, 2, 3]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    st.floats(0.05, 5),
    st.integers(0, 50),
    st.floats(0.01, 1),
)
def test_there_is_always_a_candidate_and_the_most_likely_is_first(
    values: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.array(values, np.float32)
    ids, probabilities = candidates(logits, Sampling(temperature, top_k, top_p))
    assert logits[ids[0]] == pytest.approx(logits.max(), rel=1e-6, abs=1e-30)  # dividing may make neighbors equal
    assert (np.diff(probabilities) <= 1e-12).all()
    assert abs(probabilities.sum() - 1) < 1e-9


def test_drawn_tokens_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    sampler = Sampler(Sampling(top_k=0, top_p=1.0))
    counts = np.bincount([sampler(logits) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, [0.5, 0.25, 0.125, 0.125], atol=0.03)


def test_the_seed_decides() -> None:
    logits = np.random.default_rng(0).standard_normal(VOCABULARY).astype(np.float32)

    def draw(seed: int, stream: int = 0) -> list[int]:
        sampler = Sampler(Sampling(seed=seed), stream)
        return [sampler(logits) for _ in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1) != draw(1, stream=1)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_greedy_takes_the_first_of_the_largest(dtype: type) -> None:
    logits = np.array([0, 2, -1, 2, 1]).astype(dtype)
    assert Sampler(GREEDY)(logits) == 1
    assert Sampler(Sampling(top_k=1, seed=3))(logits) in (1, 3)
    assert Sampler(GREEDY)(best(logits, 2)) == 1


def test_log_probabilities() -> None:
    import torch

    logits = (np.random.default_rng(0).standard_normal(VOCABULARY) * 9).astype(np.float32)
    wanted = torch.log_softmax(torch.from_numpy(logits).double(), dim=-1)
    for token in (0, 5, int(logits.argmax())):
        assert logprob(logits, token) == pytest.approx(float(wanted[token]), rel=1e-6)
    top = best(logits, 5)
    for token, likely in zip(top.tokens, top.logprobs, strict=True):
        assert logprob(top, int(token)) == likely


def test_logits_that_are_not_numbers_are_refused() -> None:
    for sampling in (GREEDY, Sampling()):
        with pytest.raises(G4cError, match="not numbers") as refused:
            Sampler(sampling)(np.array([0, np.nan], np.float32))
        assert refused.value.code == "G4C-R061"
        with pytest.raises(G4cError, match="not numbers"):
            Sampler(sampling)(Candidates(np.array([4, 2], np.int32), np.array([np.nan, np.nan], np.float32)))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(G4cError) as refused:
        Sampling(**options)
    assert (refused.value.code, refused.value.exit_code) == ("G4C-R060", 2)
