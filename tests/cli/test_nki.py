"""g4c nki: profiles, traces, drawings, the kernels of a model, and what it refuses."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from g4c.cli.main import main
from g4c.errors import catalogue
from g4c.frontend.variants import VARIANTS

KERNELS = '''import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def product(x, y, scale=1.0):
    """scale * x.T @ y in one tile."""
    out = nl.ndarray((x.shape[1], y.shape[1]), dtype=x.dtype, buffer=nl.shared_hbm)
    left = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    right = nl.ndarray(y.shape, dtype=y.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=left, src=x)
    nisa.dma_copy(dst=right, src=y)
    psum = nl.ndarray(out.shape, dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=psum, stationary=left, moving=right, name="the product")
    tile = nl.ndarray(out.shape, dtype=x.dtype, buffer=nl.sbuf)
    nisa.activation(dst=tile, op=nl.copy, data=psum, scale=scale)
    nisa.dma_copy(dst=out, src=tile)
    return out
'''
SECOND = '''

@nki.jit
def fails(x):
    """Python that fails."""
    return x.shape[7]
'''
SHAPES = ("--arg", "x=128x64xbf16", "--arg", "y=128x512xbf16")


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    path = tmp_path / "product.py"
    path.write_text(KERNELS)
    return str(path)


@pytest.fixture
def two(tmp_path: Path) -> str:
    path = tmp_path / "two.py"
    path.write_text(KERNELS + SECOND)
    return str(path)


def test_profile(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nki", "profile", kernel, *SHAPES]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("product: ")
    assert "us modelled on 1 NeuronCore-v3 core" in captured.out
    for word in ("PE", "Vector", "Scalar", "GpSimd", "DMA", "critical path", "PSUM 1 of 8 banks", "5 instructions"):
        assert word in captured.out
    assert len(captured.out.splitlines()) < 24


def test_profile_as_json(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nki", "profile", kernel, *SHAPES, "--target", "trn1", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = [event for event in events if event["event"] == "profile"]
    assert found["flops"] == 2 * 128 * 64 * 512
    assert found["generation"] == 2
    assert found["hbm_read_bytes"] == 128 * (64 + 512) * 2
    assert found["hbm_written_bytes"] == 64 * 512 * 2
    assert found["engines"]["pe"]["cycles"] == 512
    assert found["modelled_us"] == pytest.approx(sum(step["us"] for step in found["critical_path"]))


def test_two_cores(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both do the same, so it is no faster."""
    assert main(["nki", "profile", kernel, *SHAPES, "--cores", "2"]) == 0
    assert "on 2 NeuronCore-v3 cores of one logical core" in capsys.readouterr().out
    assert main(["nki", "profile", kernel, *SHAPES, "--cores", "2", "--target", "trn1"]) == 1
    assert "G4C-K030" in capsys.readouterr().err


