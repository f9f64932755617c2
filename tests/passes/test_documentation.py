"""docs/passes.md is what the docstrings say."""

from __future__ import annotations

from pathlib import Path

from g4c.passes.documentation import render
from g4c.passes.pipelines import PASSES

PAGE = Path(__file__).parents[2] / "docs/passes.md"


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m g4c.passes.documentation > docs/passes.md"


def test_every_pass_is_on_the_page() -> None:
    page = render()
    for name in PASSES:
        assert f"\n## {name}\n" in page
    assert "`iterations=10`" in page
    assert "| constant-right |" in page
