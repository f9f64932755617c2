"""outline-kernels and products: which kernels there are, the same numbers, and kernels that compute what they say."""

from __future__ import annotations

import numpy as np
import pytest
from gemma_like import GemmaLike
from histories import chunked, results_of
from pass_testing import run_once

from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Value
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Transpose
from g4c.lowering.nki.families import artifact_of
from g4c.lowering.nki.simulator import source
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.numerics import difference
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import TILED_PIPELINE

SIZES = GemmaLike(
    pattern="SSFSF", shared=2, hidden=16, mlp=24, heads=4, context=48, window=6, buckets=(16,), mlp_norms=True
)
ATTENTION, MLP = ["attended", "o_proj", "o_gain"], ["gate_up", "down", "mlp_gain"]
GATE = ["per_layer_input", "gate", "projection", "per_layer_gain"]


def tiled(sizes: GemmaLike = SIZES, *, folded: bool = True) -> Module:
    """`folded`: norms in front of products have no weight, as in f32."""
    module = sizes.module()
    pipeline = TILED_PIPELINE if folded else TILED_PIPELINE.replace("fold-norms,", "")
    run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None, sink=lambda _: None))
    return module


def kernels(module: Module) -> list[Function]:
    return [function for function in module.functions.values() if function.role == "kernel"]


def names(function: Function) -> list[str]:
    return [param.name for param in function.params]


@pytest.mark.parametrize("folded", [True, False])
def test_what_follows_attention_is_one_kernel_of_a_layer(folded: bool) -> None:
    module = tiled(folded=folded)
    stats = run_once(module, "outline-kernels{kernels=residual}")
    assert kernels(module)
    for kernel in kernels(module):
        norm = [] if folded else ["mlp_gain_in"]
        assert names(kernel) == ["hidden", *ATTENTION, *norm, *MLP, *GATE, "scalar"]
        assert kernel.name.startswith("residual_attention_mlp_per_layer_scaled")
        (result,) = kernel.results
        assert (result.name, result.value.type) == ("y", kernel.params[0].type)
    layers = [function for function in module.functions.values() if function.role == "layer"]
    assert stats["calls"] == len(layers) > len(kernels(module)), "equal ones are one function"
    assert stats["transposed"] == 5 * SIZES.layers
    for name, weight in module.weights.items():
        swapped = bool(weight.transforms) and weight.transforms[-1] == Transpose((1, 0))
        parts = ("o_proj", "gate_up_proj", "down_proj", "per_layer_input_gate", "per_layer_projection.")
        assert swapped == any(part in name for part in parts), name


def test_without_per_layer_inputs() -> None:
    module = tiled(GemmaLike(pattern="SF", shared=0, ple=0, mlp_norms=True))
    run_once(module, "outline-kernels{kernels=residual}")
    assert kernels(module)
    for kernel in kernels(module):
        assert names(kernel)[:7] == ["hidden", *ATTENTION, *MLP]
        assert "per_layer_input" not in names(kernel)


@pytest.mark.parametrize("folded", [True, False])
def test_projections_take_their_norm_along(folded: bool) -> None:
    """Of a layer whose prefill is pruned: the norm of K and V, and q of the rows that were picked behind the norm."""
    module = tiled(folded=folded)
    run_once(module, "outline-kernels{kernels=projection}")
    normed = [kernel for kernel in kernels(module) if kernel.name.startswith("projection_normed")]
    assert normed
    for kernel in normed:
        assert names(kernel) == (["x", "weight"] if folded else ["x", "gain", "weight"])
        widths = sum(result.value.shape[-1] for result in kernel.results)
        assert kernel.param("weight").type.shape == (kernel.param("x").type.shape[-1], widths)
    split = [len(kernel.results) for kernel in normed]
    assert {1, 2, 3} <= set(split), "q alone; k and v; all of them"
    pruned = module.functions["prefill_16.full_own_pruned"]
    norms = [op for op in pruned.ops_of(ops.RmsNormOp) if op.x is pruned.params[0]]
    assert len(norms) == 1, "it stays for the rows that are picked"


