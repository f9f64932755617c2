"""The closed forms give the figures that are known for the Gemma 4 family, so that programs may be held against them.

The constants were recomputed from the published configs and checked with an operator-level FLOP counter on Hugging
Face's modules, independently of g4c.
"""

from __future__ import annotations

import pytest
from closed_forms import ClosedForms

from g4c.estimate.kv import KvLayout, KvPerToken, decoder_bytes, kv_bytes, kv_per_token
from g4c.estimate.machines import CHIPS, find_instance, take_cores
from g4c.frontend.config import load_model_config
from g4c.ir.types import DType

VARIANTS = ("e2b", "e4b", "12b", "26b-a4b", "31b")
# decoder, per-layer-embedding table, embedding (= head), active in a decode step
PARAMETERS = {
    "e2b": (1_877_105_920, 2_348_810_240, 402_653_184, 2_279_473_152),
    "e4b": (3_973_352_448, 2_818_572_288, 671_088_640, 4_643_880_960),
    "12b": (10_900_717_312, 0, 1_006_632_960, 11_906_580_480),
    "26b-a4b": (24_494_944_256, 0, 738_197_504, 3_821_830_144),
    "31b": (29_288_059_136, 0, 1_409_286_144, 30_696_013_824),
}
# bytes per token: all layers, owned, growing, sliding, growing with V only
KV = {
    "e2b": (43_008, 18_432, 6_144, 12_288, 6_144),
    "e4b": (100_352, 57_344, 16_384, 40_960, 16_384),
    "12b": (344_064, 344_064, 16_384, 327_680, 8_192),
    "26b-a4b": (225_280, 225_280, 20_480, 204_800, 10_240),
    "31b": (901_120, 901_120, 81_920, 819_200, 40_960),
}
# GB: context -> (all linear, owned linear, windowed); "" where not published
CACHES = {
    "e2b": {4096: ("0.176", "", "0.031"), 8192: ("0.352", "0.151", "0.057"), 131072: ("5.637", "2.416", "0.812")},
    "e4b": {4096: ("0.411", "", "0.088"), 8192: ("0.822", "0.470", "0.155"), 131072: ("13.153", "7.516", "2.168")},
    "12b": {8192: ("2.819", "2.819", "0.470"), 32768: ("11.274", "", "0.872"), 262144: ("90.19", "", "4.631")},
    "26b-a4b": {8192: ("1.845", "1.845", "0.377"), 32768: ("7.382", "", "0.881"), 262144: ("59.06", "", "5.578")},
    "31b": {8192: ("7.382", "7.382", "1.510"), 32768: ("29.528", "", "3.523"), 262144: ("236.2", "", "22.31")},
}
# TF of a prompt: 128, 512, 1024, 4096, 8192, 32768, 131072 tokens
LENGTHS = (128, 512, 1024, 4096, 8192, 32768, 131072)
PREFILL = {
    "e2b": ("0.484", "1.968", "3.995", "16.79", "35.53", "188.4", "1493"),
    "e4b": ("1.022", "4.122", "8.311", "34.07", "70.11", "326.7", "2046"),
    "12b": ("2.800", "11.28", "22.81", "93.90", "192.5", "876.7", "5197"),
    "26b-a4b": ("0.796", "3.234", "6.618", "28.14", "59.24", "303.6", "2271"),
    "31b": ("7.519", "30.29", "61.19", "251.4", "514.7", "2325", "13526"),
}
PREFILL_LAST_TOKEN = {
    "e2b": ("0.151", "0.606", "1.235", "5.277", "11.39", "65.37", "578.2"),
    "e4b": ("0.596", "2.392", "4.817", "19.73", "40.58", "188.8", "1177"),
}


