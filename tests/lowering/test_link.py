"""`g4c link` with a stand-in for the Neuron SDK that has what is documented of it, and fails as it is told to."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kernel_module import ARTIFACT, SOURCE, kernel_module

from g4c.cli.main import main
from g4c.kernels import cpu_programs, write_kernel
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.lowering.neuron.kernel_calls import decoded, kernel_calls
from g4c.lowering.neuron.lower import lower_program
from g4c.next_steps import next_steps
from g4c.runtime.bundle import BundleWriter, open_bundle, tensor_json, type_json

OTHER = replace(ARTIFACT, source=SOURCE + "# another\n")
STAND_IN = {
    "__init__.py": """
        import os
        __version__ = os.environ["NKI_VERSION"]
        def jit(function):
            return function
        """,
    "isa.py": "",
    "language.py": "",
    "compiler/__init__.py": "",
    "compiler/frontend.py": """
        class ParserFrontend:
            pass
        """,
    "compiler/ncc_driver.py": """
        import dataclasses, enum, nki
        CompilationMode = enum.Enum("CompilationMode", "STANDALONE INTEGRATION")
        fields = [("target", str), ("artifacts_dir", str), ("output_path", str), ("mode", CompilationMode)]
        if nki.__version__ > "0.5":
            fields.append(("lnc", int))
        def disable_backend_optimizations(self):
            object.__setattr__(self, "disabled", True)
            return self
        CompileOptions = dataclasses.make_dataclass(
            "CompileOptions", fields, namespace={"disable_backend_optimizations": disable_backend_optimizations}
        )
        """,
    "compiler/driver.py": """
        import base64, inspect, json, os, pathlib, signal, sys, time
        from types import SimpleNamespace as Some
        import numpy as np
        from nki.compiler.frontend import ParserFrontend
        from nki.compiler.ncc_driver import CompilationMode
        def compile_to_bir(func, *, frontend, inputs, compile_opts, output_names):
            told = os.environ.get("TOLD", "")
            assert isinstance(frontend, ParserFrontend) and compile_opts.disabled
            assert compile_opts.mode is CompilationMode.INTEGRATION
            assert not {"jaxlib", "torch", "g4c.errors"} & set(sys.modules)
            assert list(inputs) == list(inspect.signature(func).parameters)
            assert inspect.getsource(sys.modules[func.__module__]).startswith('\"\"\"y = -x')
            assert output_names == ["output0", "output1"]
            if told == "raise":
                print("[NKI] spilled over")
                raise ValueError("no such instruction")
            if told == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if told == "hang":
                pathlib.Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
                time.sleep(600)
            if told == "pair":
                return object(), object()
            file = pathlib.Path(compile_opts.artifacts_dir, "kernel.json")
            file.write_text(inspect.getsource(sys.modules[func.__module__])[-12:])
            fields = {"kernel_format": "bir", "func_name": func.__name__, "klir_binary": {"binary": str(file)},
                      "platform_target": compile_opts.target, "grid": getattr(compile_opts, "lnc", None)}
            text = base64.b64encode(json.dumps(fields).encode()) if told != "config" else b"%"
            specs = [Some(shape=(1, 1, 1, 8), dtype=np.float32), Some(shape=(1, 4, 1, 8), dtype="float32")]
            if told == "outputs":
                specs[0].shape = (1, 8)
            config = Some(backend_config_b64=text, output_specs=specs, has_collectives=told == "collectives",
                          operand_output_aliases={} if told == "aliases" else {1: 1})
            return Some(build_config=lambda: config, is_tuple_return=told != "single")
        """,
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two programs of two layers, each with a kernel of its own."""
    return make_bundle(tmp_path / "bundle", "trn2")


