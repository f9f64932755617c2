"""Run passes on an IR file and print the result.

In: an IR file ("-" is stdin), and a pipeline: --pipeline, or the file's own first line (`// pipeline: ...`, as dumps
and reproducers have it). Out: the module's text on stdout; everything else on stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from g4c.errors import G4cError


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help="an IR file, such as a dump; - reads stdin")
    add("--pipeline", metavar="PASSES", help="passes to run (default: what the file's first line says)")
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


def execute(options: argparse.Namespace) -> int:
    text = _read(options.file)

    from g4c.ir.parser import parse_module
    from g4c.ir.printer import print_module
    from g4c.passes.manager import PipelineOptions, run_pipeline
    from g4c.passes.pipeline import header_pipeline, parse_pipeline

    module = parse_module(text, file=options.file)
    if options.pipeline is not None:
        pipeline = parse_pipeline(options.pipeline)
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


def _read(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise G4cError("G4C-C008", f"cannot read {file}: {reason}") from error
