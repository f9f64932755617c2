"""Link a bundle: its kernels, compiled by the Neuron SDK, go where its programs call them.

In: a bundle that was compiled with --kernels, on a machine with the Neuron SDK. Out: the same bundle, linked; its path
goes to stdout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from g4c.cli.arguments import add_output_options
from g4c.cli.progress import make_reporter


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a directory that g4c compile made")
    add_output_options(parser)


def execute(options: argparse.Namespace) -> int:
    from g4c.link import link_bundle
    from g4c.next_steps import next_steps

    reporter = make_reporter(
        quiet=options.quiet, verbose=options.verbose, json=options.json, check=options.interrupts.check
    )
    link_bundle(options.bundle, reporter)
    for line in next_steps(options.bundle):
        reporter.note(line)
    reporter.product(str(options.bundle))
    return 0
