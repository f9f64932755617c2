"""The pages about the IR: the op page is the one that the docstrings give, the example of the other parses and runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch_mlir.ir as mlir

from g4c.ir.interpreter import interpret
from g4c.ir.ops import CallOp
from g4c.ir.parser import parse_module
from g4c.ir.verifier import verify_module

DOCS = Path(__file__).parents[2] / "docs"


def test_the_op_page_is_fresh() -> None:
    """Rewritten by `python -m g4c.ir.vocabulary > docs/ops.md`."""
    page = subprocess.run([sys.executable, "-m", "g4c.ir.vocabulary"], capture_output=True, text=True, check=True)
    assert (DOCS / "ops.md").read_text(encoding="utf-8") == page.stdout


def test_the_example_parses_and_runs() -> None:
    (text,) = re.findall(r"^```mlir\n(.*?)^```", (DOCS / "ir.md").read_text(encoding="utf-8"), re.M | re.S)
    module = parse_module(text)
    verify_module(module)
    with mlir.Context() as context:
        context.allow_unregistered_dialects = True
        assert mlir.Module.parse(text).operation.verify()
    decode = module.functions["decode"]
    assert isinstance(decode.ops[6], CallOp), "the page says that decode:6 is the call"
    rng = np.random.default_rng(0)
    inputs = {param.name: rng.integers(0, 9, param.shape).astype(param.dtype.numpy) for param in decode.params}
    stored = [weight for weight in module.weights.values() if weight.sources]
    weights = {weight.name: rng.standard_normal(weight.type.shape).astype(weight.type.dtype.numpy) for weight in stored}
    before, slot = inputs["layers.0.k"], int(inputs["positions"][0, 0])
    after = interpret(module, "decode", inputs, weights)["layers.0.k"]
    assert [int(i) for i in np.flatnonzero((before != after).any(axis=(0, 2, 3)))] == [slot]
