"""`g4c compile --kernels` and `--cpu-kernels`: what is written, what is said, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from g4c.cli.main import main
from g4c.frontend.variants import VARIANTS
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.lowering.neuron.kernel_calls import kernel_calls
from g4c.lowering.nki import families
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.runtime.bundle import Bundle, file_digest, open_bundle

PROMPT = ("--random-weights", "0", "--token-ids", "2,17,4", "--max-new-tokens", "3", "--greedy", "--ignore-eos", "-q")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the config of two narrow layers, one of each kind."""
    path = tmp_path_factory.mktemp("kernels")
    text = VARIANTS["e2b"].config_json()["text_config"]
    text |= {"layer_types": ["sliding_attention", "full_attention"], "num_hidden_layers": 2}
    text |= {"num_kv_shared_layers": 0, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 256}
    text |= {"num_attention_heads": 2, "sliding_window": 16, "hidden_size_per_layer_input": 0}
    (path / "config.json").write_text(json.dumps({"architectures": ["Gemma4ForCausalLM"], **text}))
    return path


def compiled(root: Path, name: str, *options: str) -> int:
    shapes = ("--buckets", "16", "--max-context", "64", "--dtype", "float32")
    return main(["compile", "--config", str(root / "config.json"), "-o", str(root / name), *shapes, *options])


@pytest.fixture(scope="module")
def bundle(root: Path) -> Bundle:
    assert compiled(root, "kernels", "--kernels", "attention", "-q") == 0
    return open_bundle(root / "kernels")


def calls(program: Path) -> int:
    return sum(1 for _ in kernel_calls(HloModule.FromString(program.read_bytes())))


def test_what_is_in_the_bundle(bundle: Bundle) -> None:
    assert bundle.manifest["pipeline"].endswith(
        "specialize-layers,tile-contractions,outline-kernels{kernels=attention}"
    )
    assert bundle.manifest["options"]["kernels"] == {"value": "attention", "origin": "command line"}
    for program in bundle.programs.values():
        assert (calls(program.file), calls(program.cpu_file)) == (2, 0)
        assert len(program.kernels) == 2
    assert {sha for program in bundle.programs.values() for sha in program.kernels} == set(bundle.kernels)
    for sha, kernel in bundle.kernels.items():
        assert file_digest(kernel.file) == sha
        assert f"def {kernel.name}(" in kernel.file.read_text()
        spec = json.loads(kernel.file.with_name("spec.json").read_text())
        assert (spec["entrypoint"], spec["source_sha256"]) == (kernel.name, sha)
        assert (spec["target"], spec["lnc"], spec["min_nki"]) == ("trn2", 2, "0.4")
        assert [item["name"] for item in spec["inputs"]] == [tensor.name for tensor in kernel.inputs]
        assert [tuple(pair) for pair in spec["aliases"]] == list(kernel.aliases)
    updating = [kernel for kernel in bundle.kernels.values() if kernel.aliases]
    assert len(updating) == 2, "decode writes the caches"


def test_a_kernel_that_was_edited(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(iter(bundle.kernels.values())).file
    source = file.read_text()
    try:
        file.write_text(source.replace("import nki", "import nkj", 1))
        assert main(["run", str(bundle.path), "--cpu-kernels", "simulate", *PROMPT]) == 1
    finally:
        file.write_text(source)
    assert "error[G4C-R103]" in capsys.readouterr().err


def test_both_ways_to_run_kernels(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for kernels in ((), ("--cpu-kernels", "reference"), ("--cpu-kernels", "simulate")):
        assert main(["run", str(bundle.path), *kernels, *PROMPT]) == 0
        said.append(capsys.readouterr().out)
    assert len(said[0].split(",")) == 3
    assert len(set(said)) == 1
    arguments = ["verify", str(bundle.path), "--random-weights", "0", "--lengths", "60", "--per-layer", "-q"]
    assert main([*arguments, "--cpu-kernels", "simulate"]) == 0
    assert capsys.readouterr().out.count("rms error") == 1 + 2


def test_a_failing_kernel_is_one_coded_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The simulator's refusal, with the line of the kernel, through XLA."""
    from g4c import kernels

    name, kernel = next((sha, k) for sha, k in bundle.kernels.items() if k.aliases)
    lines = kernel.file.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"def {kernel.name}("))
    body = next(i for i in range(start, len(lines)) if lines[i].endswith(":")) + 1
    lines.insert(body, "    nisa.dma_copy(dst=q, src=nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.psum))")
    broken = tmp_path / "broken.py"
    broken.write_text("\n".join(lines))
    monkeypatch.setattr(
        kernels,
        "_number",
        partial(lambda number, k, t: number(replace(k, file=broken) if k == kernel else k, t), kernels._number),
    )
    assert name in bundle.kernels
    assert main(["run", str(bundle.path), "--cpu-kernels", "simulate", *PROMPT]) == 1
    err = capsys.readouterr().err
    assert "error[G4C-K0" in err
    assert f"broken.py:{body + 1}" in err
    assert "Traceback" not in err


