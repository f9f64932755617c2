"""Compare a bundle with Hugging Face's model on the same weights.

In: a bundle, and weights (random, or a checkpoint's, or packed). Out: a table of differences on stdout; exit code 4
where one is too large.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING

from g4c.cli.arguments import add_kernel_option, add_output_options, integers, thread_count
from g4c.cli.progress import make_reporter
from g4c.cli.weights import add_weight_options, open_provider, open_weights, wants_packed
from g4c.errors import G4cError

if TYPE_CHECKING:
    from g4c.verification.measures import Comparison

_COLUMNS = {
    "prompt + decode": 16,
    "positions": 9,
    "max rel error": 14,
    "rms error": 10,
    "min cosine": 12,
    "same argmax": 12,
}
_HEADER = " ".join(f"{name:>{width}}" for name, width in _COLUMNS.items())


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="a bundle directory")
    add_weight_options(parser)
    lengths = "prompt lengths, each followed by 64 decode steps (default: around every bucket and the window)"
    add("--lengths", type=integers, metavar="N,N", help=lengths)
    add("--per-layer", action="store_true", help="also compare what each layer hands to the next")
    add("--threads", type=thread_count, metavar="N", help="CPU threads (default: all)")
    add_kernel_option(parser)
    add_output_options(parser)


def execute(options: argparse.Namespace) -> int:
    from g4c.frontend.config import load_model_config
    from g4c.frontend.torch_cache import without_cache_directory
    from g4c.kernels import cpu_programs
    from g4c.runtime.bundle import open_bundle
    from g4c.runtime.session import Session

    with without_cache_directory():
        from g4c.verification.verify import default_lengths, stored_tensors, verify_layers, verify_session

    reporter = make_reporter(
        quiet=options.quiet, verbose=options.verbose, json=options.json, check=options.interrupts.check
    )
    with reporter.phase("open bundle") as phase:
        bundle = open_bundle(options.bundle, full=wants_packed(options))
        weights, origin = open_weights(options, bundle)
        config = load_model_config(str(bundle.path / "config.json"))
        tensors = stored_tensors(open_provider(options, bundle), config, bundle.dtype)
        session = Session(bundle, weights, threads=options.threads, form=cpu_programs(bundle, options.cpu_kernels))
        phase.result = f"{bundle.manifest['name']}, {bundle.dtype.mlir}, weights {origin}"
    windows = [layer.window for layer in config.layers if layer.window]
    for length in options.lengths or ():
        if not 1 <= length <= bundle.max_context:
            message = f"--lengths names {length}, the bundle's context is 1 to {bundle.max_context} tokens"
            raise G4cError("G4C-R056", message)
    lengths = options.lengths or default_lengths(bundle, max(windows, default=bundle.prefill_buckets[-1]))
    show = _print_json if options.json else _print_row
    if not options.json:
        print(_HEADER)
    with reporter.phase("compare candidates" if session.candidates else "compare logits") as phase:
        result = verify_session(session, tensors, config, tuple(lengths), report=show)
        phase.result = f"against Hugging Face in f32: {'within' if result.passes else 'OUT OF'} tolerance"
    if options.per_layer:
        with reporter.phase("compare layers") as phase:
            layers = verify_layers(bundle, weights, tensors, config)
            for layer in layers:
                text = f"layer {layer.layer:>3}  rms error {layer.rms:.2e}"
                print(json.dumps(dataclasses.asdict(layer)) if options.json else text)
            phase.result = f"{len(layers)} layers"
    return 0 if result.passes else 4


def _print_row(row: Comparison) -> None:
    line = f"{row.label:>16} {row.positions:>9} {row.max_relative:>14.2e} {row.rms:>10.2e}"
    line += f" {_cosine(row.min_cosine):>12} {row.same_argmax:>12}"
    if row.peer_rms is not None:
        line += f"   Hugging Face bf16: rms {row.peer_rms:.2e}, min cosine {_cosine(row.peer_min_cosine)}"
    print(f"{line}  {'ok' if row.passes else 'FAILED'}", flush=True)


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.8f}"


def _print_json(row: Comparison) -> None:
    print(json.dumps({**dataclasses.asdict(row), "passes": row.passes}), flush=True)
