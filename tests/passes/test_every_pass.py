"""What holds for every registered pass: its place in pipelines, its level, its options, and how all of them refuse."""

from __future__ import annotations

import dataclasses
import graphlib
import typing
from functools import cache

import pytest
from gemma_like import GemmaLike
from pass_testing import run_once

from g4c.errors import G4cError
from g4c.ir.module import Module
from g4c.ir.op import Level
from g4c.ir.printer import print_module
from g4c.passes.contract import Pass
from g4c.passes.manager import PassFailedError, PipelineOptions, run_pipeline
from g4c.passes.pipeline import Pipeline, parse_pipeline
from g4c.passes.pipelines import PASSES

SIZES = GemmaLike(pattern="SF", shared=0, hidden=8, mlp=8, ple=4, head_dims=(8, 16), heads=1, context=16)
WRONG = {int: ("many", "1.5", "true"), float: ("x",), bool: ("1", "yes"), tuple[int, ...]: ("1xx2", "wide")}

# What each pass must find done, if it is done at all: (pass, an earlier one).
ORDER = [(name, earlier) for name, cls in PASSES.items() for earlier in cls.runs_after]
# Passes that follow values through whole programs.
WHOLE_PROGRAMS = {
    "window-kv-cache",
    "rebuild-keys",
    "prune-prefill",
    "precompute-ple",
    "fold-norms",
    "fuse-projections",
}


@cache
def traced() -> Module:
    return SIZES.module()


def refusal(text: str) -> G4cError:
    with pytest.raises(G4cError) as caught:
        parse_pipeline(text)
    return caught.value


def pointed_at(error: G4cError) -> str:
    """What the caret is under."""
    assert error.excerpt is not None
    shown, caret = error.excerpt.splitlines()
    return shown[caret.index("^") : len(caret.rstrip())]


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "earlier"), ORDER)
def test_a_pass_before_one_that_it_needs(name: str, earlier: str) -> None:
    error = refusal(f"cse,{name},dce,{earlier}")
    assert (error.code, error.exit_code) == ("G4C-P005", 2)
    assert error.message == f"{name} runs before {earlier}"
    assert pointed_at(error) == name
    assert error.help == f"{name} runs after {', '.join(PASSES[name].runs_after)}"
    parse_pipeline(f"cse,{earlier},dce,{name}")
    parse_pipeline(f"cse,{name},dce")


def test_orders_agree() -> None:
    """Names are those of passes, nothing comes after itself, and all of them fit into one pipeline."""
    assert {earlier for _, earlier in ORDER} <= set(PASSES)
    sorter = graphlib.TopologicalSorter({name: cls.runs_after for name, cls in PASSES.items()})
    order = sorted(sorter.static_order(), key=lambda name: PASSES[name].level_after is not None)
    parse_pipeline(",".join(order))


def test_what_leaves_no_cache_updates_comes_after_what_looks_for_them() -> None:
    """Else rings and rebuilt keys would silently not be made."""
    assert {"window-kv-cache", "rebuild-keys"} <= set(PASSES["mask-kv-updates"].runs_after)


# -- levels ------------------------------------------------------------------------------------------------------------

LOWERING = [name for name, cls in PASSES.items() if cls.level_after is not None]
GRAPH_ONLY = [name for name, cls in PASSES.items() if cls.level_before is Level.GRAPH]


def needed(name: str) -> list[str]:
    """`name` and what comes before it, in order."""
    before = [pass_ for earlier in PASSES[name].runs_after for pass_ in needed(earlier)]
    return [*dict.fromkeys(before), name]


def tiled() -> Module:
    module = traced().copy()
    run_once(module, "tile-contractions")
    return module


@pytest.mark.parametrize("name", GRAPH_ONLY)
@pytest.mark.parametrize("lowering", LOWERING)
def test_a_pass_after_the_level_was_left(name: str, lowering: str) -> None:
    left = PASSES[lowering].level_after
    assert left is not None
    error = refusal(",".join([*needed(lowering), "cse", name]))
    assert (error.code, error.exit_code) == ("G4C-P006", 2)
    assert error.message == f"{name} takes graph level, the passes before it leave {left.value} level"
    assert error.excerpt is not None
    assert error.excerpt.splitlines()[0].endswith(pointed_at(error))
    assert pointed_at(error) == name


@pytest.mark.parametrize("name", GRAPH_ONLY)
def test_a_pass_on_a_module_of_another_level(name: str) -> None:
    module = tiled()
    before = print_module(module)
    with pytest.raises(G4cError) as caught:
        run_pipeline(module, Pipeline.of(PASSES[name]()), PipelineOptions(repro_dir=None))
    assert (caught.value.code, caught.value.where) == ("G4C-P006", "module gemma_like")
    assert caught.value.message == f"{name} runs at graph level, the module is at tiled"
    assert print_module(module) == before


