"""NKI kernels of g4c in the cost model, beside what they are to beat, in one run. Every time is modelled.

Nothing is measured.

Prefill attention, 8 query heads of one KV head, bf16, at several lengths: head_dim 256 with windows of 512 and 1024,
head_dim 512 without. Beside g4c's kernel, which takes the cheapest of its schedules:
(a) the same work with K and V loaded, and K transposed, again for every query tile and head, as a flash kernel does
    that shares nothing between them. One head is costed, times 8. `a PE` is what PE alone would take if DMA were free;
    `a full` sees every earlier key: without the window;
(b) the decomposed form: all scores to HBM, softmax, probabilities from HBM. One head is costed, times 8;
(c) the bound of the array: the multiply-adds of the pairs of query and key that see each other, nothing else.
The kernels of (a) and (b) are in attention_peers.py. Published: the time per KV head of the d 256 kernel of
aws-neuron/neuronx-distributed-inference#115, by its authors, on a trn2; it was not run here.

Decode: attention of one token over a cache, also of four times as many tokens on the two cores of a logical core, and
the projections of a layer and the head, on one core and on two that share the columns, against the bound of HBM: every
operand once, at the bandwidth of the cores.

python benchmarks/nki_attention.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import attention_peers as peers

from g4c.errors import G4cError
from g4c.ir.types import DType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.attention import decode, prefill
from g4c.lowering.nki.choose import compare
from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.cost.assumptions import MACHINES
from g4c.lowering.nki.linear import lm_head, projection, residual

HEADS = 8
SHAPES = ((256, 512), (256, 1024), (512, 0))  # head_dim, window
# NxDI#115, d 256 with a window, per KV head of 8 query heads: ms by length
PUBLISHED = {128: 0.81, 512: 0.71, 1024: 0.75, 2048: 1.59, 4096: 5.46, 8192: 13.30, 16384: 48.02}
UNCERTAIN = """\
Where the model is uncertain: the efficiency of DMA for rows of 512 to 2048 bytes (of K and V: 2 head_dim bytes where
one KV head is loaded alone) is interpolated, and (a) stands or falls with it; latencies between engines are assumed to
be those within one; transfers of any number are in flight at once; a kernel gets all of SBUF and the order of its
source; neuronx-cc may reorder and place otherwise. Instruction costs are documented averages. See docs/nki.md."""


@dataclass(frozen=True)
class Prefill:
    """Times in us, modelled; `published_us` is not. `ours` None: the family refuses."""

    length: int
    head_dim: int
    window: int
    ours_us: float | None
    refusal: str
    schedule: str
    instructions: int
    pe_busy: float
    hbm_bytes: int
    reloaded_us: float
    reloaded_pe_us: float
    reloaded_full_us: float | None
    reloaded_hbm_bytes: int
    decomposed_us: float
    decomposed_hbm_bytes: int
    bound_us: float
    published_us: float | None


@dataclass(frozen=True)
class Stream:
    """A decode kernel against the bound of HBM. Times in us, modelled."""

    what: str
    us: float | None
    refusal: str
    schedule: str
    bytes: int
    bound_us: float
    hbm_bytes: int
    bound_by: str


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lengths", default="2048,8192", help="tokens of a prefill (default 2048,8192)")
    parser.add_argument("--cached", type=int, default=8192, help="tokens in the cache of a decode (default 8192)")
    parser.add_argument("--generation", type=int, choices=sorted(MACHINES), default=3, help="NeuronCore (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of tables")
    options = parser.parse_args(argv)
    lengths = [int(length) for length in options.lengths.split(",")]
    prefills = (prefill_row(length, *shape, options.generation) for shape in SHAPES for length in lengths)
    streams = stream_rows(options.cached, options.generation)
    if options.json:
        rows = {"prefill": [asdict(row) for row in prefills], "decode": [asdict(row) for row in streams]}
        print(json.dumps({"generation": options.generation, "modelled": True, **rows}))
    else:
        show(prefills, streams, options.generation)
    return 0


# Prefill


def pairs(length: int, window: int) -> int:
    """How many pairs of a query and an earlier or the same key there are within the window (0: none)."""
    reach = min(window, length) if window else length
    return reach * (reach + 1) // 2 + (length - reach) * reach


def prefill_row(length: int, head_dim: int, window: int, generation: int) -> Prefill:
    """Ours, the two peers and the bound for one shape."""
    machine = MACHINES[generation]
    target = f"gen{generation}"
    operands = [((length, head_dim), "bfloat16")] * 3
    reloaded = profile(peers.reloaded, [*operands, window], target)
    full = profile(peers.reloaded, [*operands, 0], target) if window else None
    decomposed = profile(peers.decomposed, [*operands, window], target)
    problem = prefill.PrefillProblem(
        1, length, HEADS, 1, head_dim, (prefill.Segment("chunk", length),), window=window, dtype=DType.BF16
    )
    ours, refusal = None, ""
    try:
        ours = compare(problem, prefill, generation)
    except G4cError as error:
        refusal = f"{error.code}: {error.message}"
    return Prefill(
        length,
        head_dim,
        window,
        None if ours is None else ours.profile.us,
        refusal,
        "" if ours is None else ours.artifact.schedule,
        0 if ours is None else ours.profile.instructions,
        0.0 if ours is None else ours.profile.share("pe"),
        0 if ours is None else ours.profile.hbm_bytes,
        HEADS * reloaded.us,
        HEADS * reloaded.engines["pe"].busy_us,
        None if full is None else HEADS * full.us,
        HEADS * reloaded.hbm_bytes,
        HEADS * decomposed.us,
        HEADS * decomposed.hbm_bytes,
        4 * head_dim * pairs(length, window) * HEADS / machine.peak_flops / 1000,
        1000 * PUBLISHED[length] if (head_dim, window, generation) == (256, 512, 3) and length in PUBLISHED else None,
    )


# Decode


def stream_rows(cached: int, generation: int) -> Iterator[Stream]:
    """Attention over `cached` tokens, then what a decode step of E2B and of a 31B shard streams besides."""
    bf16 = DType.BF16
    for heads, head_dim, batch in ((8, 512, 1), (8, 256, 1), (8, 512, 4)):
        past = (decode.Segment("past", cached), decode.Segment("chunk", 1))
        problem = decode.DecodeProblem(batch, 1, heads, 1, head_dim, past, dtype=bf16, update=True)
        what = f"attention d {head_dim}, {heads} heads, batch {batch}, {cached} cached, with update"
        yield stream_row(what, problem, decode, generation)
    if generation >= 3:
        yield two_core_row(4 * cached, generation)
    for model, hidden, widths, mlp, per_layer in (
        ("E2B", 1536, (2048, 256, 256), 6144, 256),
        ("31B tp4", 5376, (2048, 1024, 1024), 5376, 0),
    ):
        qkv = projection.ProjectionProblem((1, 1), hidden, widths, bf16, epsilon=1e-6)
        what = f"{model}: norm and QKV {hidden} to {sum(widths)}"
        yield stream_row(what, qkv, projection, generation)
        if generation >= 3:
            yield stream_row(f"{what}, on two cores", qkv, projection, generation, 2)
        rest = residual.ResidualProblem(
            (1, 1), hidden, bf16, 1e-6, attention=widths[0], mlp=mlp, per_layer=per_layer, scaled=True
        )
        what = f"{model}: O projection, gated MLP {mlp}" + (", PLE block" if per_layer else "")
        yield stream_row(what, rest, residual, generation)
    query = projection.ProjectionProblem((1, 1), 1536, (2048,), bf16, epsilon=1e-6)
    yield stream_row("E2B: norm and Q 1536 to 2048", query, projection, generation)
    head = lm_head.HeadProblem((1, 1), 1536, 262144, bf16, cap=30.0, epsilon=1e-6)
    yield stream_row("E2B: head 1536 to 262144, softcap", head, lm_head, generation)
    if generation >= 3:
        yield stream_row("E2B: head 1536 to 262144, softcap, on two cores", head, lm_head, generation, 2)


def stream_row(what: str, problem: Any, family: Any, generation: int, cores: int = 1) -> Stream:
    """The cheapest kernel of a problem, and the time that its operands take at the bandwidth of its cores."""
    try:
        choice = compare(problem, family, generation, cores)
    except G4cError as error:
        return Stream(what, None, f"{error.code}: {error.message}", "", 0, 0.0, 0, "")
    found = choice.profile
    least = operand_bytes(choice.artifact)
    bound = least / MACHINES[generation].hbm_bandwidth / cores / 1000
    return Stream(what, found.us, "", choice.artifact.schedule, least, bound, cores * found.hbm_bytes, found.bound)


def two_core_row(cached: int, generation: int) -> Stream:
    """Attention with half of the keys on each core of a logical core, against the bandwidth of both."""
    past = (decode.Segment("past", cached), decode.Segment("chunk", 1))
    problem = decode.DecodeProblem(1, 1, 8, 1, 512, past, dtype=DType.BF16, update=True)
    first = decode.schedules(problem, generation)[0]
    schedule = replace(first, cores=2, parts=max(2, first.parts + first.parts % 2))
    artifact = decode.emit(problem, schedule, generation)
    found = profile(artifact, None, f"gen{generation}", grid=2)
    least = operand_bytes(artifact)
    bound = least / MACHINES[generation].hbm_bandwidth / 2 / 1000
    what = f"attention d 512, 8 heads, batch 1, {cached} cached, with update, on two cores"
    return Stream(what, found.us, "", artifact.schedule, least, bound, 2 * found.hbm_bytes, found.bound)


def operand_bytes(artifact: KernelArtifact) -> int:
    """Inputs and outputs, once. An output that is an input updated in place moves almost nothing."""
    in_place = {result for _, result in artifact.aliases}
    outputs = sum(kind.nbytes for n, (_, kind) in enumerate(artifact.outputs) if n not in in_place)
    return outputs + sum(kind.nbytes for _, kind in artifact.inputs)


# Tables


def show(prefills: Iterator[Prefill], streams: Iterator[Stream], generation: int) -> None:
    """Print rows when they are there."""
    machine = MACHINES[generation]
    print(
        f"modelled on one NeuronCore-v{generation}: array {machine.peak_flops / 1000:.1f} TFLOP/s bf16, HBM "
        f"{machine.hbm_bandwidth:.0f} GB/s\n\nprefill attention, {HEADS} query heads of one KV head, us"
    )
    titles = ("d", "window", "tokens", "ours", "PE busy", "of bound", "HBM MB", "(a)", "a/ours", "MB", "a PE", "a full")
    titles += ("(b)", "b/ours", "MB", "(c) bound", "published")
    line = "{:>4} {:>6} {:>6} {:>9} {:>7} {:>8} {:>7} {:>9} {:>6} {:>7} {:>7} {:>9} {:>9} {:>6} {:>7} {:>9} {:>9}"
    print(line.format(*titles))
    for row in prefills:
        ours = row.ours_us
        print(
            line.format(
                row.head_dim,
                row.window or "-",
                row.length,
                f"{ours:,.0f}" if ours else "refused",
                f"{row.pe_busy:.0%}" if ours else "",
                f"{row.bound_us / ours:.0%}" if ours else "",
                f"{row.hbm_bytes / 1e6:,.1f}" if ours else "",
                f"{row.reloaded_us:,.0f}",
                f"{row.reloaded_us / ours:.2f}" if ours else "",
                f"{row.reloaded_hbm_bytes / 1e6:,.0f}",
                f"{row.reloaded_pe_us:,.0f}",
                f"{row.reloaded_full_us:,.0f}" if row.reloaded_full_us else "",
                f"{row.decomposed_us:,.0f}",
                f"{row.decomposed_us / ours:.2f}" if ours else "",
                f"{row.decomposed_hbm_bytes / 1e6:,.0f}",
                f"{row.bound_us:,.0f}",
                f"{row.published_us:,.0f}" if row.published_us else "",
            ),
            flush=True,
        )
        print(f"       {row.schedule}{row.refusal}", flush=True)
    print("\ndecode, against the time that the operands take at HBM's bandwidth\n")
    print(f"{'us':>10} {'bound':>9} {'of bound':>8} {'HBM MB':>8}  what")
    for stream in streams:
        if stream.us is None:
            print(f"{'refused':>10} {'':27}  {stream.what}: {stream.refusal}", flush=True)
            continue
        print(
            f"{stream.us:10,.1f} {stream.bound_us:9,.1f} {stream.bound_us / stream.us:8.0%} "
            f"{stream.hbm_bytes / 1e6:8,.1f}  {stream.what}\n{'':41}{stream.schedule}",
            flush=True,
        )
    print(f"\n{UNCERTAIN}")


if __name__ == "__main__":
    sys.exit(main())