def test_the_head_reads_the_table_as_it_is() -> None:
    """Tokens are looked up in it: it is not transposed."""
    module = tiled()
    stats = run_once(module, "outline-kernels{kernels=head}")
    assert (stats["calls"], stats["transposed"], stats["kept"]) == (2, 0, 0)
    for kernel in kernels(module):
        assert names(kernel) == ["x", "gain", "weight"]
        assert kernel.param("weight").type.shape == (SIZES.vocabulary, SIZES.hidden)
    assert {kernel.name for kernel in kernels(module)} == {"lm_head_normed"}


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize(("batch", "rows", "vocabulary"), [(1, 1, 4096), (2, 3, 512), (1, 1, 50)])
def test_the_best_tokens_of_tiles(batch: int, rows: int, vocabulary: int, dtype: DType) -> None:
    """With split-logits no logit leaves the kernel, and what it gives is what its function says, ties included."""
    sizes = GemmaLike(pattern="S", shared=0, batch=batch, logit_rows=rows, vocabulary=vocabulary, dtype=dtype)
    module = sizes.module()
    pipeline = TILED_PIPELINE.replace("specialize-layers", "split-logits{k=3,tile=2048},specialize-layers")
    run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None, sink=lambda _: None))
    stats = run_once(module, "outline-kernels{kernels=head}")
    assert (stats["calls"], stats["kept"]) == (2, 0)
    made = [value for program in module.programs for op in program.ops for value in op.results]
    assert (batch, rows, vocabulary) not in [value.shape for value in made]
    rng = np.random.default_rng(0)
    for kernel in kernels(module):
        assert [result.name for result in kernel.results] == ["values", "indices", "sums"]
        given = {p.name: (4 * rng.standard_normal(p.type.shape)).astype(dtype.numpy) for p in kernel.params}
        wanted = interpret(module, kernel.name, given, {})
        artifact = artifact_of(kernel, "trn2")
        run = source.load(artifact.source, artifact.name).specialize("trn2")[artifact.cores]
        values, indices, sums = run(*given.values())
        # The kernel rounds a logit once, to bf16; the ops round the norm and the product before it, too.
        close = 1e-5 if dtype is DType.F32 else 2**-6
        np.testing.assert_allclose(values, wanted["values"], rtol=close, atol=close)
        np.testing.assert_allclose(sums, wanted["sums"], rtol=8 * close)
        if dtype is DType.F32:
            np.testing.assert_array_equal(indices, wanted["indices"])


def test_numbers_over_histories() -> None:
    """Products of a matrix and of its transpose's transpose differ by roundings."""
    module = tiled()
    history = chunked(30, 16, decode=6)
    before = results_of(module, history)
    assert run_once(module, "outline-kernels")["calls"] > 0
    for found, wanted in zip(results_of(module, history), before, strict=True):
        assert all(difference(found[name], wanted[name]) <= 1e-5 for name in wanted)


@pytest.mark.parametrize("folded", [True, False])
def test_kernels_compute_what_their_functions_say(folded: bool) -> None:
    """Every kernel of a layer of each kind in the simulator, its operands in the order of the params."""
    sizes = GemmaLike(pattern="SF", shared=0, hidden=16, mlp=24, heads=4, context=16, buckets=(8,), mlp_norms=True)
    module = tiled(sizes, folded=folded)
    run_once(module, "outline-kernels")
    rng = np.random.default_rng(0)
    checked = set()
    for kernel in kernels(module):
        if "attention_d" in kernel.name:
            continue
        given = {param.name: rng.standard_normal(param.type.shape).astype(np.float32) for param in kernel.params}
        wanted = interpret(module, kernel.name, given, {})
        artifact = artifact_of(kernel, "trn2")
        results = source.load(artifact.source, artifact.name).specialize("trn2")[artifact.cores](*given.values())
        results = results if isinstance(results, tuple) else (results,)
        for result, value in zip(kernel.results, results, strict=True):
            np.testing.assert_allclose(value, wanted[result.name], rtol=1e-4, atol=1e-4)
        checked.add(kernel.name.partition("_")[0])
    assert checked == {"residual", "projection", "lm"}


# -- what is no kernel -------------------------------------------------------------------------------------------------


def chain(*, read_inside: bool = False, other_hidden: bool = False) -> Module:
    """hidden + norm(x @ w): perhaps the product is read by somebody else, perhaps the sum is with another type's."""
    module = Module("m")
    function = module.add_function(Function("decode", "program"))

    def param(name: str, *shape: int) -> Value:
        return function.add_param(name, TensorType(shape, DType.F32))

    hidden, x, gain = param("hidden", 1, 1 if other_hidden else 2, 8), param("x", 1, 2, 4), param("gain", 8)
    w = param("w", 8, 4)
    product = function.append(ops.LinearOp(x, w))
    norm = function.append(ops.RmsNormOp(product.result, gain, 1e-6))
    y = function.append(ops.AddOp(hidden, norm.result))
    function.results = [Result(y.result, "y")]
    if read_inside:
        function.results.append(Result(product.result, "product"))
    run_once(module, "tile-contractions")
    return module


@pytest.mark.parametrize("odd", [{"read_inside": True}, {"other_hidden": True}], ids=str)
def test_what_others_read_stays(odd: dict[str, bool]) -> None:
    assert run_once(chain(**odd), "outline-kernels{kernels=residual}")["calls"] == 0


def test_a_weight_that_is_given_stays() -> None:
    """A param of a program is not packed: it cannot be transposed offline."""
    stats = run_once(chain(), "outline-kernels{kernels=residual}")
    assert (stats["calls"], stats["kept"]) == (0, 1)
