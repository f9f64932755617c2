"""Show NKI kernels and what they would cost, modelled: profile, trace, roofline, list, show.

In: a kernel: a Python file with its argument shapes, or a name from `g4c nki list`. Out: a table, the kernel's source
on stdout, or a file: a trace for ui.perfetto.dev, a drawing. Nothing is compiled or measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g4c.cli.arguments import Parser, add_output_options, at_least_zero, integer, integers, positive
from g4c.cli.progress import JsonReporter, Reporter, make_reporter
from g4c.errors import G4cError
from g4c.errors.suggest import nearest

if TYPE_CHECKING:
    from g4c.lowering.nki.cost import Profile
    from g4c.model_kernels import ModelKernel

_TARGETS = ("trn1", "inf2", "trn2", "trn3")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (run, summary, add) in _ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        add(action)
        _add_model_options(action)
        add_output_options(action)
        action.set_defaults(run=run, parser=action)


def execute(options: argparse.Namespace) -> int:
    code: int = options.run(options)
    return code


# Options


def _add_kernel(parser: Parser) -> None:
    parser.add_argument("kernel", metavar="KERNEL", help="a Python file, or a name from g4c nki list")
    _add_kernel_options(parser)


def _add_kernel_options(parser: Parser) -> None:
    group = parser.add_argument_group("a kernel in a file")
    group.add_argument("--function", metavar="NAME", help="which of the file's kernels (default: its only one)")
    shape = "an argument: q=1x2048x8x512xbf16, or a value: scale=0.125; repeat it for each"
    group.add_argument("--arg", metavar="NAME=VALUE", action="append", default=[], help=shape)
    group.add_argument("--cores", type=integer, choices=(1, 2), help="cores of a logical core that run it (default 1)")


def _add_trace(parser: Parser) -> None:
    _add_kernel(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="FILE.json or FILE.svg")
    parser.add_argument("--from", dest="since", type=at_least_zero, metavar="US", help="of a drawing (default 0)")
    parser.add_argument("--to", dest="until", type=at_least_zero, metavar="US", help="of a drawing (default: the end)")


def _add_roofline(parser: Parser) -> None:
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help="files or names (default: all that are listed)")
    _add_kernel_options(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="FILE.svg")


def _add_model_options(parser: Parser) -> None:
    group = parser.add_argument_group("a kernel of a model's programs")
    group.add_argument("--variant", default="e2b", metavar="NAME", help="g4c list variants (default e2b)")
    group.add_argument("--bucket", type=integers, default=(512,), metavar="N,N", help="prefill lengths (default 512)")
    group.add_argument("--max-context", type=positive, default=2048, metavar="N", help="positions (default 2048)")
    group.add_argument("--batch", type=positive, default=1, metavar="N", help="sequences (default 1)")
    group.add_argument("--tp", type=positive, default=1, metavar="N", help="cores that share the model (default 1)")
    parser.add_argument("--target", choices=_TARGETS, default="trn2", help="whose rules and clocks (default trn2)")


# Actions


def _profile(options: argparse.Namespace) -> int:
    reporter = _reporter(options)
    found = _profile_of(options.kernel, options, reporter)
    _show(reporter, found.table(), "profile", **found.summary())
    return 0


def _trace(options: argparse.Namespace) -> int:
    from g4c.lowering.nki.cost.pictures import timeline
    from g4c.lowering.nki.cost.trace import write_trace

    if options.output.suffix not in (".json", ".svg"):
        message = f"--output {options.output} is neither FILE.json nor FILE.svg"
        raise G4cError("G4C-C001", message, help="json: a trace for ui.perfetto.dev; svg: a drawing")
    if options.until is not None and options.until <= (options.since or 0.0):
        raise G4cError("G4C-C001", f"--to {options.until:g} is not after --from {options.since or 0:g}")
    reporter = _reporter(options)
    found = _profile_of(options.kernel, options, reporter)
    if options.output.suffix == ".svg":
        options.output.write_text(timeline(found, options.since or 0.0, options.until), encoding="utf-8")
    else:
        with options.output.open("w", encoding="utf-8") as file:
            write_trace(found, file)
    reporter.product(str(options.output))
    return 0


def _roofline(options: argparse.Namespace) -> int:
    from g4c.lowering.nki.cost.pictures import roofline

    reporter = _reporter(options)
    if options.kernels:
        profiles = [_profile_of(kernel, options, reporter) for kernel in options.kernels]
    else:
        profiles = [kernel.choice.profile for kernel in _kernels(options, reporter) if kernel.choice is not None]
    options.output.write_text(roofline(profiles), encoding="utf-8")
    reporter.product(str(options.output))
    return 0


def _list(options: argparse.Namespace) -> int:
    reporter = _reporter(options)
    found = _kernels(options, reporter)
    if isinstance(reporter, JsonReporter):
        for kernel in found:
            reporter.event("kernel", **kernel.summary())
    else:
        from g4c.model_kernels import listing

        reporter.product(listing(found))
    return 0


def _show_source(options: argparse.Namespace) -> int:
    reporter = _reporter(options)
    found = _named(options.kernel, options, reporter)
    assert found.choice is not None
    _show(reporter, found.choice.artifact.source.rstrip("\n"), "source", source=found.choice.artifact.source)
    return 0


def _add_name(parser: Parser) -> None:
    parser.add_argument("kernel", metavar="NAME", help="a name from g4c nki list")


_ACTIONS: dict[str, tuple[Callable[[argparse.Namespace], int], str, Callable[[Any], None]]] = {
    "profile": (_profile, "what a kernel costs: engines, traffic, budget, critical path", _add_kernel),
    "trace": (_trace, "when every instruction would run, for ui.perfetto.dev or as a drawing", _add_trace),
    "roofline": (_roofline, "kernels between the bandwidth and the array, as a drawing", _add_roofline),
    "list": (_list, "the kernels of a model's programs: shape, schedule, time, bound", lambda parser: None),
    "show": (_show_source, "the source of a kernel", _add_name),
}


# What actions share


def _reporter(options: argparse.Namespace) -> Reporter:
    return make_reporter(
        quiet=options.quiet, verbose=options.verbose, json=options.json, check=options.interrupts.check
    )


def _show(reporter: Reporter, text: str, event: str, **fields: Any) -> None:
    """The product: text for people, an event for programs."""
    if isinstance(reporter, JsonReporter):
        reporter.event(event, **fields)
    else:
        reporter.product(text)


def _profile_of(kernel: str, options: argparse.Namespace, reporter: Reporter) -> Profile:
    """The profile, with its timelines, of a kernel in a file or with a name."""
    from g4c.lowering.nki.cost import profile
    from g4c.lowering.nki.cost.kernel_file import load_kernel, parse_arguments, python_errors_of

    path = Path(kernel)
    if path.suffix == ".py" or path.exists():
        if not path.is_file():
            raise G4cError("G4C-F002", "no such file" if not path.exists() else "not a file", where=kernel)
        found = load_kernel(path, options.function)
        arguments = parse_arguments(found, options.arg)
        with reporter.phase("run dry") as phase, python_errors_of(str(path.resolve())):
            result = profile(found, arguments, options.target, grid=options.cores)
            phase.result = f"{result.instructions:,} instructions"
        return result
    if options.arg or options.function:
        what = "--arg" if options.arg else "--function"
        raise G4cError("G4C-K052", f"{what} with {kernel!r}, which is no file", help="names have their own arguments")
    choice = _named(kernel, options, reporter).choice
    assert choice is not None
    with reporter.phase("run dry") as phase:
        result = profile(choice.artifact, None, options.target, grid=options.cores)
        phase.result = f"{result.instructions:,} instructions"
    return result


def _kernels(options: argparse.Namespace, reporter: Reporter) -> list[ModelKernel]:
    """The kernels of the model that the options describe."""
    from g4c.model_kernels import Wanted, model_kernels

    wanted = Wanted(
        options.variant, options.bucket, options.max_context, options.batch, tp=options.tp, target=options.target
    )
    return model_kernels(wanted, reporter)


def _named(name: str, options: argparse.Namespace, reporter: Reporter) -> ModelKernel:
    """The kernel with this name, of those that are listed."""
    found = _kernels(options, reporter)
    for kernel in found:
        if kernel.name == name:
            if kernel.choice is None:
                raise G4cError("G4C-K053", f"there is no kernel for {name}: {kernel.refusal}")
            return kernel
    names = [kernel.name for kernel in found]
    close = nearest(name, names)
    hint = f"did you mean {close!r}? " if close else ""
    message = f"{options.variant} calls no kernel {name!r} with these options, and there is no such file"
    raise G4cError("G4C-K053", message, help=f"{hint}kernels: {', '.join(names)}")
