"""g4c opt beyond pipelines: names for whole ones; asking a raising rule why it does not match."""

from __future__ import annotations

from pathlib import Path

import pytest

from g4c.cli.main import main
from g4c.passes.pipelines import NAMED_PIPELINES

ALMOST_A_NORM = """\
module @test attributes {g4.level = "graph"} {
  func.func @f(%x: tensor<2x4xf32>) -> (tensor<2x4xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.mul"(%x, %x) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %1 = "g4.reduce"(%0) {kind = "KIND", axes = array<i64: 1>, keep = true} : (tensor<2x4xf32>) -> tensor<2x1xf32>
    %2 = "g4.constant"() {value = dense<0.0009765625> : tensor<f32>} : () -> tensor<f32>
    %3 = "g4.add"(%1, %2) : (tensor<2x1xf32>, tensor<f32>) -> tensor<2x1xf32>
    %4 = "g4.constant"() {value = dense<-0.5> : tensor<f32>} : () -> tensor<f32>
    %5 = "g4.pow"(%3, %4) : (tensor<2x1xf32>, tensor<f32>) -> tensor<2x1xf32> loc("model.norm"("model.py":7:0))
    %6 = "g4.mul"(%x, %5) : (tensor<2x4xf32>, tensor<2x1xf32>) -> tensor<2x4xf32>
    return %6 : tensor<2x4xf32>
  }
}
"""


def test_why_a_rule_does_not_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "almost.mlir"
    path.write_text(ALMOST_A_NORM.replace("KIND", "sum"))
    assert main(["opt", str(path), "--why-not", "raise-rms-norm"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("f: raise-rms-norm does not match g4.pow at model.norm (model.py:7): ")
    assert "the squares are reduced by sum, not mean" in output


def test_a_rule_that_matches_has_nothing_to_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "norm.mlir"
    path.write_text(ALMOST_A_NORM.replace("KIND", "mean"))
    assert main(["opt", str(path), "--why-not", "raise-rms-norm"]) == 0
    output = capsys.readouterr().out
    assert output == "raise-rms-norm: it matches everywhere it could start, or there is no such place\n"


def test_unknown_rules_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "norm.mlir"
    path.write_text(ALMOST_A_NORM.replace("KIND", "mean"))
    assert main(["opt", str(path), "--why-not", "raise-rmsnorm"]) == 2
    assert "did you mean 'raise-rms-norm'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMED_PIPELINES)
def test_a_name_stands_for_a_pipeline(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stats of every pass show what ran."""
    path = tmp_path / "norm.mlir"
    path.write_text(ALMOST_A_NORM.replace("KIND", "mean"))
    outputs = []
    for pipeline in (name, NAMED_PIPELINES[name]):
        assert main(["opt", str(path), "--pipeline", pipeline, "--pass-stats"]) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0] == outputs[1]
    last = NAMED_PIPELINES[name].split(",")[-1].partition("{")[0]
    assert f"_{last}: " in outputs[0].err.splitlines()[-1]
    assert ('g4.level = "tiled"' in outputs[0].out) == (name == "tiled")
