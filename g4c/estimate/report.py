"""An estimate as text for people.

In: an `Estimate`. Out: lines. Invariant: every figure that depends on the model of the machine has the word "modelled"
in its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from g4c.estimate.result import Estimate, PassEffect, ProgramFigures, State, WorkFigures

_PER_PROGRAM = {
    "flops": "FLOP",
    "matmul_flops": "FLOP without attention",
    "weight_bytes": "weights read",
    "kv_read_bytes": "K/V read",
    "kv_written_bytes": "K/V written",
    "activation_bytes": "activation traffic",
    "peak_activation_bytes": "peak activations",
}
_PER_MODULE = {"stored_weight_bytes": "weights stored", "cache_bytes": "caches"}


def report(estimate: Estimate) -> str:
    """The whole estimate."""
    sections = (_head, _parameters, _programs, _attention, _passes, _memory, _kv, _timing, _assumptions)
    return "\n\n".join("\n".join(section(estimate)) for section in sections)


def _head(e: Estimate) -> Iterator[str]:
    m = e.machine
    buckets = ", ".join(map(str, e.buckets))
    yield f"{e.model}: {e.dtype}, batch {e.batch}, context {e.context:,}, buckets {buckets}"
    cores = f"{m.cores_used} of {m.logical_cores} logical cores of {m.instance} ({m.chip})"
    yield f"{cores}, each {m.memory_bytes / 2**30:g} GiB, {m.bandwidth / 1e9:.0f} GB/s, {m.flops / 1e12:.1f} TFLOPS"
    yield f"pipeline: {e.pipeline or 'none'}"


def _parameters(e: Estimate) -> Iterator[str]:
    p = e.parameters
    yield "parameters that the programs use"
    rows = [("decoder", p.decoder), ("of these, experts", p.experts), ("per-layer-embedding table", p.ple_table)]
    rows += [("token embedding (and head)", p.embedding), ("together", p.total)]
    yield from table([(name, f"{count:,}") for name, count in rows if count])


def _programs(e: Estimate) -> Iterator[str]:
    for index, program in enumerate(e.programs):
        if index:
            yield ""
        yield from _program(program)


def _program(program: ProgramFigures) -> Iterator[str]:
    yield f"{program.name}: GFLOP and bytes of one execution, by kind of layer"
    parts = list(program.total.flops_by)
    header = ("", "layers", "GFLOP", *(name.replace("_", "-") for name in parts))
    header += ("weights", "K/V read", "K/V written", "activations")
    rows = [_work_row(kind, parts) for kind in (*program.layer_kinds, program.total)]
    yield from table([header, *rows])
    looked_up = f"; {size(program.total.looked_up_bytes)} of the weights are rows of tables"
    yield f"  peak of live activations {size(program.peak_activation_bytes)}{looked_up}"
    times = f"compute {ms(program.modelled_compute_seconds)}, bandwidth {ms(program.modelled_bandwidth_seconds)}"
    if program.modelled_collective_seconds:
        times += f", collectives {ms(program.modelled_collective_seconds)}"
    yield f"  modelled bounds: {times}: limited by {program.modelled_limit}"


def _work_row(work: WorkFigures, parts: Sequence[str]) -> tuple[str, ...]:
    flops = [giga(work.flops_by.get(part, 0)) for part in parts]
    moved = (work.weight_bytes, work.kv_read_bytes, work.kv_written_bytes, work.activation_bytes)
    return (work.name, str(work.layers or ""), giga(work.flops), *flops, *map(size, moved))


def _attention(e: Estimate) -> Iterator[str]:
    yield "attention: as computed (every query with every slot), and where a query sees a key (causal, in its window)"
    header = ("", "computed GFLOP", "seen GFLOP", "seen", "all work, computed", "all work, seen")
    rows = [
        (
            count.what,
            giga(count.computed_flops),
            giga(count.seen_flops),
            percent(count.seen_flops, count.computed_flops),
            giga(count.total_flops),
            giga(count.total_seen_flops),
        )
        for count in e.attention
    ]
    yield from table([header, *rows])


def _passes(e: Estimate) -> Iterator[str]:
    programs = (f"prefill_{max(e.buckets)}", "decode")
    yield f"what each pass changed by 0.1 % or more ({' and '.join(programs)}; all programs and changes: --json)"
    rows: list[tuple[str, ...]] = []
    silent = []
    for number, effect in enumerate(e.passes, 1):
        changes = list(_changes(effect, programs))
        names = [f"{number:02d} {effect.name}", *[""] * len(changes)]
        rows += [(name, *change) for name, change in zip(names, changes, strict=False)]
        silent += [] if changes else [effect.name]
    if rows:
        yield from table([("pass", "figure", "before", "after", "change"), *rows], left=2)
    if silent:
        yield f"  nothing by {', '.join(dict.fromkeys(silent))}"


def _changes(effect: PassEffect, programs: Sequence[str]) -> Iterator[tuple[str, ...]]:
    before, after = _figures(effect.before, programs), _figures(effect.after, programs)
    for what, old in before.items():
        new = after[what]
        if abs(new - old) * 1000 >= max(old, 1):
            show = gflop if what.startswith(_PER_PROGRAM["flops"]) else size
            yield what, show(old), show(new), change(old, new)


def _figures(state: State, programs: Sequence[str]) -> dict[str, int]:
    """What a state costs, by the words of the table."""
    found = {title: int(getattr(state, field)) for field, title in _PER_MODULE.items()}
    for field, title in _PER_PROGRAM.items():
        found |= {f"{title}, {program}": getattr(state, field)[program] for program in programs}
    return found


def _memory(e: Estimate) -> Iterator[str]:
    m = e.memory
    yield f"memory of one core, of {size(m.device_bytes)} ({m.device_bytes / 2**30:g} GiB)"
    rows = [("weights", m.weight_bytes), ("caches", m.cache_bytes), ("microcode", m.microcode_bytes)]
    rows.append((f"reserve (live activations: {size(m.peak_activation_bytes)})", m.reserve_bytes))
    if m.ple_table_bytes:
        rows.append(("together, without per-layer-embedding table", m.total_bytes_without_ple_table))
        rows.append(("per-layer-embedding table", m.ple_table_bytes))
    rows.append(("together", m.total_bytes))
    yield from table([(name, size(count)) for name, count in rows])
    if m.fits:
        yield f"  fits: {percent(m.total_bytes, m.device_bytes)} of the core's memory"
    elif m.fits_without_ple_table and m.ple_table_bytes:
        yield "  DOES NOT FIT, but for a per-layer-embedding table that is kept elsewhere (on the host)"
    else:
        yield "  DOES NOT FIT: take more cores (--tp), a shorter --context or a smaller --batch"


def _kv(e: Estimate) -> Iterator[str]:
    kv = e.kv
    t = kv.per_token
    yield "K and V, bytes per token of one sequence"
    rows = [("all layers", t.all_layers), ("layers that own theirs", t.owned)]
    rows += [("of these, growing with the context", t.growing), ("of these, bounded by a window", t.sliding)]
    if t.growing_v_only != t.growing:
        rows.append(("growing, with V alone where K can be rebuilt", t.growing_v_only))
    yield from table([(name, f"{count:,}") for name, count in rows])
    if not kv.windowed:
        yield "  without window-kv-cache in the pipeline, sliding layers grow, too"
    if kv.rebuilt:
        yield "  rebuild-keys is in the pipeline: V alone is cached where K can be rebuilt"
    yield f"  {kv.choice.reason}"
    if kv.recommendation is not None:
        yield "  recommended: --kv v-only"


def _timing(e: Estimate) -> Iterator[str]:
    t = e.timing
    yield f"modelled times (bounds, not measurements), prompt of {t.prompt_tokens:,} tokens"
    programs = ", ".join(_runs([chunk.program for chunk in t.chunks]))
    rows = [
        ("", "as computed", "with tile skipping"),
        ("modelled TTFT", ms(t.modelled_ttft_seconds), ms(t.modelled_ttft_seconds_skipping)),
        ("modelled TPOT", ms(t.modelled_tpot_seconds), ms(t.modelled_tpot_seconds_skipping)),
    ]
    yield from table(rows)
    limits = ", ".join(dict.fromkeys(chunk.modelled_limit for chunk in t.chunks))
    yield f"  TTFT runs {programs}; modelled as limited by {limits}"
    rate = f"{t.modelled_tokens_per_second:.1f} modelled tokens/s, batch {e.batch}"
    yield f"  TPOT is modelled as limited by {t.modelled_tpot_limit}: {rate}"


def _runs(names: Sequence[str]) -> Iterator[str]:
    for name in dict.fromkeys(names):
        count = names.count(name)
        yield f"{count} x {name}" if count > 1 else name


def _assumptions(e: Estimate) -> Iterator[str]:
    yield "the modelled figures assume"
    for line in e.assumptions:
        yield f"  - {line}"


def table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Aligned lines; the first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def giga(count: int) -> str:
    """FLOPs in GFLOP, three significant digits at least."""
    value = count / 1e9
    return f"{value:,.1f}" if value >= 100 else f"{value:.3f}" if value else "0"


def gflop(count: int) -> str:
    return f"{giga(count)} GFLOP"


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.3f} ms"


def change(old: int, new: int) -> str:
    if not old:
        return "new"
    return f"x {new / old:,.0f}" if new >= 10 * old else f"{100 * (new - old) / old:+.1f} %"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
