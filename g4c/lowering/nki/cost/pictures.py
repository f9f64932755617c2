"""Drawings of profiles as SVG: the timeline of a kernel, and kernels in a roofline.

In: profiles. Out: the text of an SVG file. Invariant: the same profiles give the same text; every drawing says that it
shows modelled times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import count

from g4c.errors import G4cError
from g4c.lowering.nki.cost.assumptions import Machine
from g4c.lowering.nki.cost.profile import COMPUTE, TITLES, Profile
from g4c.lowering.nki.cost.trace import FIRST_QUEUE, tracks_of

_WIDTH, _LEFT, _RIGHT, _TOP = 1080, 96, 24, 58
_ROW, _GAP = 26, 8
_INK, _MUTED, _LINE, _PAPER = "#1f2328", "#656d76", "#d8dee4", "#ffffff"
_COLORS = ("#2f6fb2", "#d97b29", "#3f9b6c", "#b5485d", "#7d62a8", "#8f7a3a", "#4aa3b5", "#c06aa0")
_OTHER = "#9aa4ae"
_QUEUES = 6  # as many queues are drawn


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start", color: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'
    )


def _rect(x: float, y: float, width: float, height: float, color: str, title: str = "") -> str:
    shape = f'<rect x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height:.1f}" fill="{color}"'
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def _line(x1: float, y1: float, x2: float, y2: float, color: str = _LINE, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width:g}"/>'


def _document(height: float, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="Helvetica, Arial, sans-serif">'
    )
    return "\n".join([head, _rect(0, 0, _WIDTH, height, _PAPER), *parts, "</svg>", ""])


def timeline(profile: Profile, since: float = 0.0, until: float | None = None) -> str:
    """The instructions of the first core between `since` and `until` us, a row per engine and per queue that is used.

    Refusals: G4C-K055: nothing runs in that time.
    """
    end = profile.us if until is None else min(until, profile.us)
    if since >= end:
        raise G4cError("G4C-K055", f"{profile.name} runs for {profile.us:,.1f} us, the drawing begins at {since:,.1f}")
    pieces = _pieces(profile, since, end)
    queues = sorted(track for track in pieces if track >= FIRST_QUEUE)[:_QUEUES]
    titles = {n + 1: TITLES[name] for n, name in enumerate(COMPUTE)}
    titles |= {track: f"DMA queue {track - FIRST_QUEUE}" for track in queues}
    names = _by_time([piece for track in titles for piece in pieces.get(track, [])])
    color = {name: _COLORS[n] if n < len(_COLORS) else _OTHER for n, name in enumerate(names)}
    scale = (_WIDTH - _LEFT - _RIGHT) / (end - since)
    bottom = _TOP + 16 + len(titles) * (_ROW + _GAP)
    parts = [
        _text(_LEFT, 24, f"{profile.name}", 15),
        _text(_LEFT, 42, f"{profile.us:,.1f} us modelled on NeuronCore-v{profile.machine.number}", 12, color=_MUTED),
    ]
    for tick in _ticks(since, end):
        x = _LEFT + (tick - since) * scale
        parts += [_line(x, _TOP + 14, x, bottom), _text(x, _TOP + 8, f"{tick:g} us", 11, "middle", _MUTED)]
    for n, (track, title) in enumerate(titles.items()):
        top = _TOP + 24 + n * (_ROW + _GAP)
        parts.append(_text(_LEFT - 10, top + _ROW / 2 + 4, title, 12, "end"))
        for start, stop, name in pieces.get(track, []):
            width = max((stop - start) * scale - 0.3, 0.4)
            parts.append(_rect(_LEFT + (start - since) * scale, top, width, _ROW, color[name], name))
    x, y = float(_LEFT), bottom + 22.0
    for name in names[: len(_COLORS)]:
        width = 30 + 6.6 * len(name)
        if x + width > _WIDTH - _RIGHT:
            x, y = float(_LEFT), y + 20
        parts += [_rect(x, y - 10, 12, 12, color[name]), _text(x + 17, y, name)]
        x += width
    return _document(y + 18, parts)


def _pieces(profile: Profile, since: float, end: float) -> dict[int, list[tuple[float, float, str]]]:
    """By track, what runs between `since` and `end`: (start, stop, name) in us. Equal instructions without a gap that
    could be seen are one piece."""
    recorder, line = profile.recorders[0], profile.lines[0]
    gap = (end - since) / (_WIDTH - _LEFT - _RIGHT) * 0.4
    found: dict[int, list[tuple[float, float, str]]] = {}
    for (kind, _, _), track, start, stop in zip(
        recorder.rows, tracks_of(recorder, line), line.start, line.end, strict=True
    ):
        if stop / 1000 > since and start / 1000 < end:
            piece = (max(start / 1000, since), min(stop / 1000, end), recorder.kinds[kind].cost.name)
            found.setdefault(track, []).append(piece)
    for track, pieces in found.items():
        merged: list[tuple[float, float, str]] = []
        for start, stop, name in sorted(pieces):
            if merged and merged[-1][2] == name and start - merged[-1][1] < gap:
                start = merged.pop()[0]
            merged.append((start, stop, name))
        found[track] = merged
    return found


def _by_time(pieces: list[tuple[float, float, str]]) -> list[str]:
    """The names of the instructions, the one with the most time first."""
    total: dict[str, float] = {}
    for start, stop, name in pieces:
        total[name] = total.get(name, 0.0) + stop - start
    return sorted(total, key=lambda name: (-total[name], name))


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between `low` and `high`, about eight."""
    raw = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(step * n, 10) for n in range(first, math.floor(high / step) + 1)]