@pytest.mark.parametrize("name", [name for name in PASSES if name not in GRAPH_ONLY])
def test_passes_for_any_level(name: str) -> None:
    run_once(tiled(), name)


# -- whole programs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PASSES)
def test_layer_functions(name: str) -> None:
    """A pass works on them, or says in one way that it does not."""
    module = traced().copy()
    run_once(module, "canonicalize,precompute-rope,specialize-layers")
    if PASSES[name].level_before is Level.TILED:
        run_once(module, "tile-contractions")
    if name not in WHOLE_PROGRAMS:
        run_once(module, name)
        return
    with pytest.raises(PassFailedError) as caught:
        run_once(module, name)
    error = caught.value
    assert (error.code, error.exit_code, error.where) == ("G4C-P042", 1, "prefill_8")
    assert error.message == f"{name} works on whole programs, this one calls layer functions"
    assert error.help == f"put {name} before specialize-layers, or inline-layers before {name}"
    run_once(module, f"inline-layers,{name}")


# -- options -----------------------------------------------------------------------------------------------------------


def options_of(cls: type[Pass]) -> dict[str, type]:
    hints = typing.get_type_hints(cls)
    return {entry.name.replace("_", "-"): hints[entry.name] for entry in dataclasses.fields(cls)}


OPTIONS = [(name, option, hint) for name, cls in PASSES.items() for option, hint in options_of(cls).items()]


def test_there_are_options() -> None:
    assert {("window-kv-cache", "pad", int), ("fold-norms", "narrow", bool)} <= set(OPTIONS)
    assert {hint for _, _, hint in OPTIONS} <= {*WRONG, str}


@pytest.mark.parametrize(("name", "option", "value"), [(n, o, v) for n, o, h in OPTIONS for v in WRONG.get(h, ())])
def test_a_value_of_the_wrong_type(name: str, option: str, value: str) -> None:
    error = refusal(f"cse,{name}{{{option}={value}}},dce")
    assert (error.code, error.exit_code) == ("G4C-P003", 2)
    assert error.message.startswith(f"option {option} of {name} is ")
    assert error.message.endswith(f", got {value!r}")
    assert pointed_at(error) == value


@pytest.mark.parametrize(("name", "option"), [(n, o) for n, o, _ in OPTIONS])
def test_options_that_are_not_given_right(name: str, option: str) -> None:
    near = f"{option[:-1]}y"
    unknown, bare, empty = (refusal(f"cse,{name}{{{text}}}") for text in (f"{near}=1", option, f"{option}="))
    assert (unknown.code, pointed_at(unknown)) == ("G4C-P002", near)
    assert unknown.message == f"{name} has no option {near!r}"
    assert unknown.help == f"did you mean {option}?" or f" {option}" in (unknown.help or "")
    assert (bare.code, bare.message) == ("G4C-P004", "expected '=', found '}'")
    assert (empty.code, empty.message) == ("G4C-P004", "expected a value, found '}'")


@pytest.mark.parametrize("name", [name for name, cls in PASSES.items() if not options_of(cls)])
def test_passes_without_options(name: str) -> None:
    error = refusal(f"{name}{{pad=1}}")
    assert (error.code, error.message) == ("G4C-P002", f"{name} has no option 'pad'; it has none")
    assert pointed_at(error) == "pad"


@pytest.mark.parametrize("name", PASSES)
def test_names_almost_right(name: str) -> None:
    for wrong in (f"{name}s", name.replace("-", "_"), name[1:]):
        if wrong not in PASSES:
            error = refusal(f"cse,{wrong}")
            assert (error.code, error.exit_code, pointed_at(error)) == ("G4C-P001", 2, wrong)
            assert error.help == f"did you mean {name}?"


@pytest.mark.parametrize(
    ("pipeline", "code"),
    [
        ("window-kv-cache{pad=0}", "G4C-P060"),
        ("window-kv-cache{pad=-128}", "G4C-P060"),
        ("tile-contractions{partition=0}", "G4C-P080"),
        ("tile-contractions{kv-tile=-2}", "G4C-P080"),
        ("tile-contractions,outline-kernels{kernels=none}", "G4C-P100"),
        ("split-logits{k=0}", "G4C-P091"),
        ("split-logits{k=-1}", "G4C-P091"),
        ("canonicalize,precompute-rope{context=-1}", "G4C-P041"),
        ("canonicalize,precompute-rope{context=15}", "G4C-P041"),
    ],
)
def test_values_out_of_range(pipeline: str, code: str) -> None:
    with pytest.raises(PassFailedError) as caught:
        run_once(traced().copy(), pipeline)
    assert caught.value.code == code
    assert caught.value.exit_code in (1, 2)
