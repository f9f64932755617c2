"""From elementary ops to Gemma 4's own: which rules there are, and how to run them or ask them.

In: an imported module. Out: the same module with rms_norm, rope, embedding, gated_gelu, softcap and per_layer_input
ops in place of the elementary ops that spell them out; and with sequences kept apart (`rows`). What no rule
recognizes stays as it is, and stays right.
"""

from __future__ import annotations

from g4c.frontend.raising import rewriter, rows
from g4c.frontend.raising.rewriter import Explanation, Rule
from g4c.frontend.raising.semantic_rules import (
    RaiseEmbedding,
    RaiseGatedGelu,
    RaisePerLayerInput,
    RaiseRmsNorm,
    RaiseRope,
    RaiseSoftcap,
)
from g4c.frontend.raising.structure_rules import DropUnitScale, FoldTransposes, HalveTables
from g4c.ir.module import Module

RULES: tuple[Rule, ...] = (
    DropUnitScale(),
    FoldTransposes(),
    HalveTables(),
    RaiseEmbedding(),
    RaiseRmsNorm(),
    RaiseRope(),
    RaiseGatedGelu(),
    RaisePerLayerInput(),
    RaiseSoftcap(),
)


def raise_module(module: Module) -> dict[str, int]:
    """Raise every function of `module` in place; says how often each rule applied, and to how many ops `rows`."""
    totals = {rows.NAME: 0, **{rule.name: 0 for rule in RULES}}
    for function in module.functions.values():
        totals[rows.NAME] += rows.keep_sequences_apart(function)
        for name, count in rewriter.rewrite(function, RULES).items():
            totals[name] += count
    return totals


def explain(module: Module, rule: str | None = None, path: str | None = None) -> list[Explanation]:
    """Why rules do not match in `module`: all, or those of `rule`, or those at ops of the model's module `path`."""
    assert rule is None or rule in {known.name for known in RULES}, rule
    return [e for function in module.functions.values() for e in rewriter.explain(function, RULES, rule, path)]