def roofline(profiles: Sequence[Profile]) -> str:
    """FLOP/s by FLOP per byte of HBM traffic: the roof of one core, and a point for each kernel with matmuls.

    Refusals: G4C-K055: no kernel, kernels of several generations, or none with matmuls.
    """
    machines = {profile.machine for profile in profiles}
    shown = [profile for profile in profiles if profile.flops and profile.hbm_bytes]
    if not shown or len(machines) != 1:
        raise G4cError("G4C-K055", "a roofline shows kernels with matmuls and HBM traffic, of one generation")
    (machine,) = machines
    return _document(*_roofline(shown, machine))


def _roofline(profiles: list[Profile], machine: Machine) -> tuple[float, list[str]]:
    height, bottom, right = 420.0, 380.0, _WIDTH - 480.0
    points = [(p.flops / p.hbm_bytes, p.flops / p.us / 1e6) for p in profiles]  # FLOP/B, TFLOP/s
    peak, ridge = machine.peak_flops / 1000, machine.peak_flops / machine.hbm_bandwidth
    x_low, x_high = math.floor(math.log10(min(0.5, *(x for x, _ in points)))), 4
    y_low, y_high = math.floor(math.log10(min(0.1, *(y for _, y in points)))), 2.2

    def at(x: float, y: float) -> tuple[float, float]:
        along = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return _LEFT + along * (right - _LEFT), bottom - up * (bottom - _TOP)

    parts = [_text(_LEFT, 24, f"Modelled kernels on one NeuronCore-v{machine.number}", 15)]
    for power in range(x_low, x_high + 1):
        x, _ = at(10.0**power, 1)
        parts += [_line(x, _TOP, x, bottom), _text(x, bottom + 18, f"{10.0**power:g}", 11, "middle", _MUTED)]
    for power in range(y_low, 3):
        _, y = at(1, 10.0**power)
        parts += [_line(_LEFT, y, right, y), _text(_LEFT - 8, y + 4, f"{10.0**power:g}", 11, "end", _MUTED)]
    parts += [
        _text((_LEFT + right) / 2, bottom + 36, "FLOP per byte of HBM traffic", 12, "middle", _MUTED),
        _text(_LEFT, _TOP - 10, "TFLOP/s", 12, "start", _MUTED),
    ]
    start = max(10.0**x_low, 10.0**y_low / machine.hbm_bandwidth * 1000)
    (x0, y0), (x1, y1), (x2, _) = at(start, machine.hbm_bandwidth * start / 1000), at(ridge, peak), at(10.0**x_high, 1)
    parts += [_line(x0, y0, x1, y1, _INK, 2), _line(x1, y1, x2, y1, _INK, 2)]
    parts += [
        _text(x2, y1 - 7, f"array: {peak:.1f} TFLOP/s bf16", 11, "end", _MUTED),
        _text((x0 + x1) / 2 - 14, (y0 + y1) / 2 - 6, f"HBM: {machine.hbm_bandwidth:.0f} GB/s", 11, "end", _MUTED),
    ]
    for number, profile, (x, y) in zip(count(1), profiles, points, strict=False):
        px, py = at(x, y)
        color = _COLORS[(number - 1) % len(_COLORS)]
        title = f"{profile.name}: {x:,.1f} FLOP/byte, {y:,.2f} TFLOP/s modelled"
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{color}"><title>{escape(title)}</title></circle>'
        )
        top = _TOP + 4 + 34 * (number - 1)
        parts.append(f'<circle cx="{right + 36:.1f}" cy="{top - 4:.1f}" r="5" fill="{color}"/>')
        parts.append(_text(right + 48, top, f"{number}  {_short(profile.name)}"))
        roof = min(peak, machine.hbm_bandwidth * x / 1000)
        note = f"{profile.us:,.1f} us, {y / roof:.0%} of its roof, bound by {TITLES.get(profile.bound, profile.bound)}"
        parts.append(_text(right + 48, top + 14, note, 11, color=_MUTED))
    parts += _numbers([at(x, y) for x, y in points])
    return max(height + 10, _TOP + 34 * len(profiles) + 20), parts


def _numbers(places: list[tuple[float, float]]) -> list[str]:
    """Numbers beside points; those of points that lie together in one list."""
    groups: list[list[int]] = []
    for n, (x, y) in enumerate(places):
        near = (g for g in groups if abs(places[g[0]][0] - x) < 16 and abs(places[g[0]][1] - y) < 14)
        group = next(near, None)
        if group is None:
            groups.append([n])
        else:
            group.append(n)
    texts = [", ".join(str(n + 1) for n in group) for group in groups]
    right = [max(places[n][0] for n in group) for group in groups]
    return [_text(x + 9, places[g[0]][1] + 4, text, 11) for x, g, text in zip(right, groups, texts, strict=True)]


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."
