"""Pipeline strings: what parses prints back, what does not is shown with a caret."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pass_testing import FLATTEN

from g4c.errors import G4cError
from g4c.ir.op import Level
from g4c.passes.canonicalize import Canonicalize
from g4c.passes.contract import Pass
from g4c.passes.dce import Dce
from g4c.passes.pipeline import Pipeline, header_pipeline, parse_pipeline, pipeline_header
from g4c.passes.pipelines import CPU_PIPELINE, DEFAULT_PIPELINE, PASSES, pass_summaries


@dataclass(frozen=True)
class TileThings(Pass):
    """A pass with an option of every type."""

    name = "tile-things"
    runs_after = ("prepare",)
    level_after = Level.TILED

    partition: int = 128
    scale: float = 1.0
    deep: bool = False
    mode: str = "fast"
    tile_shape: tuple[int, ...] = (1, 1)


@dataclass(frozen=True)
class Prepare(Pass):
    """A pass without options."""

    name = "prepare"


@dataclass(frozen=True)
class Anywhere(Pass):
    """A pass for any level."""

    name = "anywhere"
    level_before = None


TEST_PASSES: dict[str, type[Pass]] = {cls.name: cls for cls in (TileThings, Prepare, Anywhere)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prepare",
        "prepare,anywhere,prepare",
        "prepare,tile-things{partition=128}",
        "tile-things{scale=1e-6,deep=true,mode=slow,tile-shape=1x128,partition=64},anywhere",
        "tile-things{deep=false}",
    ],
)
def test_prints_back_as_parsed(text: str) -> None:
    pipeline = parse_pipeline(text, TEST_PASSES)
    assert str(pipeline) == text
    assert parse_pipeline(str(pipeline), TEST_PASSES) == pipeline


def test_options_have_their_types() -> None:
    text = " tile-things { scale = 2 , deep=true, mode=x, tile-shape=3x4, partition=7 } "
    (entry,) = parse_pipeline(text, TEST_PASSES).entries
    assert entry.step == TileThings(partition=7, scale=2.0, deep=True, mode="x", tile_shape=(3, 4))


def test_pipeline_of_passes_prints_what_is_not_default() -> None:
    assert str(Pipeline.of(Canonicalize(iterations=3), Dce())) == "canonicalize{iterations=3},dce"
    assert str(Pipeline.of(TileThings(tile_shape=(2, 3), deep=True))) == "tile-things{deep=true,tile-shape=2x3}"


@pytest.mark.parametrize(
    ("text", "code", "column", "help"),
    [
        ("prepare,tile-thing", "G4C-P001", 8, "did you mean tile-things?"),
        ("zzz", "G4C-P001", 0, "there are anywhere, prepare, tile-things"),
        ("tile-things{partitions=1}", "G4C-P002", 12, "did you mean partition?"),
        ("tile-things{tile_shape=1}", "G4C-P002", 12, "did you mean tile-shape?"),
        ("prepare{a=1}", "G4C-P002", 8, None),
        ("tile-things{partition=many}", "G4C-P003", 22, None),
        ("tile-things{partition=1.5}", "G4C-P003", 22, None),
        ("tile-things{deep=1}", "G4C-P003", 17, None),
        ("tile-things{scale=x}", "G4C-P003", 18, None),
        ("tile-things{tile-shape=1xx2}", "G4C-P003", 23, None),
        ("tile-things{partition=1", "G4C-P004", 23, None),
        ("tile-things{partition}", "G4C-P004", 21, None),
        ("tile-things{partition=1,partition=2}", "G4C-P004", 24, None),
        ("tile-things{partition=1,}", "G4C-P004", 24, None),
        ("prepare anywhere", "G4C-P004", 8, None),
        ("prepare,,anywhere", "G4C-P004", 8, None),
        ("prepare,", "G4C-P004", 8, None),
        ("tile-things,anywhere,prepare", "G4C-P005", 0, "tile-things runs after prepare"),
        ("anywhere,tile-things,prepare", "G4C-P005", 9, "tile-things runs after prepare"),
        ("anywhere,tile-things,anywhere,tile-things", "G4C-P006", 30, None),
    ],
)
def test_refusals_point_at_the_place(text: str, code: str, column: int, help: str | None) -> None:
    with pytest.raises(G4cError) as caught:
        parse_pipeline(text, TEST_PASSES)
    error = caught.value
    assert error.code == code
    assert error.exit_code == 2
    assert error.help == help
    assert error.excerpt is not None
    shown, caret = error.excerpt.splitlines()
    assert shown == f"     | {text}"
    assert caret.index("^") == len("     | ") + column


def test_order_holds_for_the_first_occurrence_only() -> None:
    parse_pipeline("prepare,anywhere,tile-things", TEST_PASSES)
    pipeline = parse_pipeline("canonicalize,precompute-rope,canonicalize")
    assert pipeline.names == ("canonicalize", "precompute-rope", "canonicalize")


@pytest.mark.parametrize("place", ["2", "02", "2_anywhere", "02_anywhere", "anywhere"])
def test_places(place: str) -> None:
    assert parse_pipeline("prepare,anywhere,prepare", TEST_PASSES).index(place) == 1


@pytest.mark.parametrize("place", ["prepare", "0", "4", "02_prepare", "tile-things", "anywhre"])
def test_places_that_are_none(place: str) -> None:
    with pytest.raises(G4cError) as caught:
        parse_pipeline("prepare,anywhere,prepare", TEST_PASSES).index(place)
    assert caught.value.code == "G4C-P007"
    assert caught.value.help is not None


def test_header() -> None:
    text = pipeline_header("a,b{c=1}") + "module @m"
    assert text.startswith("// pipeline: a,b{c=1}\n")
    assert header_pipeline(text) == "a,b{c=1}"
    assert header_pipeline(pipeline_header("") + "module @m") == ""
    assert header_pipeline("module @m") is None


@pytest.mark.parametrize("text", [DEFAULT_PIPELINE, FLATTEN, CPU_PIPELINE])
def test_the_shipped_pipelines_parse(text: str) -> None:
    assert str(parse_pipeline(text)) == text


def test_every_pass_says_what_it_is() -> None:
    for name, summary in pass_summaries():
        assert summary.endswith((".", ":")) or len(summary) > 20, name
        assert "before:" in (PASSES[name].__doc__ or ""), name
        assert "after:" in (PASSES[name].__doc__ or ""), name
