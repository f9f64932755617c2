"""Where a verb's weights come from: --random-weights SEED, --checkpoint DIR, or those packed in the bundle.

In: a namespace and an opened bundle. Out: a mapping from weight symbol to array. Invariant: exactly one source, else
G4C-C010.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from g4c.cli.arguments import integer
from g4c.errors import G4cError

if TYPE_CHECKING:
    from g4c.ir.types import Array
    from g4c.runtime.bundle import Bundle


def add_weight_options(parser: argparse.ArgumentParser) -> None:
    """--random-weights and --checkpoint."""
    weights = parser.add_argument_group("weights (default: those packed in the bundle)")
    weights.add_argument("--random-weights", type=integer, metavar="SEED", help="a deterministic random model")
    weights.add_argument("--checkpoint", metavar="DIR", help="a Hugging Face checkpoint directory")


def open_weights(options: argparse.Namespace, bundle: Bundle) -> tuple[Mapping[str, Array], str]:
    """The weights of `bundle` by symbol, and a few words on where they come from. Errors: C010, F0xx, R0xx."""
    seed, checkpoint = options.random_weights, options.checkpoint
    if seed is not None and checkpoint is not None:
        raise G4cError("G4C-C010", "--random-weights and --checkpoint are given", help="give one of them")
    if seed is not None:
        from g4c.runtime.random_weights import RandomWeights
        from g4c.runtime.weights import WeightStore

        return WeightStore(bundle.weights, RandomWeights(seed)), f"random, seed {seed}"
    if checkpoint is not None:
        from g4c.frontend.checkpoint import CheckpointIndex
        from g4c.frontend.config import load_model_config
        from g4c.runtime.weights import WeightStore

        index = CheckpointIndex.open(Path(checkpoint))
        index.check(load_model_config(checkpoint))
        return WeightStore(bundle.weights, index), checkpoint
    if not bundle.packed_weights:
        message = "the bundle was compiled without a checkpoint and holds no weights"
        raise G4cError(
            "G4C-C010", message, help="give --random-weights SEED or --checkpoint DIR", where=str(bundle.path)
        )
    from g4c.runtime.weights import open_packed

    return open_packed(bundle.packed_weights[0], bundle.weights), "packed in the bundle"
