"""Run passes on an IR file and print the result; or say why a raising rule did not match in it.

In: an IR file ("-" is stdin), and a pipeline: --pipeline, or the file's own first line (`// pipeline: ...`, as dumps
and reproducers have it). Out: the module's text on stdout (with --why-not: one line per op where the rule could have
started); everything else on stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from g4c.errors import G4cError
from g4c.errors.suggest import unknown_value

if TYPE_CHECKING:
    from g4c.ir.module import Module


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help="an IR file, such as a dump; - reads stdin")
    named = "passes to run, or default, cpu, tiled for all of one (default: what the file's first line says)"
    add("--pipeline", metavar="PASSES", help=named)
    add("--dump-dir", type=Path, metavar="DIR", help="write the IR after every pass into this directory")
    add("--verify-each", action=argparse.BooleanOptionalAction, default=True, help="verify around every pass")
    add("--check-numerics", action="store_true", help="interpret the module before and after every pass and compare")
    add("--print-ir-before", metavar="PASS", action="append", default=[], help="show the IR before a pass, or all")
    add("--print-ir-after", metavar="PASS", action="append", default=[], help="show the IR after a pass, or all")
    add("--print-ir-after-change", action="store_true", help="show the IR after every pass that changed it")
    add("--start-from", metavar="PASS", help="skip the passes before this one")
    add("--stop-after", metavar="PASS", help="skip the passes after this one")
    add("--time-passes", action="store_true", help="say how long each pass took")
    add("--pass-stats", action="store_true", help="say what each pass did, in numbers")
    add("--why-not", metavar="RULE", help="only say where and why this rule of raising does not match: g4c list rules")


def execute(options: argparse.Namespace) -> int:
    text = _read(options.file)

    from g4c.ir.parser import parse_module
    from g4c.ir.printer import print_module
    from g4c.passes.manager import PipelineOptions, run_pipeline
    from g4c.passes.pipeline import header_pipeline, parse_pipeline
    from g4c.passes.pipelines import NAMED_PIPELINES

    module = parse_module(text, file=options.file)
    if options.why_not is not None:
        return _why_not(module, options.why_not)
    if options.pipeline is not None:
        pipeline = parse_pipeline(NAMED_PIPELINES.get(options.pipeline, options.pipeline))
    else:
        pipeline = parse_pipeline(header_pipeline(text) or "", resumed=True)
    watch = PipelineOptions(
        verify_each=options.verify_each,
        dump_dir=options.dump_dir,
        print_ir_before=tuple(options.print_ir_before),
        print_ir_after=tuple(options.print_ir_after),
        print_ir_after_change=options.print_ir_after_change,
        start_from=options.start_from,
        stop_after=options.stop_after,
        time=options.time_passes,
        stats=options.pass_stats,
        check_numerics=options.check_numerics,
    )
    run_pipeline(module, pipeline, watch)
    sys.stdout.write(print_module(module))
    return 0


def _why_not(module: Module, rule: str) -> int:
    from g4c.frontend.raising import RULES, explain

    names = [known.name for known in RULES]
    if rule not in names:
        raise unknown_value("rule", rule, names)
    explanations = explain(module, rule)
    for explanation in explanations:
        print(explanation)
    if not explanations:
        print(f"{rule}: it matches everywhere it could start, or there is no such place")
    return 0


def _read(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise G4cError("G4C-C008", f"cannot read {file}: {reason}") from error
