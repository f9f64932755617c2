"""Generate text with a bundle on the CPU backend.

In: a bundle, weights, a prompt. Out: the generated text on stdout as it comes (with --json: events), statistics on
stderr.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from g4c.cli.arguments import (
    add_kernel_option,
    add_output_options,
    at_least_zero,
    fraction,
    integer,
    integers,
    positive,
    thread_count,
)
from g4c.cli.progress import JsonReporter, Reporter, make_reporter
from g4c.cli.weights import add_weight_options, open_weights, wants_packed
from g4c.errors import G4cError

if TYPE_CHECKING:
    from g4c.runtime.bundle import Bundle
    from g4c.runtime.engine import Generation, Statistics
    from g4c.runtime.tokenizer import Tokenizer


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle directory")
    add_weight_options(parser)
    prompt = parser.add_argument_group("prompt (exactly one)").add_argument
    prompt(
        "--prompt", metavar="TEXT", help="text, for the checkpoint's tokenizer; without one for a byte-level stand-in"
    )
    prompt("--token-ids", type=integers, metavar="N,N", help="token ids, taken as they are")
    add = parser.add_argument_group("generation").add_argument
    add("--max-new-tokens", type=positive, default=64, metavar="N", help="stop after this many tokens (default 64)")
    add("--greedy", action="store_true", help="always take the most likely token")
    add("--temperature", type=at_least_zero, default=1.0, metavar="T", help="default 1.0; 0 is greedy")
    add("--top-k", type=integer, default=64, metavar="K", help="default 64; 0 switches it off")
    add("--top-p", type=fraction, default=0.95, metavar="P", help="default 0.95; 1 switches it off")
    add("--seed", type=integer, default=0, metavar="N", help="of the sampling (default 0)")
    add("--ignore-eos", action="store_true", help="go on after an end-of-sequence token")
    add("--threads", type=thread_count, metavar="N", help="CPU threads (default: all)")
    add_kernel_option(parser)
    add_output_options(parser)


def execute(options: argparse.Namespace) -> int:
    if (options.prompt is None) == (options.token_ids is None):
        message = "no prompt" if options.prompt is None else "--prompt and --token-ids are given"
        raise G4cError("G4C-C011", message, help="give --prompt TEXT or --token-ids N,N")

    from g4c.kernels import cpu_programs
    from g4c.runtime.bundle import open_bundle
    from g4c.runtime.engine import Engine, GenerationOptions
    from g4c.runtime.sampling import GREEDY, Sampling
    from g4c.runtime.session import Session

    sampling = GREEDY if options.greedy else Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    reporter = make_reporter(
        quiet=options.quiet, verbose=options.verbose, json=options.json, check=options.interrupts.check
    )
    with reporter.phase("open bundle") as phase:
        bundle = open_bundle(options.bundle, full=wants_packed(options))
        tokenizer = _tokenizer(options, bundle)
        prompt = options.token_ids if tokenizer is None else tokenizer.encode(options.prompt)
        weights, origin = open_weights(options, bundle)
        session = Session(bundle, weights, threads=options.threads, form=cpu_programs(bundle, options.cpu_kernels))
        engine = Engine(session)
        engine.check(prompt)
        engine.check_sampling(sampling)
        phase.result = f"{bundle.manifest['name']}, {bundle.dtype.mlir}, {len(prompt)} prompt tokens, weights {origin}"
    if tokenizer is not None and tokenizer.stand_in:
        reporter.note(f"tokenizer: {tokenizer.description}")
    for name in engine.programs(len(prompt)):
        with reporter.phase(f"load {name}") as phase:
            session.prepare(name)
            phase.result = f"{len(bundle.program(name).weights)} weights bound"
    ends = frozenset() if options.ignore_eos else frozenset(bundle.eos_token_ids)
    generation = engine.generate(
        prompt, GenerationOptions(options.max_new_tokens, sampling, ends, logprobs=options.json)
    )
    _stream(generation, tokenizer, reporter)
    _report(generation, reporter)
    return 0


def _tokenizer(options: argparse.Namespace, bundle: Bundle) -> Tokenizer | None:
    """The tokenizer of the checkpoint or of the bundle; None where the prompt is token ids and there is none."""
    from g4c.runtime.tokenizer import has_tokenizer, load_tokenizer

    places = [Path(options.checkpoint)] if options.checkpoint is not None else []
    directory = next((place for place in [*places, bundle.path] if has_tokenizer(place)), None)
    if directory is None and options.prompt is None:
        return None
    return load_tokenizer(directory or bundle.path, bundle.vocabulary)


def _stream(generation: Generation, tokenizer: Tokenizer | None, reporter: Reporter) -> None:
    """Print tokens as they come: text, or ids where there is no tokenizer."""
    from g4c.runtime.tokenizer import Detokenizer

    detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
    separator = ""
    for token in generation:
        text = detokenizer.add(token.id) if detokenizer else f"{separator}{token.id}"
        separator = ","
        if isinstance(reporter, JsonReporter):
            said = text if detokenizer else None
            reporter.event("token", id=token.id, text=said, logprob=token.logprob, finish=token.finish_reason)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
    if not isinstance(reporter, JsonReporter):
        sys.stdout.write((detokenizer.finish() if detokenizer else "") + "\n")
        sys.stdout.flush()


def _report(generation: Generation, reporter: Reporter) -> None:
    """Statistics: a line on stderr, or an event."""
    statistics: Statistics = generation.statistics
    if isinstance(reporter, JsonReporter):
        fields = {
            "prompt_tokens": statistics.prompt_tokens,
            "new_tokens": statistics.new_tokens,
            "bucket": statistics.bucket,
            "prefill_seconds": statistics.prefill_seconds,
            "first_token_seconds": statistics.first_token_seconds,
            "decode_steps": statistics.decode_steps,
            "decode_seconds": statistics.decode_seconds,
            "decode_tokens_per_second": statistics.decode_tokens_per_second,
        }
        reporter.event("statistics", **fields)
        return
    reporter.note(
        f"prefill: {statistics.prompt_tokens} tokens in {statistics.prefill_seconds:.2f} s, "
        f"bucket {statistics.bucket}, {statistics.prefill_tokens_per_second:.1f} tokens/s; "
        f"first token after {statistics.first_token_seconds:.2f} s"
    )
    reporter.note(
        f"decode: {statistics.decode_steps} tokens in {statistics.decode_seconds:.2f} s, "
        f"{statistics.decode_tokens_per_second:.2f} tokens/s; ended by {generation.finish_reason()}"
    )
