"""What prune-prefill and precompute-ple save on traces of the published models, exact to the FLOP.

The closed forms take nothing but the config: a layer's matrices, which layers own their K/V, and how many rows a
program has and gives logits of. Projections are counted: every matmul with a weight, without the head.
"""

from __future__ import annotations

import pytest

from g4c.frontend.config import LayerConfig, ModelConfig, load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir import ops
from g4c.ir.module import Module
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline

BUCKET, LOGIT_ROWS, BATCH = 128, 2, 3
PREFILL = f"prefill_{BUCKET}"


def traced(config: ModelConfig) -> Module:
    """The trace after eliminate-shared-kv."""
    module = trace_programs(config, TraceOptions(BATCH, 256, (BUCKET,), logit_rows=LOGIT_ROWS))
    run(module, "canonicalize,precompute-rope,eliminate-shared-kv,canonicalize,cse,dce")
    return module


def run(module: Module, pipeline: str) -> None:
    run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))


def projections(module: Module, program: str = PREFILL) -> int:
    """Matmul FLOP of a program with weights, the head left out."""
    linears = list(module.functions[program].ops_of(ops.LinearOp))
    return sum(op.cost().flops for op in linears[:-1])


def head_of(module: Module) -> int:
    return list(module.functions[PREFILL].ops_of(ops.LinearOp))[-1].cost().flops


class Matrices:
    """Elements of the matrices of a model, by part."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.layers = config.layers
        self.last_owner = max(layer.index for layer in config.layers if layer.donor is None)
        self.shared = sum(self.kv(layer) + self.others(layer) for layer in self.layers if layer.donor is not None)
        self.owners = sum(self.kv(layer) + self.others(layer) for layer in self.layers if layer.donor is None)
        self.per_layer_input = config.hidden_size * config.ple_width
        self.all = self.owners + self.shared + len(self.layers) * self.per_layer_input

    def kv(self, layer: LayerConfig) -> int:
        count = 0 if layer.donor is not None else 1 if layer.k_eq_v else 2
        return count * self.config.hidden_size * layer.kv_heads * layer.head_dim

    def others(self, layer: LayerConfig) -> int:
        """q and o, the MLP, the gate and the projection of the per-layer input."""
        width = 2 * self.config.num_heads * layer.head_dim + 3 * layer.intermediate_size + 2 * self.config.ple_width
        return self.config.hidden_size * width

    def pruned_last_owner(self) -> int:
        return self.others(self.layers[self.last_owner])

    def pruned_inputs(self) -> int:
        """Projections of the per-layer inputs that layers from the last owner on take."""
        return (len(self.layers) - self.last_owner) * self.per_layer_input


@pytest.mark.parametrize(("variant", "last_owner"), [("e2b", 14), ("31b", 59)])
def test_traces(variant: str, last_owner: int, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_model_config(variant)
    module, matrices = traced(config), Matrices(config)
    assert matrices.last_owner == last_owner
    per_row, saved_rows = 2 * BATCH, BUCKET - LOGIT_ROWS
    before, decode, head = projections(module), projections(module, "decode"), head_of(module)
    total = module.cost(module.functions[PREFILL]).flops
    assert before == per_row * BUCKET * matrices.all
    assert decode == per_row * matrices.all
    run(module, "prune-prefill")
    pruned = projections(module)
    assert before - pruned == per_row * saved_rows * (matrices.shared + matrices.pruned_last_owner())
    saved = 100 * (1 - module.cost(module.functions[PREFILL]).flops / total)
    keys = f"model.layers.{last_owner}.self_attn.k_proj"
    left = keys if variant == "31b" else f"{keys}, model.layers.{last_owner}.self_attn.v_proj"
    assert capsys.readouterr().err == (
        f"prune-prefill: {PREFILL}: 2 of 128 rows from {len(config.layers) - last_owner - 1} of {len(config.layers)} "
        f"layers; model.layers.{last_owner} in part (whole: {left}); {last_owner} layers stay whole; {saved:.1f} % of "
        "the matmul FLOP saved\n"
    )
    run(module, "precompute-ple")
    assert pruned - projections(module) == per_row * saved_rows * matrices.pruned_inputs()
    run(module, "fold-norms,fuse-projections,canonicalize,cse,dce")
    wanted = per_row * saved_rows * (matrices.shared + matrices.pruned_last_owner() + matrices.pruned_inputs())
    assert before - projections(module) == wanted
    assert projections(module, "decode") == decode
    assert head_of(module) == head == per_row * LOGIT_ROWS * config.hidden_size * config.vocab_size
    rows = [BUCKET if layer.index < last_owner else LOGIT_ROWS for layer in config.layers]
    attention = [2 * per_row * config.num_heads * layer.head_dim * 256 for layer in config.layers]
    found = [op.cost().flops for op in module.functions[PREFILL].ops_of(ops.AttentionOp)]
    assert found == [n * flops for n, flops in zip(rows, attention, strict=True)]
    run(module, "specialize-layers")
    check_kinds(module, config, last_owner)


def check_kinds(module: Module, config: ModelConfig, last_owner: int) -> None:
    """The last owner is a kind of its own, from all rows to those asked for, of which the layers after it are kinds."""
    callees = module.callees(module.functions[PREFILL])
    assert len(callees) == len(config.layers)
    for layer, name in zip(config.layers, callees, strict=True):
        kind = f"{layer.attention}_{'own' if layer.donor is None else 'shared'}"
        assert name == f"{PREFILL}.{kind}{'_pruned' if layer.index == last_owner else ''}"
        function = module.functions[name]
        assert function.param("hidden").shape[1] == (LOGIT_ROWS if layer.index > last_owner else BUCKET)
        assert function.results[0].value.shape[1] == (BUCKET if layer.index < last_owner else LOGIT_ROWS)


@pytest.mark.parametrize(
    ("variant", "shared", "with_inputs", "last_owner"), [("e2b", 69.2, 69.6, 2.2), ("e4b", 41.8, 42.1, 2.6)]
)
def test_percentages(variant: str, shared: float, with_inputs: float, last_owner: float) -> None:
    """The published arithmetic, where one row of many does not count; the last owner's part comes on top."""
    matrices = Matrices(load_model_config(variant))
    inputs = sum(layer.donor is not None for layer in matrices.layers) * matrices.per_layer_input
    on_top = matrices.pruned_last_owner() + matrices.pruned_inputs() - inputs
    found = [100 * part / matrices.all for part in (matrices.shared, matrices.shared + inputs, on_top)]
    assert found == pytest.approx([shared, with_inputs, last_owner], abs=0.05)
