"""Say what a model costs on a machine, without compiling it: FLOPs, bytes, memory, modelled TTFT and TPOT.

In: a variant name, config.json or checkpoint directory, an instance, and options. Out: the estimate on stdout; with
--json as the last event.
"""

from __future__ import annotations

import argparse

from g4c.cli.arguments import add_output_options, integer, integers
from g4c.cli.models import add_model_arguments, model_argument
from g4c.cli.progress import JsonReporter, make_reporter


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, "no weight is read")
    option = parser.add_argument_group("options", argument_default=argparse.SUPPRESS).add_argument
    option("--tp", type=integer, metavar="N", help="cores that share the model, modelled (default 1)")
    option("--instance", metavar="NAME", help="such as trn2.3xlarge (default), trn1.2xlarge, inf2.xlarge")
    option("--batch", type=integer, metavar="N", help="sequences per execution (default 1)")
    option("--prompt", type=integer, metavar="N", help="tokens of the prompt of TTFT (default: the longest bucket)")
    option("--context", type=integer, metavar="N", help="positions of the caches (default 2048)")
    option("--buckets", type=integers, metavar="N,N", help="prefill lengths (default 128,512)")
    option("--dtype", choices=("bfloat16", "float32"), help="element type of the model (default bfloat16)")
    option("--pipeline", metavar="PASSES", help="passes to run instead of the default pipeline: g4c list passes")
    option("--passes-off", type=_names, metavar="PASS,PASS", help="passes to leave out of the default pipeline")
    add_output_options(parser)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def execute(options: argparse.Namespace) -> int:
    import dataclasses

    from g4c.estimate.estimator import estimate_model
    from g4c.estimate.options import EstimateOptions
    from g4c.estimate.report import report

    fields = EstimateOptions.__dataclass_fields__.keys() - {"model"}
    given = {name: value for name, value in vars(options).items() if name in fields}
    wanted = EstimateOptions(model_argument(options), **given)
    reporter = make_reporter(
        quiet=options.quiet, verbose=options.verbose, json=options.json, check=options.interrupts.check
    )
    estimate = estimate_model(wanted, reporter)
    if isinstance(reporter, JsonReporter):
        reporter.event("estimate", **dataclasses.asdict(estimate))
    else:
        reporter.product(report(estimate))
    return 0
