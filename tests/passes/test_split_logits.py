"""split-logits: tokens and log-probabilities are those that torch finds in the logits with log_softmax and sort."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from draft import Draft
from gemma_like import GemmaLike
from pass_testing import run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Module, Result
from g4c.ir.printer import print_module
from g4c.ir.types import Array, DType, TensorType
from g4c.lowering.neuron.lower import lower_program
from g4c.passes.numerics import NumericsCheck
from g4c.passes.split_logits import tile_size
from g4c.runtime.cpu import array_of, cpu_client

VOCABULARY = 50
WHOLE = "canonicalize,cse,dce"
CALLS = f"{WHOLE},specialize-layers"


def best(logits: Array, k: int) -> tuple[Array, Array]:
    """torch's k best of [..., V], of equal ones the lower id first, and its f32 log_softmax there."""
    wide = torch.from_numpy(logits.astype(np.float32))
    ids = torch.sort(wide, dim=-1, descending=True, stable=True).indices[..., :k]
    return ids.numpy(), torch.gather(torch.log_softmax(wide, dim=-1), -1, ids).numpy()


def check(logits: Array, tokens: Array, logprobs: Array) -> None:
    wanted, likely = best(logits, tokens.shape[-1])
    assert (tokens.dtype, logprobs.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(tokens, wanted)
    np.testing.assert_allclose(logprobs, likely, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("before", [WHOLE, CALLS], ids=["flat", "calls"])
@pytest.mark.parametrize(("k", "tile"), [(1, 0), (7, 0), (VOCABULARY, 0), (7, 2048), (VOCABULARY, 2048)])
def test_every_program_of_a_model_over_its_history(k: int, tile: int, before: str, dtype: DType) -> None:
    """Prefill of three rows in chunks and decode, from empty caches, two sequences; caches stay as they were."""
    module = GemmaLike(batch=2, logit_rows=3, pattern="SF", shared=0, dtype=dtype).module()
    run_once(module, before)
    history = NumericsCheck(module)
    assert run_once(module, f"split-logits{{k={k},tile={tile}}}") == {"programs": 2, "kept": 0}
    for program, wanted in history.wanted.items():
        results = [(result.name, result.value.type) for result in module.functions[program].results]
        shape = (2, 3 if program == "prefill_8" else 1, k)
        assert results[:2] == [("tokens", TensorType(shape, DType.S32)), ("logprobs", TensorType(shape, DType.F32))]
        found = history.run(module, program)
        steps = [name for name in wanted if name.startswith("logits")]
        assert len(steps) >= 2
        for step in steps:
            check(wanted[step], *(found[step.replace("logits", part)] for part in ("tokens", "logprobs")))
        for cache in module.caches:
            np.testing.assert_array_equal(found[cache], wanted[cache])


def test_a_second_run_changes_nothing_and_another_k_is_refused() -> None:
    module = GemmaLike(pattern="S", shared=0).module()
    run_once(module, "split-logits{k=3}")
    text = print_module(module)
    assert run_once(module, "split-logits{k=3}") == {"programs": 0, "kept": 0}
    assert print_module(module) == text
    assert code_of(module, "split-logits") == "G4C-P092"


def test_layers_are_cut_out_afterwards_as_before() -> None:
    """The head is no layer's: specialize-layers makes the same functions, and what is left is the same program."""
    first, then = (GemmaLike(pattern="SF", shared=0).module() for _ in range(2))
    run_once(first, f"{WHOLE},split-logits{{k=2}},specialize-layers")
    run_once(then, f"{CALLS},split-logits{{k=2}}")
    assert print_module(first, locations=False) == print_module(then, locations=False)


# -- the head alone ----------------------------------------------------------------------------------------------------


def head(table: Array, count: int = 1, *, cap: float | None = 30.0) -> Module:
    """`count` tokens, their embeddings times the table, softcapped; the table's dtype throughout."""
    module = Module("head")
    draft = Draft(module, "main", 1, width=1, dtype=DType.of(table.dtype))
    draft.function.params.clear()
    ids = draft.function.add_param("token_ids", TensorType((1, count), DType.S32))
    weight = draft.load("table", *table.shape)
    logits = draft.emit(ops.LinearOp(draft.emit(ops.EmbeddingOp(ids, weight, 1.0)), weight), "head")
    if cap is not None:
        logits = draft.emit(ops.SoftcapOp(logits, cap), "head")
    draft.function.results = [Result(logits, "logits")]
    return module


def outcomes(module: Module, table: Array, ids: Array) -> list[list[Array]]:
    """The results in the interpreter, and on XLA's CPU backend."""
    results = interpret(module, "main", {"token_ids": ids}, {"table": table})
    client = cpu_client()
    executable = client.compile(lower_program(module, "main", target="trn2").hlo_proto, "main")
    compiled = executable.execute([client.copy(ids), client.copy(table)])
    return [list(results.values()), [array_of(buffer) for buffer in compiled]]


@pytest.mark.parametrize(
    ("vocabulary", "k", "tile"), [(7919, 5, 2048), (8192, 20, 0), (6, 6, 2048), (8192, 8, 256), (3072, 5, 2048)]
)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_wide_and_narrow_vocabularies_here_and_on_xla(vocabulary: int, k: int, tile: int, dtype: type) -> None:
    """Primes, too: their sum has one step, and they have no tiles. In bf16 many candidates equal the one before."""
    table = (np.random.default_rng(k).standard_normal((vocabulary, 16)) / 2).astype(dtype)
    ids = np.array([[3, 5, 0]], np.int32)
    wanted = outcomes(head(table, 3), table, ids)
    module = head(table, 3)
    run_once(module, f"split-logits{{k={k},tile={tile}}}")
    for (logits,), (tokens, logprobs) in zip(wanted, outcomes(module, table, ids), strict=True):
        assert logits.dtype == dtype
        check(logits, tokens, logprobs)
        if k == 20 and dtype is not np.float32:
            assert (np.diff(logprobs) == 0).mean() > 0.2


def test_sizes_of_tiles() -> None:
    """Gemma 4's vocabulary has 128 of them; a narrow one is a tile; 8 tokens are the least, and primes have none."""
    found = [tile_size(vocabulary, 2048) for vocabulary in (262144, 1100, 2048, 3072, 8, 7, 7919, 2304)]
    assert found == [2048, 1100, 2048, 1536, 8, 0, 0, 768]
    assert tile_size(4096, 0) == 0


def test_rounding_to_the_models_dtype_decides_who_is_equal() -> None:
    """Token 3's logit is the largest before the softcap's rounding to bf16, and equal to that of token 1 after it."""
    table = np.array([[1, 0], [40, 0], [0.5, 0], [40.25, 0]], ml_dtypes.bfloat16)
    products = table.astype(np.float32)[:, 0]
    capped = 30 * np.tanh(products / 30)
    assert capped.argmax() == 3
    assert capped.astype(ml_dtypes.bfloat16)[1] == capped.astype(ml_dtypes.bfloat16)[3]
    module = head(table)
    run_once(module, "split-logits{k=2}")
    for tokens, logprobs in outcomes(module, table, np.array([[0]], np.int32)):
        assert tokens.tolist() == [[[1, 3]]]
        assert logprobs[0, 0, 0] == logprobs[0, 0, 1]


def test_large_logits_do_not_overflow() -> None:
    """Without a softcap, logits of 10,000: exp of none of them is finite."""
    table = np.array([[100.0], [99.0], [-100.0]], np.float32)
    module = head(table, cap=None)
    run_once(module, "split-logits{k=3}")
    for tokens, logprobs in outcomes(module, table, np.array([[0]], np.int32)):
        assert tokens.tolist() == [[[0, 1, 2]]]
        np.testing.assert_allclose(logprobs[0, 0], [0, -100, -20000])


# -- refusals ----------------------------------------------------------------------------------------------------------


def code_of(module: Module, pipeline: str) -> str:
    with pytest.raises(G4cError) as refused:
        run_once(module, pipeline)
    return refused.value.code


TABLE = np.ones((6, 2), np.float32)


@pytest.mark.parametrize("k", [0, -1, 7])
def test_more_candidates_than_tokens_or_fewer_than_one(k: int) -> None:
    assert code_of(head(TABLE), f"split-logits{{k={k}}}") == "G4C-P091"


def test_a_program_without_tokens_stays_as_it_is() -> None:
    """As a vision tower beside the decoder; alone, it gives nothing to do, which is an error."""
    module = head(TABLE)
    draft = Draft(module, "vision", 2)
    draft.give(draft.linear(draft.x, "patches"))
    assert run_once(module, "split-logits") == {"programs": 1, "kept": 1}
    assert [result.name for result in module.functions["vision"].results] == ["y0"]
    del module.functions["main"], module.weights["table"]
    assert code_of(module, "split-logits") == "G4C-P090"


def emit(module: Module, op: ops.ElementwiseOp | ops.SliceOp) -> Result:
    return Result(module.functions["main"].append(op).result, "y")


def test_results_that_are_not_known_to_be_logits() -> None:
    """Two results; a scaled product; a part of the vocabulary; a head that is wider than the embedding; none at all."""
    two, scaled, part, none = (head(TABLE) for _ in range(4))
    two.functions["main"].results.append(Result(two.functions["main"].ops[1].result, "hidden"))
    logits = scaled.functions["main"].results[0].value
    scaled.functions["main"].results = [emit(scaled, ops.AddOp(logits, logits))]
    logits = part.functions["main"].results[0].value
    part.functions["main"].results = [emit(part, ops.SliceOp(logits, (0, 0, 0), (1, 1, 5)))]
    none.functions["main"].results = []
    wide = Module("wide")
    draft = Draft(wide, "main", 1, width=1)
    draft.function.params.clear()
    ids = draft.function.add_param("token_ids", TensorType((1, 1), DType.S32))
    x = draft.emit(ops.EmbeddingOp(ids, draft.load("table", 6, 2), 1.0))
    draft.give(draft.linear(x, "head", 7))
    for module in (two, scaled, part, none, wide):
        text = print_module(module)
        assert code_of(module, "split-logits") == "G4C-P090", text


def test_it_comes_before_the_head_is_taken_apart() -> None:
    table = np.ones((6, 256), ml_dtypes.bfloat16)
    assert code_of(head(table, cap=None), "split-matvec,split-logits") == "G4C-P090"
