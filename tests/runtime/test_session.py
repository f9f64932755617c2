"""Sessions on a bundle made by hand: a model whose logits tell every token and position that it has seen.

The cache holds, at slot p, the embedding of the token fed at position p. Logits of a row at position p are the sum of
the embeddings at slots 0 to p, in f32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from g4c.errors import G4cError
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Source, Weight
from g4c.lowering.neuron.finish import Signature, finish
from g4c.lowering.neuron.xla import stablehlo_to_hlo
from g4c.runtime import cpu
from g4c.runtime.bundle import Bundle, BundleWriter, open_bundle, tensor_json, type_json, weight_json
from g4c.runtime.engine import Engine, GenerationOptions
from g4c.runtime.session import Session

BATCH, CONTEXT, VOCABULARY, ROWS = 2, 12, 8, 2
CACHE = TensorType((BATCH, CONTEXT, VOCABULARY), DType.F32)
TABLE = TensorType((VOCABULARY, VOCABULARY), DType.F32)
EMBEDDING = np.random.default_rng(0).standard_normal(TABLE.shape).astype(np.float32)


def program(length: int, rows: int) -> bytes:
    """`length` tokens at `positions` into the cache; logits of `rows` rows (decode: 0, of the only one)."""
    b, c, v, s, r = BATCH, CONTEXT, VOCABULARY, length, rows or 1
    picked = "%at_rows" if rows else "%positions"
    at_rows = f"""
  %first = stablehlo.slice %positions [0:{b}, 0:1] : (tensor<{b}x{s}xi32>) -> tensor<{b}x1xi32>
  %firsts = stablehlo.broadcast_in_dim %first, dims = [0, 1] : (tensor<{b}x1xi32>) -> tensor<{b}x{r}xi32>
  %at_rows = stablehlo.add %firsts, %rows : tensor<{b}x{r}xi32>"""
    asked = f", %rows: tensor<{b}x{r}xi32>" if rows else ""
    slots = f"tensor<{b}x{s}x{c}x"
    return stablehlo_to_hlo(f"""module @m {{
func.func public @main(%token_ids: tensor<{b}x{s}xi32>, %positions: tensor<{b}x{s}xi32>{asked},
    %cache: tensor<{b}x{c}x{v}xf32>, %table: tensor<{v}x{v}xf32>)
    -> (tensor<{b}x{r}x{v}xf32>, tensor<{b}x{c}x{v}xf32>) {{
  %ids = stablehlo.iota dim = 2 : tensor<{b}x{s}x{v}xi32>
  %tokens = stablehlo.broadcast_in_dim %token_ids, dims = [0, 1] : (tensor<{b}x{s}xi32>) -> tensor<{b}x{s}x{v}xi32>
  %is = stablehlo.compare EQ, %ids, %tokens
      : (tensor<{b}x{s}x{v}xi32>, tensor<{b}x{s}x{v}xi32>) -> tensor<{b}x{s}x{v}xi1>
  %one_hot = stablehlo.convert %is : (tensor<{b}x{s}x{v}xi1>) -> tensor<{b}x{s}x{v}xf32>
  %x = stablehlo.dot_general %one_hot, %table, contracting_dims = [2] x [0]
      : (tensor<{b}x{s}x{v}xf32>, tensor<{v}x{v}xf32>) -> tensor<{b}x{s}x{v}xf32>
  %slots = stablehlo.iota dim = 2 : {slots}i32>
  %at = stablehlo.broadcast_in_dim %positions, dims = [0, 1] : (tensor<{b}x{s}xi32>) -> {slots}i32>
  %here = stablehlo.compare EQ, %slots, %at : ({slots}i32>, {slots}i32>) -> {slots}i1>
  %place = stablehlo.convert %here : ({slots}i1>) -> {slots}f32>
  %moved = stablehlo.dot_general %place, %x, batching_dims = [0] x [0], contracting_dims = [1] x [1]
      : ({slots}f32>, tensor<{b}x{s}x{v}xf32>) -> tensor<{b}x{c}x{v}xf32>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %written = stablehlo.reduce(%place init: %zero) applies stablehlo.add across dimensions = [1]
      : ({slots}f32>, tensor<f32>) -> tensor<{b}x{c}xf32>
  %ones = stablehlo.constant dense<1.0> : tensor<{b}x{c}xf32>
  %kept = stablehlo.subtract %ones, %written : tensor<{b}x{c}xf32>
  %keep = stablehlo.broadcast_in_dim %kept, dims = [0, 1] : (tensor<{b}x{c}xf32>) -> tensor<{b}x{c}x{v}xf32>
  %old = stablehlo.multiply %cache, %keep : tensor<{b}x{c}x{v}xf32>
  %new = stablehlo.add %old, %moved : tensor<{b}x{c}x{v}xf32>
  %keys = stablehlo.iota dim = 2 : tensor<{b}x{r}x{c}xi32>{at_rows if rows else ""}
  %last = stablehlo.broadcast_in_dim {picked}, dims = [0, 1] : (tensor<{b}x{r}xi32>) -> tensor<{b}x{r}x{c}xi32>
  %seen = stablehlo.compare LE, %keys, %last
      : (tensor<{b}x{r}x{c}xi32>, tensor<{b}x{r}x{c}xi32>) -> tensor<{b}x{r}x{c}xi1>
  %visible = stablehlo.convert %seen : (tensor<{b}x{r}x{c}xi1>) -> tensor<{b}x{r}x{c}xf32>
  %logits = stablehlo.dot_general %visible, %new, batching_dims = [0] x [0], contracting_dims = [2] x [1]
      : (tensor<{b}x{r}x{c}xf32>, tensor<{b}x{c}x{v}xf32>) -> tensor<{b}x{r}x{v}xf32>
  return %logits, %new : tensor<{b}x{r}x{v}xf32>, tensor<{b}x{c}x{v}xf32>
}} }}""")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("bundles") / "small"
    with BundleWriter(target) as writer:
        programs: dict[str, Any] = {}
        for name, length, rows in (("decode", 1, 0), ("prefill_4", 4, ROWS), ("prefill_8", 8, ROWS)):
            inputs = {"token_ids": length, "positions": length} | ({"rows": rows} if rows else {})
            signature = Signature((*inputs,), ("logits",), ("layers.0.k",), ("table",))
            writer.write(f"programs/{name}.hlo.pb", finish(program(length, rows), name, signature))
            programs[name] = {
                "file": f"programs/{name}.hlo.pb",
                "inputs": [tensor_json(key, TensorType((BATCH, size), DType.S32)) for key, size in inputs.items()],
                "outputs": [tensor_json("logits", TensorType((BATCH, rows or 1, VOCABULARY), DType.F32))],
                "caches": ["layers.0.k"],
                "weights": ["table"],
                "flops": 0,
                "bytes": 0,
            }
        writer.commit(
            {
                "name": "small",
                "dtype": "f32",
                "vocabulary": VOCABULARY,
                "batch": BATCH,
                "max_context": CONTEXT,
                "programs": programs,
                "caches": {"layers.0.k": type_json(CACHE)},
                "weights": {"table": weight_json(Weight("table", (Source("table", TABLE),)))},
            }
        )
    return open_bundle(target)


class Weights(Mapping[str, np.ndarray]):
    """The model's weights; counts how often each is asked for."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


