"""What every test gets: each module that it made is verified, printed, parsed back and compared at its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from g4c.ir.module import Module
from g4c.ir.parser import parse_module
from g4c.ir.printer import print_module
from g4c.ir.verifier import verify_module

# A run is repeatable: hypothesis draws the same examples every time.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

# A shell starts background jobs with SIGINT ignored; tests that interrupt themselves need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Commands that tests start find this g4c also where it is not installed.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(autouse=True)
def every_module_round_trips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Verify, print and parse back every module that the test made, unless it is marked `invalid_ir`."""
    made: list[Module] = []
    make = Module.__init__

    def record(self: Module, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Module, "__init__", record)
    yield
    monkeypatch.undo()
    if request.node.get_closest_marker("invalid_ir"):
        return
    checked: set[str] = set()
    for module in made:
        text = print_module(module)
        if text not in checked:
            checked.add(text)
            verify_module(module)
            assert print_module(parse_module(text)) == text
