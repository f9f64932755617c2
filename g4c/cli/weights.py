"""Where a verb's weights come from: --random-weights SEED, --checkpoint DIR, or those packed in the bundle.

In: a namespace and an opened bundle. Out: a mapping from weight symbol to array. Invariant: exactly one source, else
G4C-C010.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from g4c.cli.arguments import natural
from g4c.errors import G4cError

if TYPE_CHECKING:
    from g4c.ir.types import Array
    from g4c.runtime.bundle import Bundle
    from g4c.runtime.weights import Provider


def add_weight_options(parser: argparse.ArgumentParser) -> None:
    """--random-weights and --checkpoint."""
    weights = parser.add_argument_group("weights (default: those packed in the bundle)")
    weights.add_argument("--random-weights", type=natural, metavar="SEED", help="a deterministic random model")
    weights.add_argument("--checkpoint", metavar="DIR", help="a Hugging Face checkpoint directory")


def wants_packed(options: argparse.Namespace) -> bool:
    """Whether the weights are those packed in the bundle."""
    return options.random_weights is None and options.checkpoint is None


def open_weights(options: argparse.Namespace, bundle: Bundle) -> tuple[Mapping[str, Array], str]:
    """The weights of `bundle` by symbol, and a few words on where they come from. Errors: C010, F0xx, R0xx."""
    from g4c.runtime.weights import WeightStore, open_packed

    if wants_packed(options):
        return open_packed(_packed(bundle), bundle.weights), "packed in the bundle"
    origin = f"random, seed {options.random_weights}" if options.checkpoint is None else options.checkpoint
    return WeightStore(bundle.weights, open_provider(options, bundle)), origin


def open_provider(options: argparse.Namespace, bundle: Bundle) -> Provider:
    """The tensors of the model as a checkpoint stores them, from the same place. Errors: C010, F0xx, R0xx."""
    seed, checkpoint = options.random_weights, options.checkpoint
    if seed is not None and checkpoint is not None:
        raise G4cError("G4C-C010", "--random-weights and --checkpoint are given", help="give one of them")
    if seed is not None:
        from g4c.runtime.random_weights import RandomWeights

        return RandomWeights(seed)
    if checkpoint is not None:
        from g4c.frontend.checkpoint import CheckpointIndex
        from g4c.frontend.config import load_model_config

        index = CheckpointIndex.open(Path(checkpoint))
        index.check(load_model_config(checkpoint))
        return index
    from g4c.runtime.weights import PackedTensors, open_packed

    return PackedTensors(open_packed(_packed(bundle), bundle.weights), bundle.weights)


def _packed(bundle: Bundle) -> Path:
    if not bundle.packed_weights:
        message = "the bundle was compiled without a checkpoint and holds no weights"
        raise G4cError(
            "G4C-C010", message, help="give --random-weights SEED or --checkpoint DIR", where=str(bundle.path)
        )
    return bundle.packed_weights[0]
