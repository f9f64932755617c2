"""Generate text with a bundle on the CPU backend.

In: a bundle, weights, a prompt. Out: the generated text on stdout as it comes, statistics on stderr.
"""

from __future__ import annotations

import argparse

from g4c.cli.arguments import add_output_options, at_least_zero, fraction, integer, integers, positive
from g4c.cli.verify import add_weight_options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle directory")
    add_weight_options(parser)
    prompt = parser.add_argument_group("prompt (exactly one)").add_argument
    prompt("--prompt", metavar="TEXT", help="text, tokenized with the checkpoint's tokenizer")
    prompt("--token-ids", type=integers, metavar="N,N", help="token ids, taken as they are")
    add = parser.add_argument_group("generation").add_argument
    add("--max-new-tokens", type=positive, default=64, metavar="N", help="stop after this many tokens (default 64)")
    add("--greedy", action="store_true", help="always take the most likely token")
    add("--temperature", type=at_least_zero, default=1.0, metavar="T", help="default 1.0; 0 is greedy")
    add("--top-k", type=positive, default=64, metavar="K", help="default 64")
    add("--top-p", type=fraction, default=0.95, metavar="P", help="default 0.95")
    add("--seed", type=integer, default=0, metavar="N", help="of the sampling (default 0)")
    add("--ignore-eos", action="store_true", help="go on after an end-of-sequence token")
    add("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    add_output_options(parser)


def execute(options: argparse.Namespace) -> int:
    raise NotImplementedError