@pytest.fixture
def session(bundle: Bundle) -> Session:
    return Session(bundle, Weights(table=EMBEDDING))


def logits(tokens: list[int]) -> np.ndarray:
    return EMBEDDING[tokens].sum(axis=0)


def check(found: np.ndarray, *sequences: list[int]) -> None:
    np.testing.assert_allclose(found, np.stack([logits(tokens) for tokens in sequences]), rtol=1e-5, atol=1e-5)


def test_prefill_then_decode_sees_every_token_once(session: Session) -> None:
    found = session.prefill([[1, 2, 3], [4, 5, 6]], [[0, 1, 2], [0, 1, 2]], [[2], [0]])
    assert found.shape == (BATCH, 1, VOCABULARY)
    check(found[:, 0], [1, 2, 3], [4])
    check(session.decode([[7], [1]], [[3], [1]])[:, 0], [1, 2, 3, 7], [4, 1])
    check(session.decode([[0], [2]], [[4], [2]])[:, 0], [1, 2, 3, 7, 0], [4, 1, 2])


def test_as_many_rows_as_were_compiled_can_be_asked_for(session: Session) -> None:
    assert session.logit_rows == ROWS
    found = session.prefill([[1, 2, 3, 4, 5], [6, 7, 0, 1, 2]], [range(5), range(5)], [[4, 0], [3, 1]])
    check(found[0], [1, 2, 3, 4, 5], [1])
    check(found[1], [6, 7, 0, 1], [6, 7])


