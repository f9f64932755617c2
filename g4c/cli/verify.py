"""Compare a bundle with Hugging Face's model on the same weights.

In: a bundle, and weights (random, or a checkpoint's). Out: a table of differences on stdout; exit code 4 where one is
too large.
"""

from __future__ import annotations

import argparse

from g4c.cli.arguments import add_output_options, positive
from g4c.cli.progress import make_reporter
from g4c.cli.weights import add_weight_options


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="a bundle directory")
    add_weight_options(parser)
    add(
        "--positions",
        type=positive,
        metavar="N",
        help="positions to compare (default: every bucket's edge, and beyond)",
    )
    add("--per-layer", action="store_true", help="also compare what each layer hands to the next")
    add("--full", action="store_true", help="also hash packed weights")
    add_output_options(parser)


def execute(options: argparse.Namespace) -> int:
    from g4c.verification import verify_bundle

    reporter = make_reporter(
        quiet=options.quiet, verbose=options.verbose, json=options.json, check=options.interrupts.check
    )
    return int(verify_bundle(options, reporter))
