"""docs/tiles.md: its excerpts are what the pipeline makes of E2B today. Rewritten by running this file."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from g4c.frontend.config import load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir.module import Module
from g4c.ir.ops import RopeOp, SplitTilesOp, TiledAttentionOp
from g4c.ir.printer import print_function
from g4c.ir.tiles import Cut, plan
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import TILED_PIPELINE

PAGE = Path(__file__).parents[2] / "docs" / "tiles.md"
WIDTH = 120
# What stands in each fenced block of the page, in order.
BLOCKS = (
    ("mlir", "prefill_512.full_own", 0, 21),
    ("text", 512, 512, 512),
    ("text", 512, 1024, 512),
    ("mlir", "decode.full_own", 16, 17),
)
BLOCK = re.compile(r"^```(mlir|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@cache
def module() -> Module:
    made = trace_programs(load_model_config("e2b"), TraceOptions(buckets=(512,)))
    run_pipeline(made, parse_pipeline(TILED_PIPELINE), PipelineOptions(verify_each=False, sink=lambda _: None))
    return made


def excerpt(function: str, start: int, stop: int) -> str:
    """Ops of a function without types; a schedule has one tile of queries per line."""
    lines = [line.strip() for line in print_function(module().functions[function])][1:]
    return "".join(short(line) for line in lines[start:stop])


def short(line: str) -> str:
    line = re.sub(r" : \(.*$", "", line)
    line = re.sub(r",? ?operandSegmentSizes = array<[^>]*>", "", line).replace(" {}", "")
    if len(line) <= WIDTH:
        return line + "\n"
    head, attributes = line.split(" {", 1)
    *others, last = re.split(r"(?<=,) (?=\w+ = )", attributes)
    if last.startswith("schedule"):
        last = last.replace("[", "[\n    ").replace('", "', '",\n    "')
    return f"{head}\n  {{{' '.join(others)}\n   {last}\n"


def schedule(slots: int, rows: int, window: int) -> str:
    segments = [Cut.of("past", slots, 128), Cut.of("chunk", rows, 128)]
    return "".join(f"{tile}\n" for tile in plan(Cut.of("q", rows, 128), segments, window))


def fresh() -> str:
    """The page with its blocks made anew."""
    contents = iter(excerpt(*block[1:]) if block[0] == "mlir" else schedule(*block[1:]) for block in BLOCKS)
    return BLOCK.sub(lambda match: f"```{match[1]}\n{next(contents)}```", PAGE.read_text(encoding="utf-8"))


def test_the_page_is_fresh() -> None:
    assert len(BLOCK.findall(PAGE.read_text(encoding="utf-8"))) == len(BLOCKS)
    assert PAGE.read_text(encoding="utf-8") == fresh()
    assert max(map(len, fresh().splitlines())) <= WIDTH + 8


def test_the_schedule_of_a_sliding_layer_is_the_one_on_the_page() -> None:
    (attention,) = module().functions["prefill_512.sliding_own"].ops_of(TiledAttentionOp)
    assert "".join(f"{row}\n" for row in attention.schedule) == schedule(512, 512, 512)


@pytest.mark.parametrize("program", ["prefill_512", "decode"])
def test_what_the_page_says_of_the_layer(program: str) -> None:
    """Four tiles of q and of k, one of each rotated, 64 columns of the tables."""
    body = module().functions[f"{program}.full_own"]
    assert [len(op.results) for op in body.ops_of(SplitTilesOp)] == [4, 4]
    ropes = list(body.ops_of(RopeOp))
    splits = list(body.ops_of(SplitTilesOp))
    assert [rope.x for rope in ropes] == [split.results[0] for split in splits]
    assert {rope.cos.shape[2] for rope in ropes} == {64}


if __name__ == "__main__":
    PAGE.write_text(fresh(), encoding="utf-8")
