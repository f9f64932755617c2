"""prune-prefill and precompute-ple on traces: a batch of three, four rows of logits, chunks and padding, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pass_testing import one_row_at_a_time, run_checked, run_once

from g4c.frontend.config import load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.frontend.variants import VARIANTS
from g4c.ir import ops
from g4c.ir.module import Module
from g4c.ir.types import DType

BEFORE = "canonicalize,precompute-rope,eliminate-shared-kv,canonicalize,cse,dce"


def traced(directory: Path, batch: int, rows: int, dtype: DType) -> Module:
    """Ten layers like E2B's, of which five own their K and V: four sliding, one full."""
    config = VARIANTS["tiny-e2b"].config_json()
    config |= {"num_hidden_layers": 10, "num_kv_shared_layers": 5, "layer_types": config["layer_types"][:10]}
    config |= {"num_attention_heads": 2}
    (directory / "config.json").write_text(json.dumps(config))
    options = TraceOptions(batch=batch, max_context=32, buckets=(12,), dtype=dtype, logit_rows=rows)
    module = trace_programs(load_model_config(str(directory / "config.json")), options)
    run_once(module, BEFORE)
    return module


@pytest.mark.parametrize(("batch", "rows", "dtype"), [(3, 4, DType.F32), (1, 1, DType.BF16)])
def test_to_the_bit(tmp_path: Path, batch: int, rows: int, dtype: DType) -> None:
    module = traced(tmp_path, batch, rows, dtype)
    with one_row_at_a_time():
        pruned = run_checked(module, "prune-prefill")
        parted = run_checked(module, "precompute-ple")
    assert [pruned[f"prefill_12.layers_{part}"] for part in ("pruned", "partly", "whole")] == [5, 1, 4]
    assert parted["prefill_12.flops_before"] == pruned["prefill_12.flops_after"]
    saved = parted["prefill_12.flops_before"] - parted["prefill_12.flops_after"]
    assert saved == 2 * batch * (12 - rows) * 6 * 32 * 128, "six layers' columns of 32, hidden 128"
    prefill = module.functions["prefill_12"]
    assert [op.q.shape[1] for op in prefill.ops_of(ops.AttentionOp)] == [12] * 4 + [rows] * 6


def test_between_rings_and_fused_projections(tmp_path: Path) -> None:
    """Where the default pipeline has them: chunks read rings beside their own keys, which stay whole."""
    module = traced(tmp_path, 3, 4, DType.F32)
    run_once(module, "window-kv-cache{pad=8}")
    with one_row_at_a_time():
        run_checked(module, "prune-prefill,precompute-ple")
        run_checked(module, "fuse-projections,canonicalize,cse,dce", tolerance=1e-6)
    assert run_once(module, "specialize-layers")["layers"] == 2 * 10
    kinds = [name.partition(".")[2] for name in module.callees(module.functions["prefill_12"])]
    assert kinds[4:] == ["full_own_pruned", *["sliding_shared"] * 4, "full_shared"]
