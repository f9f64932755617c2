"""The verdict of a comparison: what it lets through and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from g4c.runtime.candidates import Candidates
from g4c.verification.measures import compare, compare_candidates, cosine, relative_rms

RNG = np.random.default_rng(0)
WANTED = RNG.standard_normal((50, 200)).astype(np.float32) * 5


def noisy(scale: float, seed: int = 1) -> np.ndarray:
    return WANTED + scale * np.random.default_rng(seed).standard_normal(WANTED.shape).astype(np.float32)


def test_f32_rounding_passes_and_one_bad_position_does_not() -> None:
    found = noisy(1e-5)
    assert compare("a", found, WANTED).passes
    found[37, 3] += 1e-3 * np.abs(WANTED[37]).max()
    row = compare("a", found, WANTED)
    assert row.max_relative == pytest.approx(1e-3, rel=0.05)
    assert not row.passes


def test_the_relative_error_is_of_the_largest_logit_of_its_position() -> None:
    wanted = np.array([[4.0, -8.0], [1.0, 0.5]], np.float32)
    found = np.array([[4.0, -8.4], [1.01, 0.5]], np.float32)
    assert compare("a", found, wanted).max_relative == pytest.approx(0.05)


def test_a_shift_by_one_position_fails_in_both_dtypes() -> None:
    shifted = np.roll(WANTED, 1, axis=0)
    assert not compare("a", shifted, WANTED).passes
    assert not compare("a", shifted, WANTED, peer=noisy(0.05)).passes


def test_bf16_is_measured_by_hugging_faces_own_error() -> None:
    peer = noisy(0.05)
    assert compare("a", noisy(0.06, seed=2), WANTED, peer=peer).passes
    worse = compare("a", noisy(0.1, seed=2), WANTED, peer=peer)
    assert worse.rms == pytest.approx(2 * (worse.peer_rms or 0), rel=0.05)
    assert not worse.passes


def test_where_hugging_face_keeps_the_cosine_so_must_the_bundle() -> None:
    peer = noisy(0.001)
    assert compare("a", noisy(0.01, seed=2), WANTED, peer=peer).passes
    row = compare("a", noisy(0.2, seed=2), WANTED, peer=peer)
    assert row.min_cosine < 0.9999
    assert not row.passes


def test_where_rounding_chooses_experts_the_noise_is_that_of_the_worst_position() -> None:
    wanted = np.array([[1.0, 0.5, 0.0], [1.0, 0.5, 0.0]], np.float32)
    peer, found = wanted.copy(), wanted.copy()
    peer[0] += np.float32([0.0, 0.3, 0.0])
    found[1, 1] = 1.001
    flips = float(np.abs(peer - wanted).max())
    assert compare("a", found, wanted, peer=peer).contested == 1
    assert compare("a", found, wanted, peer=peer, flips=flips).contested == 0
    assert compare("a", found, wanted, peer=peer, flips=flips / 2).contested == 1


def test_another_argmax_counts_only_where_the_margin_exceeds_the_noise() -> None:
    wanted = np.array([[1.0, 0.99, 0.0], [1.0, 0.5, 0.0]], np.float32)
    peer = wanted + np.float32(0.01)
    near, far = wanted.copy(), wanted.copy()
    near[0, 1] = 1.001
    far[1, 1] = 1.001
    assert compare("a", near, wanted, peer).contested == 0
    assert compare("a", far, wanted, peer).contested == 1
    assert compare("a", near, wanted).contested == 1
    assert not compare("a", far, wanted, peer).passes


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_never_pass(bad: float) -> None:
    found = noisy(0.0)
    found[3, 7] = bad
    row = compare("a", found, WANTED)
    assert not row.passes
    assert row.min_cosine == -1.0
    assert relative_rms(found, WANTED) == np.inf
    assert not compare("a", found, WANTED, peer=noisy(1.0)).passes


def test_cosine_of_rows() -> None:
    a = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    b = np.array([[2.0, 0.0], [1.0, -1.0], [-1.0, 0.0]])
    assert cosine(a, b).tolist() == pytest.approx([1.0, 0.0, -1.0])


# -- candidates --------------------------------------------------------------------------------------------------------


def best(logits: np.ndarray, k: int) -> Candidates:
    """What a program returns in place of `logits`, by torch."""
    likely, tokens = torch.topk(torch.log_softmax(torch.from_numpy(logits), dim=-1), k)
    return Candidates(tokens.to(torch.int32).numpy(), likely.numpy())


@pytest.mark.parametrize("k", [1, 5, 200])
def test_candidates_of_the_right_logits_pass(k: int) -> None:
    row = compare_candidates("a", best(noisy(1e-5), k), WANTED)
    assert (row.passes, row.contested, row.same_argmax, row.min_cosine) == (True, 0, 50, None)
    assert row.max_relative < 1e-5
    far = compare_candidates("a", best(noisy(0.5), k), WANTED)
    assert not far.passes


def test_one_bad_log_probability_does_not_pass() -> None:
    found = best(WANTED, 5)
    found.logprobs[37, 4] -= 1e-3 * np.abs(WANTED[37]).max()
    row = compare_candidates("a", found, WANTED)
    assert row.max_relative == pytest.approx(1e-3, rel=0.05)
    assert (row.contested, row.passes) == (0, False)


def test_wrong_tokens_are_contested_however_likely_they_are_said_to_be() -> None:
    """One that is not among the best; the second best in the first place; one twice; one outside of the vocabulary;
    the two best in each other's place."""
    for place, token in ((2, int(WANTED[9].argmin())), (0, None), (3, None), (4, 200)):
        found = best(WANTED, 5)
        if token is None:
            found.tokens[9, place] = found.tokens[9, 1 if place == 0 else 2]
        else:
            found.tokens[9, place] = token
        assert compare_candidates("a", found, WANTED).contested == 1, (place, token)
    found = best(WANTED, 5)
    found.tokens[9, :2] = found.tokens[9, 1::-1]
    found.logprobs[9, :2] = found.logprobs[9, 1::-1]
    row = compare_candidates("a", found, WANTED)
    assert (row.contested, row.passes) == (1, False)


def test_log_probabilities_that_ascend_are_contested() -> None:
    """However little, and however right each of them is to the tolerance."""
    wanted = WANTED.copy()
    wanted[9, [3, 8]] = wanted[9].max() + 1
    found = best(wanted, 5)
    assert compare_candidates("a", found, wanted).passes
    found.logprobs[9, 1] += 1e-6
    row = compare_candidates("a", found, wanted)
    assert row.max_relative < 1e-6
    assert (row.contested, row.passes) == (1, False)


def test_candidates_in_bf16_are_measured_by_hugging_faces_own() -> None:
    peer = noisy(0.05)
    row = compare_candidates("a", best(noisy(0.06, seed=2), 20), WANTED, peer)
    assert (row.passes, row.contested) == (True, 0)
    assert row.peer_rms is not None
    worse = compare_candidates("a", best(noisy(0.1, seed=2), 20), WANTED, peer)
    assert worse.rms == pytest.approx(2 * (worse.peer_rms or 0), rel=0.15)
    assert not worse.passes
    assert not compare_candidates("a", best(np.roll(WANTED, 1, axis=0), 20), WANTED, peer).passes


def test_candidates_that_are_not_finite_never_pass() -> None:
    found = best(WANTED, 3)
    found.logprobs[3] = np.nan
    assert not compare_candidates("a", found, WANTED).passes
    assert not compare_candidates("a", found, WANTED, noisy(1.0)).passes