def agree(found: float, published: str) -> bool:
    """Within 0.1 % of a published figure, or of what rounds to its last digit."""
    digits = len(published.partition(".")[2])
    return abs(found - float(published)) <= max(1e-3 * float(published), 0.5 * 10**-digits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters(variant: str) -> None:
    forms = ClosedForms(variant)
    found = (forms.decoder_parameters, forms.ple_table, forms.head, forms.active_weights)
    assert found == PARAMETERS[variant]
    resident = 2 * (forms.decoder_parameters + forms.ple_table + forms.head + len(forms.layers))  # and layer scalars
    assert decoder_bytes(load_model_config(variant), DType.BF16) == resident


@pytest.mark.parametrize("variant", VARIANTS)
def test_kv_bytes_per_token(variant: str) -> None:
    forms = ClosedForms(variant)
    growing = [layer for layer in forms.owners if layer.full]
    found = (
        sum(forms.kv_bytes(layer) for layer in forms.layers),
        sum(forms.kv_bytes(layer) for layer in forms.owners),
        sum(forms.kv_bytes(layer) for layer in growing),
        sum(forms.kv_bytes(layer) for layer in forms.owners if not layer.full),
        sum(forms.kv_bytes(layer, v_only=True) for layer in growing),
    )
    assert found == KV[variant]
    assert kv_per_token(load_model_config(variant), DType.BF16) == KvPerToken(*found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cache_sizes(variant: str) -> None:
    forms, config = ClosedForms(variant), load_model_config(variant)
    for context, published in CACHES[variant].items():
        for (owned, windowed), figure in zip(((False, False), (True, False), (True, True)), published, strict=True):
            size = forms.cache_bytes(context, owned=owned, windowed=windowed)
            assert not figure or agree(size / 1e9, figure), (context, owned, windowed)
            assert kv_bytes(config, context, DType.BF16, KvLayout(owned, windowed)) == size
            assert kv_bytes(config, context, DType.F32, KvLayout(owned, windowed), batch=3) == 6 * size


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill(variant: str) -> None:
    forms = ClosedForms(variant)
    for length, published in zip(LENGTHS, PREFILL[variant], strict=True):
        assert agree(forms.prefill(length) / 1e12, published), length
    for length, published in zip(LENGTHS, PREFILL_LAST_TOKEN.get(variant, ()), strict=False):
        assert agree(forms.prefill(length, shared_rows=1) / 1e12, published), length


@pytest.mark.parametrize(("variant", "percent", "with_ple_rows"), [("e2b", 69.2, 69.6), ("e4b", 41.8, 42.1)])
def test_savings_of_the_last_token(variant: str, percent: float, with_ple_rows: float) -> None:
    forms, length = ClosedForms(variant), 131072
    whole = forms.matmuls(length)
    assert 100 * (1 - forms.matmuls(length, shared_rows=1) / whole) == pytest.approx(percent, abs=0.05)
    pruned = forms.matmuls(length, shared_rows=1, ple_rows=1)
    assert 100 * (1 - pruned / whole) == pytest.approx(with_ple_rows, abs=0.05)


@pytest.mark.parametrize(
    ("instance", "tp", "milliseconds"),
    [
        ("inf2.xlarge", 2, {"e2b": "5.18", "e4b": "10.55", "12b": "27.05"}),
        ("trn2.3xlarge", 1, {"e2b": "6.29", "e4b": "12.81"}),
        ("trn2.3xlarge", 4, {"e2b": "1.57", "e4b": "3.20", "12b": "8.21", "26b-a4b": "2.64", "31b": "21.17"}),
        ("trn3-gen1-ultraserver", 4, {"e2b": "0.93", "12b": "4.86", "26b-a4b": "1.56", "31b": "12.53"}),
    ],
)
def test_decode_floors(instance: str, tp: int, milliseconds: dict[str, str]) -> None:
    """Active weights over the bandwidth of the cores that share them."""
    for variant, published in milliseconds.items():
        forms = ClosedForms(variant)
        cores = take_cores(find_instance(instance), tp, DType.BF16, forms.heads)
        assert agree(1e3 * 2 * forms.active_weights / tp / cores.bandwidth, published), variant


def test_prefill_floors() -> None:
    """31B on a trn2 chip: 45.4, 377, 772, 3486 ms."""
    cores = take_cores(find_instance("trn2.3xlarge"), 4, DType.BF16, 32)
    for length, published in {512: "45.4", 4096: "377", 8192: "772", 32768: "3486"}.items():
        assert agree(1e3 * ClosedForms("31b").prefill(length) / 4 / cores.flops, published)


def test_chips() -> None:
    assert {name: chip.logical_cores for name, chip in CHIPS.items()} == {"inf2": 2, "trn1": 2, "trn2": 4, "trn3": 4}
    for chip in CHIPS.values():
        assert chip.physical_cores % chip.logical_cores == 0
    core = take_cores(find_instance("trn2.48xlarge"), 1, DType.BF16, 8)
    assert (core.memory, core.instance.logical_cores, core.microcode) == (24 << 30, 64, 192_000_000)
    assert core.dma is None
    assert take_cores(find_instance("trn1.2xlarge"), 1, DType.F32, 8).flops == 23.75e12
