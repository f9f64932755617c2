"""A profile as a table of one screen.

In: a `Profile`. Out: text. Invariant: the first line says that the figures are modelled.
"""

from __future__ import annotations

import linecache

from g4c.lowering.nki.cost.profile import TITLES, Profile
from g4c.lowering.nki.simulator.generation import PSUM_BANKS

_LINES = 6


def table(profile: Profile) -> str:
    """Time and bound, engines, traffic, budget, critical path."""
    machine = profile.machine
    cores = "core" if profile.cores == 1 else "cores of one logical core"
    bound = TITLES.get(profile.bound, profile.bound)
    lines = [
        f"{profile.name}: {profile.us:,.1f} us modelled on {profile.cores} NeuronCore-v{machine.number} {cores}, "
        f"bound by {bound}",
        "",
        f"  {'engine':8} {'instructions':>12} {'cycles':>14} {'busy us':>12} {'busy':>7}",
    ]
    for engine, use in profile.engines.items():
        cycles = f"{use.cycles:,.0f}" if engine != "dma" else ""
        lines.append(
            f"  {TITLES[engine]:8} {use.instructions:12,} {cycles:>14} {use.busy_us:12,.1f} "
            f"{profile.share(engine):7.1%}"
        )
    peak = machine.peak_flops / 1000
    lines += [
        "",
        f"  matmuls   {profile.flops / 1e9:,.3f} GFLOP useful, {profile.pe_utilization:.1%} of the array "
        f"({peak:.1f} TFLOP/s bf16 per core)",
        f"  HBM       {size(profile.hbm_read)} read, {size(profile.hbm_written)} written, "
        f"{profile.hbm_utilization:.1%} of {machine.hbm_bandwidth:.0f} GB/s; {size(profile.moved_on_chip)} on chip",
        f"  budget    SBUF {profile.sbuf_peak:,} of {profile.sbuf_limit:,} bytes per partition, PSUM "
        f"{profile.psum_peak} of {PSUM_BANKS} banks, {profile.instructions:,} instructions",
        "",
        "  critical path: share of the time, instructions, where",
    ]
    several = len({step.path for step in profile.path}) > 1
    for step in profile.path[:_LINES]:
        share = step.us / profile.us if profile.us else 0.0
        text = linecache.getline(step.path, step.line).strip()
        place = f"{step.path.rsplit('/', 1)[-1]}:{step.line}" if several else f"line {step.line}"
        lines.append(f"  {share:6.1%} {step.count:7,}  {TITLES[step.engine]:6} {step.name:22} {place:9} {text[:48]}")
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes for people, decimal units as the bandwidths."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
