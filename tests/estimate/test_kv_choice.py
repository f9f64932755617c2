"""Whether K and V fit, and V alone: decided by memory, on every target, with the figures in the reason."""

from __future__ import annotations

import pytest
from closed_forms import ClosedForms

from g4c.estimate.kv import RESERVE_BYTES, choose_kv
from g4c.estimate.machines import CHIPS, MICROCODE_BYTES
from g4c.frontend.config import load_model_config
from g4c.ir.types import DType


@pytest.mark.parametrize(
    ("variant", "wanted", "kind", "fits"),
    [
        ("e2b", {"target": "trn2", "context": 131072}, "full", True),
        ("e4b", {"target": "trn1", "context": 8192}, "full", True),
        ("e4b", {"target": "trn1", "context": 131072}, "full", False),  # the weights leave 1 GB; K cannot be rebuilt
        ("12b", {"target": "trn2", "context": 8192}, "full", True),
        ("12b", {"target": "trn2", "context": 24576}, "v-only", True),
        ("12b", {"target": "trn2", "context": 131072}, "full", False),  # neither
        ("12b", {"target": "inf2", "context": 8192}, "full", False),  # the weights alone do not fit
        ("12b", {"target": "trn3", "context": 131072}, "full", True),
        ("12b", {"target": "cpu", "context": 262144}, "full", True),
        ("31b", {"target": "trn2", "context": 262144, "tp": 4}, "full", True),
        ("31b", {"target": "trn2", "context": 262144, "tp": 4, "batch": 2}, "v-only", True),
        ("31b", {"target": "trn2", "context": 262144, "tp": 4, "batch": 2, "windowed": False}, "full", False),
        ("12b", {"target": "trn2", "context": 8192, "dtype": DType.F32}, "full", False),
    ],
)
def test_choices(variant: str, wanted: dict, kind: str, fits: bool) -> None:
    choice = choose_kv(load_model_config(variant), **wanted)
    assert (choice.kind, choice.fits) == (kind, fits), choice.reason
    if choice.memory is not None:
        assert f"{choice.full_bytes / 1e9:.2f} GB" in choice.reason
    if kind == "v-only":
        assert f"{choice.v_only_bytes / 1e9:.2f} GB" in choice.reason
        assert choice.v_only_bytes + choice.rebuilt_bytes <= choice.memory - choice.other_bytes < choice.full_bytes


def test_the_edge() -> None:
    """The first context at which K and V do not fit is where the closed forms say."""
    forms, config = ClosedForms("12b"), load_model_config("12b")
    weights = 2 * (forms.decoder_parameters + forms.head + len(forms.layers))
    free = (CHIPS["trn2"].hbm // 4) - weights - 2 * MICROCODE_BYTES - RESERVE_BYTES
    sliding = sum(forms.kv_bytes(layer) * layer.window for layer in forms.layers)
    growing = sum(forms.kv_bytes(layer) for layer in forms.layers if layer.full)
    growing += 2 * 2 * (256 + 512) // 2  # a row of cos and of sin for each kind of layer
    longest = (free - sliding) // growing
    assert 8192 < longest < 24576
    assert choose_kv(config, target="trn2", context=longest).kind == "full"
    assert choose_kv(config, target="trn2", context=longest + 1).kind == "v-only"


def test_heads_are_replicated_where_cores_outnumber_them() -> None:
    """E2B has one KV head: every core of four has all of its caches; 12B has one on full, eight on sliding layers."""
    config = load_model_config("e2b")
    one, four = (choose_kv(config, target="trn2", context=8192, tp=tp).full_bytes for tp in (1, 4))
    assert one == four == ClosedForms("e2b").cache_bytes(8192, owned=True, windowed=True)
    forms = ClosedForms("12b")
    found = choose_kv(load_model_config("12b"), target="trn2", context=8192, tp=4).full_bytes
    sliding = sum(forms.kv_bytes(layer) * layer.window for layer in forms.layers) // 4
    assert found == sliding + 8192 * sum(forms.kv_bytes(layer) for layer in forms.layers if layer.full)
