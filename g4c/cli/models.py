"""The one model that a verb works on: MODEL, --variant, --config or --checkpoint.

In: argv. Out: what `load_model_config` takes, or a `G4cError` (C003, F001, F002).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from g4c.errors import G4cError


def add_model_arguments(parser: argparse.ArgumentParser, checkpoint: str) -> None:
    """The four ways to name a model. `checkpoint` says what is done with one."""
    model = parser.add_argument_group("model (exactly one)")
    model.add_argument("model", nargs="?", metavar="MODEL", help="any of the three below")
    model.add_argument("--variant", metavar="NAME", help="a named variant: g4c list variants")
    model.add_argument("--config", metavar="FILE", help="a Hugging Face config.json")
    model.add_argument("--checkpoint", metavar="DIR", help=f"a checkpoint directory; {checkpoint}")


def model_argument(options: argparse.Namespace) -> str:
    """The one model that was named."""
    named = {
        name: value
        for name in ("model", "variant", "config", "checkpoint")
        if (value := getattr(options, name)) is not None
    }
    if len(named) != 1:
        message = f"several models: {', '.join(named.values())}" if named else "no model"
        raise G4cError("G4C-C003", message, help="give one of MODEL, --variant, --config, --checkpoint")
    (kind, value), *_ = named.items()
    if kind == "variant":
        from g4c.frontend.variants import VARIANTS, unknown_variant

        if value not in VARIANTS:
            raise unknown_variant(value)
    elif kind != "model" and not Path(value).expanduser().exists():
        raise G4cError("G4C-F002", "no such file or directory", where=value)
    return str(value)
