"""Compile a model into a bundle.

In: a variant name, config.json or checkpoint directory, and options. Out: a bundle directory, whose path goes to
stdout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from g4c.cli.arguments import add_output_options, integer, integers
from g4c.cli.models import add_model_arguments, model_argument
from g4c.cli.progress import make_reporter


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, "its weights are packed into the bundle")
    # Options that are not given stay out of the namespace: the manifest records which were, and which are defaults.
    option = parser.add_argument_group("options", argument_default=argparse.SUPPRESS).add_argument
    option("-o", "--output", type=Path, metavar="DIR", help="the bundle (default: build/<model>)")
    option("--tp", type=integer, metavar="N", help="tensor parallel degree (default 1)")
    option("--buckets", type=integers, metavar="N,N", help="prefill lengths (default 128,512)")
    option("--batch", type=integer, metavar="N", help="sequences per execution (default 1)")
    option("--max-context", type=integer, metavar="N", help="positions of the caches (default 2048)")
    option("--dtype", choices=("bfloat16", "float32"), help="element type of the model (default bfloat16)")
    option("--logit-rows", type=integer, metavar="N", help="positions a prefill returns logits for (default 1)")
    option("--sample", metavar="WHERE", help="host: return logits; on-device[:K]: the K best tokens (default host)")
    option("--kv", choices=("full", "v-only", "auto"), help="cache K and V, or only V where K follows (default auto)")
    kernels = "calls of generated NKI kernels: none, attention or all (default none: plain HLO)"
    option("--kernels", choices=("none", "attention", "all"), help=kernels)
    option("--target", metavar="NAME", help="trn1, inf2, trn2, trn3 or cpu (default trn2)")
    option("--pipeline", metavar="PASSES", help="passes to run instead of the default pipeline: g4c list passes")
    option("--dump-dir", type=Path, metavar="DIR", help="write the IR after every pass into this directory")
    option("--verify-each", action=argparse.BooleanOptionalAction, help="verify the IR around every pass (default on)")
    option("--pack-weights", action=argparse.BooleanOptionalAction, help="pack a checkpoint's weights (default on)")
    option("--force", action="store_true", help="compile also where an equal bundle is there already")
    add_output_options(parser)


def execute(options: argparse.Namespace) -> int:
    from g4c.compile_options import CompileOptions
    from g4c.compiler import compile_model
    from g4c.next_steps import next_steps

    given = {name: value for name, value in vars(options).items() if name in CompileOptions.__dataclass_fields__}
    chosen = frozenset(given) | {"model"}
    given["model"] = model_argument(options)
    given.setdefault("output", Path("build") / Path(given["model"]).resolve().stem)
    reporter = make_reporter(
        quiet=options.quiet, verbose=options.verbose, json=options.json, check=options.interrupts.check
    )
    bundle = compile_model(CompileOptions(**given), reporter, given=chosen)
    for line in next_steps(bundle):
        reporter.note(line)
    reporter.product(str(bundle))
    return 0
