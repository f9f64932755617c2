"""The entry point: argv in, exit code out.

Exit codes: 0 ok, 1 user error, 2 usage, 3 backend compiler, 4 verification, 70 internal bug (the only one with a
traceback), 130 Ctrl-C, 143 SIGTERM, 141 stdout closed. Invariant: importing this module imports no torch, numpy,
networkx or rich.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import g4c
from g4c.cli import compile as compile_verb
from g4c.cli import estimate, explain, link, nki, opt, run, verify
from g4c.cli import list as list_verb
from g4c.cli.arguments import Parser
from g4c.cli.interrupts import Interrupts
from g4c.errors import G4cError

VERBS = (compile_verb, link, run, verify, estimate, opt, nki, list_verb, explain)
INTERNAL_BUG = 70
_INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
# What the operating system says about a path that the user chose.
_REFUSALS = (
    errno.EACCES,
    errno.EEXIST,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with Interrupts() as interrupts:
        try:
            return _run(arguments, interrupts)
        except BaseException as error:
            if interrupts.received is not None:
                print("interrupted", file=sys.stderr)
                return 128 + interrupts.received
            return _report(error, as_json="--json" in arguments)


def command() -> NoReturn:
    """The process `g4c`: `main`, then the end.

    After an interrupt the process ends at once: XLA gives up on a compile without waiting for its threads, and taking
    the interpreter down under them crashes.
    """
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the result stands; nothing is left to interrupt
    if code in _INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and those of the verbs by name."""
    parser = Parser(prog="g4c", description=g4c.__doc__, epilog="g4c VERB --help shows what a verb takes.")
    parser.add_argument("--version", action="version", version=f"g4c {g4c.__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs: dict[str, Parser] = {}
    for module in VERBS:
        verb = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").partition("\n")[0]
        verbs[verb] = subparsers.add_parser(verb, help=summary, description=summary)
        module.configure(verbs[verb])
        verbs[verb].set_defaults(execute=module.execute)
    return parser, verbs


def _run(arguments: list[str], interrupts: Interrupts) -> int:
    parser, verbs = make_parser()
    try:
        options, extra = parser.parse_known_args(arguments)
    except SystemExit as exit:  # --help, --version
        return int(exit.code or 0)
    if extra:
        getattr(options, "parser", verbs[options.verb]).reject(extra)
    options.interrupts = interrupts
    code = int(options.execute(options))
    sys.stdout.flush()
    return code


def _report(error: BaseException, *, as_json: bool) -> int:
    """Print `error` as a user should see it; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = str(error.filename) if error.filename else None
        error = G4cError("G4C-C009", "no space left on the disk", where=where, help="free some space and run it again")
    elif isinstance(error, OSError) and error.errno in _REFUSALS and error.filename is not None:
        error = G4cError("G4C-C013", f"{error.strerror}: {error.filename}")
    if isinstance(error, G4cError):
        if as_json:
            _event(
                code=error.code, message=error.message, where=error.where, help=error.help, exit_code=error.exit_code
            )
        print(error, file=sys.stderr)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    import traceback

    traceback.print_exception(error)
    print("internal error: this is a bug in g4c; the traceback above shows where", file=sys.stderr)
    if as_json:
        _event(code=None, message=f"{type(error).__name__}: {error}", where=None, help=None, exit_code=INTERNAL_BUG)
    return INTERNAL_BUG


def _event(**fields: Any) -> None:
    import json

    print(json.dumps({"event": "error", **fields}, ensure_ascii=False), flush=True)