def test_without_kernels_there_is_nothing_to_simulate(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled(root, "plain", "-q") == 0
    assert not open_bundle(root / "plain").kernels
    for verb in ("run", "verify"):
        rest = PROMPT if verb == "run" else ("--random-weights", "0", "-q")
        assert main([verb, str(root / "plain"), "--cpu-kernels", "simulate", *rest]) == 1
        err = capsys.readouterr().err
        assert "error[G4C-R071]: --cpu-kernels simulate, but no program of the bundle calls a kernel" in err
        assert "--kernels attention" in err


@pytest.mark.parametrize("target", ["trn1", "inf2"])
def test_plain_hlo_where_a_kernel_is_for_later_generations(
    root: Path, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so; the other kernels are called."""
    family = families.FAMILIES["decode_attention"]

    def emit(problem: Any, schedule: Any, generation: int) -> KernelArtifact:
        return replace(family.emit(problem, schedule, generation), generations=(3, 4))

    monkeypatch.setitem(families.FAMILIES, "decode_attention", replace(family, emit=emit))
    assert compiled(root, target, "--kernels", "attention", "--target", target) == 0
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("plain HLO")]
    assert line.startswith(f"plain HLO instead of kernels on {target}: decode_attention_d")
    assert line.endswith("decode_attention kernels are for NeuronCore-v3, v4, not v2")
    programs = open_bundle(root / target).programs
    assert (calls(programs["decode"].file), programs["decode"].kernels) == (0, ())
    assert calls(programs["prefill_16"].file) >= 1


def test_what_is_left_to_do_is_said(bundle: Bundle, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No command for neuronx-cc where it could not take the programs."""
    assert compiled(root, "kernels", "--kernels", "attention") == 0
    err = capsys.readouterr().err
    assert "not done here: NEFFs for trn2: prefill_16 calls 2 kernels that are there as source only, " in err
    assert "neuronx-cc compile" not in err


def test_refusals(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled(root, "no", "--kernels", "al") == 2
    assert "did you mean 'all'?" in capsys.readouterr().err
    twice = ("--kernels", "all", "--pipeline", "canonicalize,specialize-layers,tile-contractions,outline-kernels")
    assert compiled(root, "no", *twice, "-q") == 2
    assert "error[G4C-C042]" in capsys.readouterr().err
    assert not (root / "no").exists()


def test_kernels_after_a_pipeline_of_ones_own(root: Path) -> None:
    """tile-contractions comes in where it is missing."""
    for pipeline in ("canonicalize,precompute-rope", "canonicalize,precompute-rope,tile-contractions"):
        assert compiled(root, "own", "--kernels", "all", "--pipeline", pipeline, "-q") == 0
        bundle = open_bundle(root / "own")
        assert bundle.manifest["pipeline"] == "canonicalize,precompute-rope,tile-contractions,outline-kernels"
        assert all(calls(program.file) > 2 for program in bundle.programs.values()), "attention and products"


def test_sampling_on_the_device(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The head's kernel gives the best of two tiles: the same tokens are drawn, simulated and as its reference."""
    config = json.loads((root / "config.json").read_text())
    config |= {"layer_types": ["full_attention"], "num_hidden_layers": 1, "vocab_size": 4096}
    (root / "wide.json").write_text(json.dumps(config))
    arguments = ["compile", "--config", str(root / "wide.json"), "-o", str(root / "device"), "--dtype", "float32"]
    arguments += ["--buckets", "16", "--max-context", "64", "--kernels", "all", "--sample", "on-device:5", "-q"]
    assert main(arguments) == 0
    capsys.readouterr()
    drawn = [word for word in PROMPT if word != "--greedy"] + ["--temperature", "3", "--top-k", "5", "--seed", "1"]
    drawn[drawn.index("--max-new-tokens") + 1] = "8"
    said = []
    for kernels in ("reference", "simulate"):
        assert main(["run", str(root / "device"), *drawn, "--cpu-kernels", kernels]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert len(set(said[0].split(","))) > 3
    heads = [kernel for kernel in open_bundle(root / "device").kernels.values() if "lm_head" in kernel.name]
    assert {(kernel.cores, kernel.outputs[0].name) for kernel in heads} == {(2, "values")}
    assert all(kernel.name.startswith("lm_head_best8_of2048_stored") for kernel in heads)


def test_more_tokens_than_a_kernel_finds(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled(root, "many", "--kernels", "all", "--sample", "on-device:9") == 0
    said = capsys.readouterr().err
    assert (
        "--sample on-device:9: the head's logits go through HBM: its kernel finds up to 8 tokens, 9 are wanted" in said
    )
    heads = [kernel.name for kernel in open_bundle(root / "many").kernels.values() if "lm_head" in kernel.name]
    assert heads
    assert not [name for name in heads if "best" in name]