def test_programs_are_compiled_when_needed_and_weights_are_bound_once(bundle: Bundle) -> None:
    weights = Weights(table=EMBEDDING)
    session = Session(bundle, weights)
    assert session.compiled == ()
    session.prefill(np.ones((BATCH, 4)), [range(4)] * BATCH, np.zeros((BATCH, 1)))
    assert session.compiled == ("prefill_4",)
    session.prefill(np.ones((BATCH, 5)), [range(5)] * BATCH, np.zeros((BATCH, 1)))
    session.prefill(np.ones((BATCH, 8)), [range(8)] * BATCH, np.zeros((BATCH, 1)))
    session.prepare("decode")
    assert session.compiled == ("prefill_4", "prefill_8", "decode")
    assert weights.asked == ["table"]


def test_all_programs_update_the_same_caches_in_place(session: Session) -> None:
    assert not session.cache("layers.0.k").any()
    assert session.cache_bytes == CACHE.nbytes
    address = cpu.address_of(session._caches["layers.0.k"])
    session.prefill([[1, 2], [3, 4]], [[0, 1], [0, 1]], [[1], [1]])
    session.decode([[5], [6]], [[2], [2]])
    assert cpu.address_of(session._caches["layers.0.k"]) == address
    np.testing.assert_allclose(session.cache("layers.0.k")[:, :3], EMBEDDING[[[1, 2, 5], [3, 4, 6]]], rtol=1e-5)


def test_reset_forgets(session: Session) -> None:
    session.prefill([[1, 2], [3, 4]], [[0, 1], [0, 1]], [[1], [1]])
    session.reset()
    check(session.decode([[5], [6]], [[0], [0]])[:, 0], [5], [6])
    assert not session.cache("layers.0.k")[:, 1:].any()


@pytest.mark.parametrize("length", [1, 4, 5, 8, 10])
def test_the_engine_on_a_session(session: Session, length: int) -> None:
    prompts = [list(np.random.default_rng(seed).integers(0, VOCABULARY, length)) for seed in range(BATCH)]
    generation = Engine(session).generate_batch(prompts, GenerationOptions(max_new_tokens=50))
    list(generation)
    for sequence, prompt in enumerate(prompts):
        tokens = list(prompt)
        while len(tokens) <= CONTEXT:
            tokens.append(int(logits(tokens).argmax()))
        assert generation.token_ids(sequence) == tokens[length:]
        assert generation.finish_reason(sequence) == "context"


@pytest.mark.parametrize(
    ("token_ids", "rows"),
    [
        (np.zeros((BATCH, 9)), np.zeros((BATCH, 1))),
        (np.zeros((1, 4)), np.zeros((1, 1))),
        (np.zeros(4), np.zeros((BATCH, 1))),
        (np.zeros((BATCH, 4)), np.zeros((BATCH, ROWS + 1))),
        (np.zeros((BATCH, 4)), np.zeros((BATCH, 0))),
        (np.zeros((BATCH, 4)), np.zeros(BATCH)),
    ],
    ids=str,
)
def test_prefill_of_another_shape_is_refused(session: Session, token_ids: np.ndarray, rows: np.ndarray) -> None:
    with pytest.raises(G4cError) as refused:
        session.prefill(token_ids, np.zeros(token_ids.shape), rows)
    assert refused.value.code == "G4C-R054"


def test_decode_of_another_shape_is_refused(session: Session) -> None:
    with pytest.raises(G4cError, match=r"token_ids has shape \[2, 2\]") as refused:
        session.decode(np.zeros((BATCH, 2)), np.zeros((BATCH, 1)))
    assert refused.value.code == "G4C-R054"


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (Weights(), "G4C-R053"),
        (Weights(table=EMBEDDING[1:]), "G4C-R001"),
        (Weights(table=EMBEDDING.astype(np.float64)), "G4C-R001"),
    ],
)
def test_weights_that_do_not_fit_are_refused(bundle: Bundle, weights: Weights, code: str) -> None:
    session = Session(bundle, weights)
    with pytest.raises(G4cError) as refused:
        session.prepare("decode")
    assert (refused.value.code, session.compiled) == (code, ())


def test_a_failed_execution_leaves_a_session_that_works(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.prefill([[1, 2], [3, 4]], [[0, 1], [0, 1]], [[1], [1]])
    executable = session.prepare("decode")
    with monkeypatch.context() as patch:
        patch.setattr(executable, "execute", lambda buffers: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            session.decode([[5], [6]], [[2], [2]])
    check(session.decode([[5], [6]], [[0], [0]])[:, 0], [5], [6])
