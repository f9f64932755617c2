"""`g4c compile --kv`: who decides what the caches hold, what is said about it and refused; `g4c verify` after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from g4c.cli.main import main
from g4c.estimate import kv
from g4c.frontend.variants import VARIANTS
from g4c.runtime.bundle import Bundle, open_bundle

WINDOW = 16


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """31B's heads and layer kinds in three narrow layers; K and V of the full one come from one projection."""
    text = VARIANTS["31b"].config_json()["text_config"]
    text |= {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "num_hidden_layers": 3}
    text |= {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 256, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "num_global_key_value_heads": 1, "sliding_window": WINDOW}
    path = tmp_path_factory.mktemp("kv") / "config.json"
    path.write_text(json.dumps({"architectures": ["Gemma4ForCausalLM"], **text}))
    return str(path)


def compiled(config: str, output: Path, *options: str) -> Bundle:
    shapes = ("--buckets", "8", "--max-context", "128", "--dtype", "float32")
    assert main(["compile", "--config", config, "-o", str(output), *shapes, *options]) == 0
    return open_bundle(output)


def test_v_only(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cost is said, the cache of K is gone, and Hugging Face's logits come out."""
    bundle = compiled(config, tmp_path / "bundle", "--kv", "v-only")
    kinds = [(name, cache.type.shape[1]) for name, cache in bundle.caches.items()]
    assert kinds == [*((f"layers.{i}.{part}", 128) for i in range(2) for part in "kv"), ("layers.2.v", 128)]
    assert "window-kv-cache,rebuild-keys," in bundle.manifest["pipeline"]
    assert bundle.manifest["options"]["kv"] == {"value": "v-only", "origin": "command line"}
    saved, operations = 128 * 512 * 4, 4 * 128 * 512
    moved = 4 * 512 * (128 * 5 + 1)  # V and w in, a product out; that and the tables in, K out
    err = capsys.readouterr().err
    assert (
        f"kv: K of 1 layer is rebuilt from V: {saved / 1e6:.1f} MB of caches less, up to {operations / 1e6:.1f} " in err
    )
    assert f"million elementwise operations and {moved / 1e6:.1f} MB moved more per execution" in err
    assert main(["verify", str(tmp_path / "bundle"), "--random-weights", "0", "--lengths", "1,9,17,50", "-q"]) == 0


def test_full_is_what_auto_chooses_where_all_fits(config: str, tmp_path: Path) -> None:
    for kind in ("full", "auto"):
        bundle = compiled(config, tmp_path / kind, "--kv", kind, "-q")
        assert len(bundle.caches) == 6
        assert "rebuild-keys" not in bundle.manifest["pipeline"]


def test_auto_follows_the_estimate_and_says_why(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a core with so little memory that only V fits."""
    real = kv.choose_kv
    asked = []

    def choose(*arguments: object, **options: object) -> kv.KvChoice:
        asked.append(options)
        choice = real(*arguments, **options)  # type: ignore[arg-type]
        assert choice.kind == "full"
        return kv.KvChoice(**{**vars(choice), "kind": "v-only", "reason": "only V fits: so it was said"})

    monkeypatch.setattr(kv, "choose_kv", choose)
    bundle = compiled(config, tmp_path / "bundle", "--batch", "2")
    assert "--kv v-only is chosen: only V fits: so it was said" in capsys.readouterr().err
    assert (asked[0]["target"], asked[0]["context"], asked[0]["batch"]) == ("trn2", 128, 2)
    assert len(bundle.caches) == 5


def test_with_a_pipeline_of_ones_own(config: str, tmp_path: Path) -> None:
    """rebuild-keys comes where it can, and auto leaves the pipeline alone."""
    tables = "canonicalize,precompute-rope,canonicalize,cse,dce,specialize-layers"
    bundle = compiled(config, tmp_path / "a", "--kv", "v-only", "--pipeline", tables, "-q")
    assert bundle.manifest["pipeline"] == tables.replace("rope,", "rope,rebuild-keys,")
    assert len(bundle.caches) == 5
    assert len(compiled(config, tmp_path / "b", "--pipeline", tables, "-q").caches) == 6


REFUSED = [
    ("--kv v-onyl", "C002", "did you mean 'v-only'?"),
    ("--kv v-only --pipeline canonicalize,precompute-rope,rebuild-keys", "C031", "--pipeline has it already"),
    ("--kv full --pipeline canonicalize,precompute-rope,rebuild-keys", "C031", "--pipeline has it already"),
    ("--kv v-only --pipeline canonicalize,cse", "C032", "K of 0 of 1 layers could be proven to follow from V"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED)
def test_refusals(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: str, words: str
) -> None:
    output = tmp_path / "bundle"
    shapes = ("--buckets", "8", "--max-context", "128")
    assert main(["compile", "--config", config, "-o", str(output), *shapes, *arguments.split()]) != 0
    errors = capsys.readouterr().err
    assert f"error[G4C-{code}]" in errors
    assert words in errors
    assert not output.exists()


def test_refuses_a_model_without_such_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "tiny-e2b", "-o", str(tmp_path / "bundle"), "--kv", "v-only"]) == 2
    assert "error[G4C-C030]" in capsys.readouterr().err
