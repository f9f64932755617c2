"""The pass manager: what it checks around a pass, what it shows, what it leaves behind when a pass fails."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gemma_like import GemmaLike, function_of, module_of

from g4c.cli.main import main
from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Module
from g4c.ir.op import Dense, Level
from g4c.ir.parser import parse_module
from g4c.ir.printer import print_module
from g4c.ir.types import DType, TensorType
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.manager import PassFailedError, PipelineOptions, run_pipeline, structure
from g4c.passes.numerics import sample_inputs
from g4c.passes.pipeline import Pipeline, header_pipeline, parse_pipeline
from g4c.passes.pipelines import DEFAULT_PIPELINE

VECTOR = TensorType((4,), DType.F32)


def small() -> Module:
    """y = exp(a), with an op that canonicalize removes and one that dce removes."""
    function = function_of(VECTOR)
    (a,) = function.params
    x = function.append(ops.ReshapeOp(a, VECTOR)).result
    function.append(ops.TanhOp(a))
    return module_of(function, [function.append(ops.ExpOp(x)).result])


@dataclass(frozen=True)
class Act(Pass):
    """Does what the test says."""

    name = "act"
    level_before = None

    how: str = "nothing"

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        function = module.functions["main"]
        if self.how == "break":
            function.ops.reverse()
        elif self.how == "crash":
            raise RuntimeError("oh no")
        elif self.how == "build":
            function.append(ops.LinearOp(function.params[0], function.params[0]))
        elif self.how == "hide":
            function.append(ops.ExpOp(function.params[0]))
            return PassResult(False)
        elif self.how == "refuse":
            raise G4cError("G4C-P020", "no proof", where="main:0", help="another trace")
        elif self.how == "lower":
            module.level = Level.TILED
        elif self.how == "wrong":
            one = function.append(ops.ConstantOp(Dense.scalar(1.5, DType.F32)))
            function.results[0].value = function.append(ops.MulOp(function.results[0].value, one.result)).result
        elif self.how == "remark":
            ctx.remark(f"after {', '.join(ctx.history)}")
            return PassResult(False)
        return PassResult(self.how != "nothing")


def run(module: Module, *how: str, **options: object) -> None:
    run_pipeline(module, Pipeline.of(*(Act(one) for one in how)), PipelineOptions(**options))  # type: ignore[arg-type]


@pytest.mark.invalid_ir
@pytest.mark.parametrize(
    ("how", "code", "exit_code"),
    [
        ("break", "G4C-V005", 4),
        ("crash", "G4C-P011", 70),
        ("build", "G4C-P011", 70),
        ("hide", "G4C-P010", 70),
        ("refuse", "G4C-P020", 1),
    ],
)
def test_a_failing_pass_leaves_a_reproducer(how: str, code: str, exit_code: int, tmp_path: Path) -> None:
    module = small()
    wanted = print_module(module)
    with pytest.raises(PassFailedError) as caught:
        run(module, "remark", how, repro_dir=tmp_path / "repro", sink=lambda _: None)
    error = caught.value
    assert (error.code, error.exit_code) == (code, exit_code)
    lines = str(error).splitlines()
    assert lines[0].startswith(f"error[{code}]: ")
    assert f"  = pass: act{{how={how}}} (after act)" in lines
    assert lines[-1] == f"  = repro: g4c opt {tmp_path}/repro/act/input.mlir"
    text = (tmp_path / "repro/act/input.mlir").read_text(encoding="utf-8")
    assert header_pipeline(text) == f"act{{how={how}}}"
    assert print_module(parse_module(text)) == wanted
    assert json.loads((tmp_path / "repro/act/environment.json").read_text(encoding="utf-8"))["numpy"] == np.__version__
    assert code in (tmp_path / "repro/act/error.txt").read_text(encoding="utf-8")


@pytest.mark.invalid_ir
def test_a_crash_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(PassFailedError) as caught:
        run(small(), "crash", repro_dir=tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "RuntimeError: oh no" in (tmp_path / "act/error.txt").read_text(encoding="utf-8")


def test_claiming_a_change_that_is_none() -> None:
    @dataclass(frozen=True)
    class Boast(Pass):
        """Claims a change."""

        name = "boast"

        def run(self, module: Module, ctx: PassContext) -> PassResult:
            return PassResult(True)

    with pytest.raises(G4cError) as caught:
        run_pipeline(small(), Pipeline.of(Boast()), PipelineOptions(repro_dir=None))
    assert caught.value.code == "G4C-P010"
    run_pipeline(small(), Pipeline.of(Boast()), PipelineOptions(verify_each=False))


@pytest.mark.invalid_ir
def test_a_bad_input_is_the_input_s_fault(tmp_path: Path) -> None:
    module = small()
    module.functions["main"].ops.reverse()
    with pytest.raises(G4cError) as caught:
        run(module, "nothing", repro_dir=tmp_path / "repro")
    assert caught.value.code == "G4C-V005"
    assert not isinstance(caught.value, PassFailedError)
    assert not (tmp_path / "repro").exists()
    run(module, "nothing", verify_each=False)


def test_level_of_the_input() -> None:
    module = small()
    run(module, "lower", repro_dir=None)
    with pytest.raises(G4cError) as caught:
        run_pipeline(module, parse_pipeline("dce,specialize-layers"))
    assert caught.value.code == "G4C-P006"


def test_check_numerics_finds_a_wrong_pass(tmp_path: Path) -> None:
    run(small(), "nothing", check_numerics=True)
    with pytest.raises(PassFailedError) as caught:
        run(small(), "wrong", check_numerics=True, repro_dir=tmp_path)
    assert caught.value.code == "G4C-P012"
    assert "result y0" in caught.value.message
    assert str(caught.value).endswith(f"g4c opt --check-numerics {tmp_path}/act/input.mlir")


def test_check_numerics_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g4c.passes.numerics.LIMIT_BYTES", 100)
    with pytest.raises(G4cError) as caught:
        run_pipeline(GemmaLike().module(), parse_pipeline("dce"), PipelineOptions(check_numerics=True))
    assert caught.value.code == "G4C-P013"


def test_report() -> None:
    report = run_pipeline(small(), parse_pipeline("canonicalize{iterations=2},cse,dce"))
    assert [(run.number, run.entry, run.modified) for run in report.runs] == [
        (1, "canonicalize{iterations=2}", True),
        (2, "cse", False),
        (3, "dce", True),
    ]
    assert report.modified
    assert report.stats("dce") == {"ops": 1, "functions": 0, "weights": 0}
    assert report.stats("canonicalize") == {"identity-reshape": 1}
    assert "02_cse: no change" in report.format_stats()
    assert "identity-reshape 1" in report.format_stats()
    assert report.format_time().splitlines()[-1].endswith("total")


def test_diagnostics_go_to_the_sink(capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    options = PipelineOptions(
        print_ir_before=("dce",), print_ir_after=("1",), print_ir_after_change=True, time=True, stats=True,
        sink=shown.append,
    )  # fmt: skip
    run_pipeline(small(), parse_pipeline("canonicalize,cse,dce"), options)
    titles = [text.splitlines()[0] for text in shown]
    assert titles[:3] == ["// IR after 01_canonicalize", "// IR before 03_dce", "// IR after 03_dce"]
    assert titles[3].startswith("01_canonicalize: ")
    assert titles[4].endswith("01_canonicalize")
    assert "g4.tanh" in shown[1]
    assert "g4.tanh" not in shown[2]
    run_pipeline(small(), parse_pipeline("canonicalize"), PipelineOptions(print_ir_before=("all",)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("// IR before 01_canonicalize")


@pytest.mark.parametrize("place", ["csx", "9"])
def test_unknown_places_are_refused_before_anything_runs(place: str) -> None:
    module = small()
    for options in (
        PipelineOptions(print_ir_before=(place,)),
        PipelineOptions(start_from=place),
        PipelineOptions(stop_after=place),
    ):
        with pytest.raises(G4cError) as caught:
            run_pipeline(module, parse_pipeline("canonicalize,cse"), options)
        assert caught.value.code == "G4C-P007"
    assert print_module(module) == print_module(small())


def test_start_from_and_stop_after() -> None:
    pipeline = parse_pipeline("canonicalize,cse,dce")
    report = run_pipeline(small(), pipeline, PipelineOptions(start_from="cse", stop_after="2"))
    assert [run.entry for run in report.runs] == ["cse"]
    with pytest.raises(G4cError) as caught:
        run_pipeline(small(), pipeline, PipelineOptions(start_from="dce", stop_after="cse"))
    assert caught.value.code == "G4C-P007"


def test_every_dump_resumes(tmp_path: Path) -> None:
    module = GemmaLike().module()
    pipeline = parse_pipeline(DEFAULT_PIPELINE)
    run_pipeline(module, pipeline, PipelineOptions(dump_dir=tmp_path))
    wanted = print_module(module)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:3] == ["00_input.mlir", "01_canonicalize.mlir", "02_precompute-rope.mlir"]
    assert len(names) == len(pipeline) + 1
    for done, name in enumerate(names):
        text = (tmp_path / name).read_text(encoding="utf-8")
        rest = header_pipeline(text)
        assert rest is not None
        assert len(parse_pipeline(rest, resumed=True)) == len(pipeline) - done
        resumed = parse_module(text)
        run_pipeline(resumed, parse_pipeline(rest, resumed=True))
        assert print_module(resumed) == wanted, name
        if done < len(pipeline):
            resumed = parse_module(text)
            run_pipeline(resumed, pipeline, PipelineOptions(start_from=str(done + 1)))
            assert print_module(resumed) == wanted, name


def test_stale_dumps_go_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "09_old.mlir").write_text("stale", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    run_pipeline(small(), parse_pipeline("canonicalize,cse,dce"), PipelineOptions(dump_dir=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00_input.mlir", "01_canonicalize.mlir", "02_cse.mlir", "03_dce.mlir", "notes.txt",
    ]  # fmt: skip
    module = parse_module((tmp_path / "02_cse.mlir").read_text(encoding="utf-8"))
    options = PipelineOptions(dump_dir=tmp_path, start_from="3")
    run_pipeline(module, parse_pipeline("canonicalize,cse,dce"), options)
    assert (tmp_path / "02_cse.mlir").exists()
    assert (tmp_path / "03_dce.mlir").exists()


def test_the_reproducing_command_reproduces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = GemmaLike().module()
    del module.attributes["max_context"]
    with pytest.raises(PassFailedError) as caught:
        run_pipeline(module, parse_pipeline("canonicalize,precompute-rope{context=3}"))
    assert caught.value.code == "G4C-P041"
    words = str(caught.value).splitlines()[-1].removeprefix("  = repro: ").split()
    assert words == ["g4c", "opt", "repro/precompute-rope/input.mlir"]
    assert main(words[1:]) == 1
    assert "error[G4C-P041]" in capsys.readouterr().err


def test_structure_is_text_without_locations() -> None:
    module = GemmaLike().module()
    assert structure(print_module(module)) == print_module(module, locations=False)


def test_sample_inputs_are_in_range() -> None:
    sizes = GemmaLike()
    module = sizes.module()
    inputs = sample_inputs(module, "prefill_8")
    assert inputs["positions"].tolist() == [list(range(8))]
    assert inputs["token_ids"].max() < sizes.vocabulary
    assert inputs["rows"].max() < 8
    assert 0 < sample_inputs(module, "decode")["positions"].item() < sizes.context
    assert sample_inputs(module, "decode", position=7)["positions"].item() == 7


def test_dumps_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(G4cError, match="cannot write dumps") as caught:
        run_pipeline(small(), parse_pipeline("cse"), PipelineOptions(dump_dir=tmp_path / "file" / "dump"))
    assert caught.value.code == "G4C-P014"
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "00_input.mlir").symlink_to("/dev/full")
    with pytest.raises(G4cError, match="No space left") as caught:
        run_pipeline(small(), parse_pipeline("cse"), PipelineOptions(dump_dir=tmp_path / "dump", start_from="cse"))
    assert caught.value.where == str(tmp_path / "dump")