def test_a_function_of_a_file_and_defaults(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nki", "profile", two, "--function", "product", *SHAPES, "--arg", "scale=0.5", "-q"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("product: ")
    assert captured.err == ""


def test_a_trace_is_what_perfetto_opens(kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON object format of trace events: metadata names processes and tracks, complete events have ts and dur in
    us, and on a track do not overlap."""
    file = tmp_path / "trace.json"
    assert main(["nki", "trace", kernel, *SHAPES, "-o", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    trace = json.loads(file.read_text())
    assert trace["displayTimeUnit"] == "ns"
    assert "modelled" in trace["otherData"]["time"]
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert list(names.values()) == ["PE", "Vector", "Scalar", "GpSimd", "DMA queue 0", "DMA queue 1"]
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == [
        "core 0: NeuronCore-v3, modelled"
    ]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == 5
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in complete:
        assert {"name", "cat", "pid", "tid", "ts", "dur", "args"} <= event.keys()
        assert event["ts"] >= 0
        assert event["dur"] > 0
        assert (event["pid"], event["tid"]) in names
        assert event["args"]["source"].startswith(f"{kernel}:")
        assert event["args"]["line"].startswith("nisa.")
        tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        spans.sort()
        assert all(end <= start + 1e-3 for (_, end), (start, _) in pairwise(spans))
    (product,) = [event for event in complete if event["name"] == "the product"]
    assert names[product["pid"], product["tid"]] == "PE"
    assert product["args"]["cycles"] == 512
    assert product["args"]["FLOP"] == 2 * 128 * 64 * 512
    loads = [event for event in complete if event["args"].get("HBM read")]
    assert [event["args"]["bytes"] for event in loads] == [128 * 64 * 2, 128 * 512 * 2]


def test_a_trace_of_two_cores_has_two_processes(kernel: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    assert main(["nki", "trace", kernel, *SHAPES, "--cores", "2", "-o", str(file), "-q"]) == 0
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [sum(event["pid"] == core for event in events) for core in (0, 1)] == [5, 5]


def test_drawings_are_svg_and_deterministic(kernel: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for name in ("first.svg", "second.svg"):
        assert main(["nki", "trace", kernel, *SHAPES, "-o", str(tmp_path / name), "--from", "1", "--to", "3"]) == 0
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    root = ElementTree.fromstring(texts[0])
    assert root.tag.endswith("svg")
    assert "modelled" in texts[0]
    for title in ("PE", "Vector", "DMA queue 0", "dma_copy", "nc_matmul"):
        assert f">{title}</text>" in texts[0] or title == "nc_matmul"
    file = tmp_path / "roof.svg"
    assert main(["nki", "roofline", kernel, *SHAPES, "-o", str(file)]) == 0
    text = file.read_text()
    assert len(list(ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}circle"))) == 2  # point and legend
    assert "78.6 TFLOP/s" in text
    assert "362 GB/s" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nki", "C001 required: ACTION"),
        ("nki profle x", "C002 did you mean 'profile'?"),
        ("nki profile", "C001 required: KERNEL"),
        ("nki profile K", "K050 needs arguments: x, y"),
        ("nki profile K --arg x=128x64xbf16", "K050 needs arguments: y"),
        ("nki profile K --arg x", "K052 --arg NAME="),
        ("nki profile K --arg =3", "K052 --arg NAME="),
        ("nki profile K --arg z=3", "K052 no parameter 'z'"),
        ("nki profile K --arg sclae=3", "K052 did you mean 'scale'?"),
        ("nki profile K --arg x=1 --arg x=2", "K052 twice"),
        ("nki profile K --arg x=128x64xbf17", "K052 did you mean 'bf16'?"),
        ("nki profile K --arg x=128x0xbf16", "K052 a dimension of size 0"),
        ("nki profile K --arg x=128x64", "K052 not a value"),
        ("nki profile K --arg x=rm()", "K052 not a value"),
        ("nki profile K --arg x=999999999x999999999x9xf32 --arg y=1x1xf32", "K052 too large"),
        ("nki profile K --arg x=256x64xbf16 --arg y=256x512xbf16", "K007 a tile of 256 partitions"),
        ("nki profile K --arg x=128x64xbf16 --arg y=128x513xbf16", "K005 spans PSUM banks"),
        ("nki profile K --arg x=0.5 --arg y=1", "K054 AttributeError"),
        ("nki profile K --function prodct", "K051 did you mean 'product'?"),
        ("nki profile TWO", "K051 the file has 2 kernels"),
        ("nki profile TWO --function fails --arg x=1x1xf32", "K054 IndexError"),
        ("nki profile NONE", "K051 the file has no kernel"),
        ("nki profile BROKEN", "K051 not a Python file"),
        ("nki profile FOLDER", "F002 not a file"),
        ("nki profile missing.py", "F002 no such file"),
        ("nki profile K --target trn9", "C002 did you mean 'trn3'?"),
        ("nki profile K --cores 3", "C002 one of: 1, 2"),
        ("nki profile K --agr x=1", "C001 did you mean --arg?"),
        ("nki profile name --arg x=1", "K052 names have their own arguments"),
        ("nki trace K", "C001 required: -o/--output"),
        ("nki trace K -o trace.txt", "C001 neither FILE.json nor FILE.svg"),
        ("nki trace K -o x.svg --from 5 --to 5", "C001 --to 5 is not after --from 5"),
        ("nki trace K -o x.svg --from -1", "C001 at least 0"),
        ("nki trace K ARGS -o x.svg --from 1000", "K055 the drawing begins at 1,000.0"),
        ("nki list --bucket 512;1", "C001 integers separated by commas"),
        ("nki list --bucket 0", "C005 at least 1"),
        ("nki list --bucket 512,512", "C005 twice"),
        ("nki list --bucket 4096", "C005 longer than the context"),
        ("nki list --variant e3b", "F001 did you mean"),
        ("nki list --max-context 999999999", "C006 exceeds the model's 131072 positions"),
        ("nki list --tp 3", "C020 --tp 3 does not divide num_attention_heads 8"),
        ("nki show", "C001 required: NAME"),
    ],
)
def test_refusals(
    arguments: str,
    expected: str,
    kernel: str,
    two: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code, code and hint; nothing on stdout, no traceback, no file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    names = {"K": kernel, "TWO": two, "NONE": "none.py", "BROKEN": "broken.py", "FOLDER": str(tmp_path)}
    words: list[str] = []
    for word in arguments.split():
        words += SHAPES if word == "ARGS" else [names.get(word, word)]
    code, text = expected.split(" ", 1)
    before = set(tmp_path.iterdir())
    assert main(words) == catalogue()[f"G4C-{code}"].exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert f"error[G4C-{code}]" in captured.err
    assert text in captured.err
    assert set(tmp_path.iterdir()) == before


def test_help_starts_no_framework() -> None:
    """Neither numpy nor torch nor the simulator."""
    code = "import sys; from g4c.cli.main import main; main(['nki', 'profile', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"numpy", "torch", "ml_dtypes", "g4c.lowering.nki.simulator", "g4c.lowering.nki.cost"} & set(loaded)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config.json: a sliding and a full layer with tiny-e2b's structure."""
    config = VARIANTS["tiny-e2b"].config_json()
    layers = {"num_hidden_layers": 2, "num_kv_shared_layers": 0, "vocab_size": 256}
    config |= {**layers, "layer_types": ["sliding_attention", "full_attention"]}
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(config))
    return str(path)


def test_the_kernels_of_a_model(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """list gives names with all there is to know; profile, show, trace and roofline take them."""
    from g4c import model_kernels

    outlined = model_kernels.outlined
    traced = functools.cache(lambda wanted: outlined(wanted, lambda text: None))
    monkeypatch.setattr(model_kernels, "outlined", lambda wanted, sink: traced(wanted))
    options = ["--variant", model, "--bucket", "32", "--max-context", "64"]
    assert main(["nki", "list", *options, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kernels = {event["name"]: event for event in events if event["event"] == "kernel"}
    families = {event["family"] for event in kernels.values() if "family" in event}
    assert {"prefill_attention", "decode_attention"} <= families
    assert {program for event in kernels.values() for program in event["calls"]} == {"prefill_32", "decode"}
    name = next(name for name, event in kernels.items() if event.get("family") == "prefill_attention")
    listed = kernels[name]["profile"]["modelled_us"]
    assert listed == min(item["modelled_us"] for item in kernels[name]["compared"])

    assert main(["nki", "list", *options]) == 0
    text = capsys.readouterr().out
    assert f"{name}: {listed:,.1f} us modelled, bound by" in text
    steps = [(event["profile"]["modelled_us"], event["calls"].get("decode", 0)) for event in kernels.values()]
    calls, total = sum(n for _, n in steps), sum(us * n for us, n in steps) / 1000
    assert text.splitlines()[-1].startswith(f"decode: {calls} kernel calls, {total:,.2f} ms modelled")
    assert main(["nki", "profile", name, *options]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: {listed:,.1f} us modelled")
    assert main(["nki", "show", name, *options]) == 0
    source = capsys.readouterr().out
    assert f"def {name}(" in source
    compile(source, name, "exec")
    file = tmp_path / "shown.py"
    file.write_text(source)
    shapes = [f"--arg={key}={shape_of(kind)}" for key, kind in kernels[name]["inputs"].items()]
    assert kernels[name]["cores"] == 2
    assert main(["nki", "profile", str(file), *shapes]) == 1
    assert "AssertionError: each of two cores does a part" in capsys.readouterr().err
    assert main(["nki", "profile", name, *options, "--cores", "1"]) == 1
    assert "error[G4C-K056]" in capsys.readouterr().err
    assert main(["nki", "profile", str(file), *shapes, "--cores", "2"]) == 0  # what is shown costs what is listed
    assert capsys.readouterr().out.startswith(f"{name}: {listed:,.1f} us modelled")
    for action, output in (("trace", "x.json"), ("trace", "x.svg"), ("roofline", "roof.svg")):
        assert main(["nki", action, name, *options, "-o", str(tmp_path / output)]) == 0
        assert (tmp_path / output).stat().st_size > 500
    capsys.readouterr()
    assert main(["nki", "show", name[:-1], *options]) == 1
    assert f"did you mean '{name}'?" in capsys.readouterr().err


def shape_of(kind: str) -> str:
    """tensor<1x32xbf16> as --arg has it."""
    return kind.removeprefix("tensor<").removesuffix(">")


# docs/nki.md

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/nki.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split()[1:] for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
QUICK = [words for words in COMMANDS if "docs/kernels/streamed_matmul.py" in words]


def test_the_page_shows_what_profile_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = [words for words in QUICK if words[1] == "profile"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert [line.rstrip() for line in shown.splitlines()] == [line.rstrip() for line in printed.splitlines()]
    source = (ROOT / "docs/kernels/streamed_matmul.py").read_text(encoding="utf-8")
    assert "SBUF 4096 (x_t) + 4 x 4096 (w) bytes" in source
    assert f"SBUF {4096 + 4 * 4096:,} of" in printed
    for budget in ("4 PSUM banks", "101 instructions"):
        assert budget in source
    assert "PSUM 4 of 8 banks, 101 instructions" in printed


def test_the_drawings_of_the_page_are_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the example; `g4c nki trace` and `roofline`, as the page shows them, make the others."""
    monkeypatch.chdir(ROOT)
    made = 0
    for words in QUICK:
        if words[1] != "trace":
            continue
        target = words[words.index("-o") + 1]
        assert main([*words[: words.index("-o")], "-o", str(tmp_path / "drawn.svg")]) == 0
        assert (tmp_path / "drawn.svg").read_text() == (ROOT / target).read_text(), f"g4c {' '.join(words)}"
        made += 1
    assert made == 2


def test_every_drawing_of_the_page_has_its_command() -> None:
    drawn = {f"docs/{name}" for name in re.findall(r"!\[.*?\]\((.*?)\)", PAGE)}
    assert drawn == {words[words.index("-o") + 1] for words in COMMANDS if "-o" in words}
    assert drawn == {f"docs/pictures/{path.name}" for path in (ROOT / "docs/pictures").iterdir()}
    for name in drawn:
        ElementTree.fromstring((ROOT / name).read_text())