def make_bundle(path: Path, target: str) -> Path:
    programs = {}
    with BundleWriter(path) as writer:
        for name, artifact in (("prefill_4", OTHER), ("decode", ARTIFACT)):
            lowered = lower_program(kernel_module(), "decode", target=target, kernels={"negate": artifact})
            plain = lower_program(kernel_module(), "decode", target="cpu")
            programs[name] = {
                "file": f"programs/{name}.hlo.pb",
                "cpu_file": f"programs/{name}.cpu.hlo.pb",
                "inputs": [tensor_json(*tensor) for tensor in lowered.inputs],
                "outputs": [tensor_json(*tensor) for tensor in lowered.outputs],
                "caches": [cache for cache, _ in lowered.caches],
                "weights": [],
                "flops": 0,
                "bytes": 0,
                "kernels": [artifact.sha256],
            }
            writer.write(f"programs/{name}.hlo.pb", lowered.hlo_proto)
            writer.write(f"programs/{name}.cpu.hlo.pb", plain.hlo_proto)
        kernels = {artifact.sha256: write_kernel(writer, artifact, target) for artifact in (ARTIFACT, OTHER)}
        caches = {cache: type_json(type) for cache, type in lowered.caches}
        rest = {"target": target, "batch": 1, "weights": {}, "caches": caches, "kernels": kernels}
        writer.commit({"programs": programs, **rest})
    return path


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs the stand-in as nki and neuronx-cc of the given versions."""

    def install(nki: str = "0.6.0+g12", compiler: str = "2.27.5334.0") -> None:
        for name, text in STAND_IN.items():
            file = tmp_path / "sdk/nki" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(line[8:] for line in text.splitlines()) + "\n")
        command = tmp_path / "sdk/neuronx-cc"
        command.write_text(f"#!/bin/sh\necho 'NeuronX Compiler version {compiler}+abc'\necho 'Python version 3.12.1'\n")
        command.chmod(0o755)
        monkeypatch.setenv("NKI_VERSION", nki)
        for variable in ("PATH", "PYTHONPATH"):
            if str(command.parent) not in os.environ[variable].split(os.pathsep):
                monkeypatch.setenv(variable, f"{command.parent}{os.pathsep}{os.environ[variable]}")

    return install


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def refusal(bundle: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a link that must change nothing."""
    before = files(bundle.parent)
    capsys.readouterr()
    code = main(["link", str(bundle)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err.partition("error[")[0], "one of nki's may be shown in an error"
    assert captured.err.count("error[") == 1
    assert code in (1, 3)
    assert files(bundle.parent) == before
    assert not list(bundle.parent.rglob("artifacts"))
    return captured.err


@pytest.mark.parametrize(
    ("nki", "compiler"), [("0.6.0+g12", "2.27.5334.0"), ("0.5.0", "2.26.6360.0"), ("0.4.0", "2.25.3371.0")]
)
def test_compiled_kernels_take_the_places_and_nothing_else_changes(
    bundle: Path, sdk: Callable[..., None], capsys: pytest.CaptureFixture[str], nki: str, compiler: str
) -> None:
    sdk(nki, compiler)
    before = files(bundle)
    unlinked = open_bundle(bundle)
    assert main(["link", str(bundle), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["phase"] for event in events if event["event"] == "end"] == [
        "check the SDK",
        *["compile kernel"] * 2,
        "write programs",
    ]
    assert events[-1] == {"event": "product", "path": str(bundle)}
    linked = open_bundle(bundle, full=True)
    after = files(bundle)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    for name, program in linked.programs.items():
        assert program.linked_file is not None
        new, old = (HloModule.FromString(file.read_bytes()) for file in (program.linked_file, program.file))
        for call, placeholder in zip(kernel_calls(new), kernel_calls(old), strict=True):
            fields = decoded(call.backend_config)
            assert fields is not None
            artifact = linked.kernels[program.kernels[0]].file.parent / "artifacts/kernel.json"
            assert (fields["kernel_format"], fields["klir_binary"]) == ("bir", {"binary": str(artifact)})
            assert (fields["platform_target"], fields["grid"]) == ("trn2", None if nki == "0.4.0" else 2)
            assert artifact.read_text().endswith("# another\n") is (name == "prefill_4")
            call.backend_config = placeholder.backend_config
        assert new == old
        assert cpu_programs(linked, "simulate")(program) == cpu_programs(unlinked, "simulate")(unlinked.programs[name])
        assert cpu_programs(linked, "reference")(program) == before[f"programs/{name}.cpu.hlo.pb"]
    record = linked.manifest["linked"]
    assert (record["nki"], record["neuronx_cc"], record["path"]) == (nki, compiler, str(bundle))
    assert {f"kernels/{sha}/artifacts/kernel.json" for sha in linked.kernels} < set(record["artifacts"])


def test_what_is_left_is_neuronx_cc(bundle: Path, sdk: Callable[..., None], tmp_path: Path) -> None:
    (line,) = next_steps(bundle)
    assert "there as source only" in line
    assert "g4c link" in line
    sdk()
    assert main(["link", str(bundle), "-q"]) == 0
    head, prefill, decode = next_steps(bundle)
    assert head.endswith("On a machine with neuronx-cc 2.27.5334.0, continue with:")
    for name, command in (("prefill_4", prefill), ("decode", decode)):
        assert command.startswith(f"  (cd {bundle}/kernels && neuronx-cc compile --framework XLA {bundle}/programs/")
        assert f"{name}.linked.hlo.pb " in command
        assert command.endswith(f"--output {bundle}/programs/{name}.neff)")
    bundle.rename(tmp_path / "moved")
    (line,) = next_steps(tmp_path / "moved")
    assert f"compiled at {bundle}" in line
    assert main(["link", str(tmp_path / "moved"), "-q"]) == 0
    assert len(next_steps(tmp_path / "moved")) == 3
    shutil.rmtree(next((tmp_path / "moved").rglob("artifacts")))
    assert "link it again" in next_steps(tmp_path / "moved")[0]


def test_linking_again(bundle: Path, sdk: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    sdk()
    assert main(["link", str(bundle), "-q"]) == 0
    times = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    assert main(["link", str(bundle)]) == 0
    assert "is linked already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == times
    sdk("0.5.0", "2.26.6360.0")
    assert main(["link", str(bundle), "-q"]) == 0
    assert open_bundle(bundle).manifest["linked"]["nki"] == "0.5.0"


def test_an_outdated_link_goes_whole(
    bundle: Path, sdk: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    before = files(bundle)
    sdk()
    assert main(["link", str(bundle), "-q"]) == 0
    sdk("0.5.0", "2.26.6360.0")
    monkeypatch.setenv("TOLD", "raise")
    assert main(["link", str(bundle), "-q"]) == 3
    assert json.loads((bundle / "manifest.json").read_text()) == manifest
    assert files(bundle) == before


@pytest.mark.parametrize(
    ("told", "code", "words"),
    [
        ("raise", "N006", "negate_update: ValueError: no such instruction"),
        ("crash", "N006", "the process that ran nki was killed by SIGSEGV"),
        ("pair", "N006", "returned a pair, as that of nki 0.3 does"),
        ("outputs", "N007", "outputs: nki compiled [[[1, 8], 'float32'], [[1, 4, 1, 8], 'float32']]"),
        ("aliases", "N007", "aliases: nki compiled [], programs call [[1, 1]]"),
        ("single", "N007", "tuple: nki compiled False, programs call True"),
        ("collectives", "N007", "has_collectives: nki compiled True"),
        ("config", "N007", "not base64 of JSON"),
    ],
)
def test_a_kernel_that_fails(
    bundle: Path,
    sdk: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    told: str,
    code: str,
    words: str,
) -> None:
    sdk()
    monkeypatch.setenv("TOLD", told)
    text = refusal(bundle, capsys)
    assert f"error[G4C-{code}]" in text
    assert words in text
    assert ("[NKI] spilled over" in text) is (told == "raise")


@pytest.mark.parametrize(
    ("nki", "compiler", "code", "words"),
    [
        ("0.3.0", "2.24.5133.0", "N004", "nki 0.3.0 is installed, the kernels are for 0.4 to 0.6"),
        ("0.7.1", "2.28.1.0", "N004", "nki 0.7.1 is installed"),
        ("unknown", "2.27.1.0", "N004", "'unknown' is no version"),
        ("0.6.0", "2.26.6360.0", "N005", "install neuronx-cc 2.27"),
        ("0.6.0", "of today", "N005", "neuronx-cc --version names no version"),
    ],
)
def test_versions_that_do_not_fit(
    bundle: Path,
    sdk: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    nki: str,
    compiler: str,
    code: str,
    words: str,
) -> None:
    sdk(nki, compiler)
    text = refusal(bundle, capsys)
    assert f"error[G4C-{code}]" in text
    assert words in text


def test_cores_that_share_the_work_must_be_named(
    tmp_path: Path, sdk: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler of nki 0.4 takes no lnc: half of the kernel would be missing."""
    monkeypatch.setitem(globals(), "OTHER", replace(OTHER, cores=2))
    made = make_bundle(tmp_path / "pair", "trn2")
    sdk("0.4.0", "2.25.3371.0")
    text = refusal(made, capsys)
    assert "error[G4C-N006]" in text
    assert "this nki takes no lnc, and 2 cores share the work of the kernel" in text
    sdk("0.5.0", "2.26.6360.0")
    assert main(["link", str(made), "-q"]) == 0


def test_without_the_sdk(
    bundle: Path, sdk: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refusal(bundle, capsys)
    assert "error[G4C-N003]: the nki package cannot be imported: No module named 'nki'" in text
    assert "nki 0.4 to 0.6 in this Python environment" in text
    sdk()
    (tmp_path / "sdk/neuronx-cc").unlink()
    assert "error[G4C-N005]: neuronx-cc cannot be started" in refusal(bundle, capsys)


def test_bundles_that_have_nothing_to_link(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "error[G4C-N002]" in refusal(make_bundle(tmp_path / "cpu", "cpu"), capsys)
    program = {"inputs": [], "outputs": [], "caches": [], "weights": [], "flops": 0, "bytes": 0}
    with BundleWriter(tmp_path / "plain") as writer:
        writer.write("decode.hlo.pb", b"")
        entry = {**program, "file": "decode.hlo.pb"}
        writer.commit({"target": "cpu", "programs": {"decode": entry}, "caches": {}, "weights": {}})
    assert main(["link", str(tmp_path / "plain")]) == 0
    assert "there is nothing to link" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing(
    bundle: Path, sdk: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk()
    monkeypatch.setenv("TOLD", "hang")
    monkeypatch.setenv("PID_FILE", str(tmp_path / "pid"))
    before = files(bundle)
    process = subprocess.Popen([sys.executable, "-m", "g4c", "link", str(bundle), "-q"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == b"interrupted\n"
    assert process.returncode == 130
    assert files(bundle) == before
    assert sorted(os.listdir(tmp_path)) == ["bundle", "pid", "sdk"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_nki_gives_is_copied_unchanged(bundle: Path, sdk: Callable[..., None]) -> None:
    """The text, not what it decodes to."""
    sdk()
    assert main(["link", str(bundle), "-q"]) == 0
    linked = open_bundle(bundle)
    for program in linked.programs.values():
        assert program.linked_file is not None
        answer = linked.kernels[program.kernels[0]].file.with_name("artifacts") / "response.json"
        text = json.loads(answer.read_text())["backend_config"].encode()
        calls = list(kernel_calls(HloModule.FromString(program.linked_file.read_bytes())))
        assert [call.backend_config for call in calls] == [text] * 2
        assert base64.b64decode(text, validate=True).startswith(b"{")
