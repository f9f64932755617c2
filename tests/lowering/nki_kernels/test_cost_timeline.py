"""Timelines of micro kernels against times computed by hand from the documented figures."""

from __future__ import annotations

from itertools import pairwise

import cost_kernels as kernels
import numpy as np
import pytest
import sample_kernels as samples

from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.simulator.program import NoValuesError

BF16, F32 = "bfloat16", "float32"
# Result latencies in ns on v3: 100 Vector cycles, 200 Scalar cycles, 128 PE cycles.
VECTOR, PE = 100 / 0.96, 128 / 2.4


def rows(kernel, *arguments, target="trn2", **options):
    """[(start, end)] in ns of every instruction of the first core."""
    found = profile(kernel, arguments, target, **options)
    line = found.lines[0]
    return list(zip(line.start, line.end, strict=True))


def test_engines_run_side_by_side():
    assert rows(kernels.side_by_side) == [pytest.approx((0, 1000)), pytest.approx((0, 1000))]


def test_a_reader_waits_for_the_writer_and_its_latency():
    write, read = rows(kernels.read_after_write)
    assert write == pytest.approx((0, 1000))
    assert read == pytest.approx((1000 + VECTOR, 1000 + VECTOR + 800))


def test_a_writer_waits_for_the_readers():
    _, (_, read), again = rows(kernels.write_after_read)
    assert again == pytest.approx((read, read + 1000))


def test_dependent_instructions_of_an_engine_wait_for_each_other():
    # fp32 tensor_scalar: 960 cycles; the tile of the chain was written just before, the other one earlier
    assert rows(kernels.chain, True)[-1] == pytest.approx((2000 + VECTOR, 3000 + VECTOR))
    assert rows(kernels.chain, False)[-1] == pytest.approx((2000, 3000))


def test_disjoint_parts_of_a_tile_do_not_wait_for_each_other():
    gpsimd = (150 + 960) / 1.2 + 100 / 1.2
    assert rows(kernels.halves, 1)[-1][0] == pytest.approx(gpsimd)
    assert rows(kernels.halves, 0)[-1][0] == pytest.approx(1000 + VECTOR)


def test_matmuls_of_a_group_follow_each_other_and_their_result_comes_once():
    times = rows(kernels.accumulation, ((128, 128), BF16), ((128, 512), BF16))
    matmuls = times[2:6]
    for before, after in pairwise(matmuls):
        assert after == pytest.approx((before[1], before[1] + 512 / 2.4))
    assert times[6][0] == pytest.approx(matmuls[-1][1] + PE)


def test_fresh_psum_tiles_wait_for_banks():
    """Four tiles of two banks fill PSUM: the fifth takes the banks of the first, when Vector has read them."""
    x, y = ((128, 128), BF16), ((128, 512), BF16)
    times = rows(kernels.banks, x, y, 6)
    matmul, copy = 512 / 2.4, 1024 / 0.96
    tiles = [times[2 + 3 * n : 5 + 3 * n] for n in range(6)]
    for n in range(1, 4):
        assert tiles[n][0][0] == pytest.approx(tiles[n - 1][1][1])  # PE never stops for the first four
    first = tiles[0][1][1] + PE
    assert [tile[2][0] for tile in tiles[:4]] == pytest.approx([first + n * copy for n in range(4)])
    assert tiles[4][0][0] == pytest.approx(tiles[3][1][1])
    assert tiles[3][1][1] > first + copy
    assert tiles[5][0][0] == pytest.approx(first + 2 * copy)
    assert tiles[4][1][1] < first + 2 * copy - matmul


def test_double_buffering_hides_loads():
    """8 tiles of [128, 2048] bf16: 512 KiB at 362 GB/s and full efficiency each, 1024 Vector cycles to reduce.

    A bf16 maximum with an fp32 result takes a cycle per element.
    """
    x = ((8, 128, 2048), BF16)
    load = 128 * 2048 * 2 / 362
    reduce = 2048 / 0.96
    one = profile(kernels.buffered, (x, 1)).us * 1000
    two = profile(kernels.buffered, (x, 2)).us * 1000
    assert one == pytest.approx(8 * (1300 + load + reduce))
    # reduction n starts when n - 1 has ended and its load, which waited for reduction n - 2, has: here 1300 + load is
    # the longer, so that every other reduction waits for that much and the one after it for none
    assert 1300 + load > reduce
    assert two == pytest.approx(4 * (1300 + load) + 5 * reduce)


@pytest.mark.parametrize(
    ("pieces", "efficiency"), [(1, 1.0), (2, 1.0), (4, 0.9), (8, 0.6), (16, 0.35), (32, 0.2), (64, 128 / 1280)]
)
def test_short_rows_cost_bandwidth(pieces, efficiency):
    """8 KiB per partition in rows of 8192 / pieces bytes."""
    ((start, end),) = rows(kernels.one_load, ((128, 4096), BF16), pieces)
    assert (start, end) == pytest.approx((0, 1300 + 128 * 8192 / 362 / efficiency))


def test_ports_of_v2_are_exclusive():
    """1120 Vector cycles at 1.12 GHz, 1400 GpSimd cycles at 1.4 GHz: one after the other on v2."""
    assert profile(kernels.ports, (), "trn1").us == pytest.approx(2.0)
    assert profile(kernels.ports, (), "trn2").us == pytest.approx(1120 / 960)
    assert profile(kernels.ports, (), "trn3").us == pytest.approx(1400 / 1200)


def test_two_cores_meet():
    found = profile(kernels.meeting, (((256, 960), F32),), grid=2)
    early, late = found.lines
    barriers = [line.start[-2] for line in (early, late)]
    assert barriers[0] == barriers[1] == pytest.approx(late.end[-3])
    assert early.end[-3] < 0.5 * late.end[-3]
    assert found.cores == 2


def test_the_critical_path_takes_all_of_the_time():
    x = ((512, 512), BF16)
    for kernel, arguments in ((samples.matmul, (x, x)), (samples.flash_attention, (x, x, x, 0.1))):
        found = profile(kernel, arguments)
        assert sum(step.us for step in found.path) == pytest.approx(found.us)
        assert min(step.us for step in found.path) >= 0


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_no_engine_does_two_things_at_once_and_nothing_is_lost(target):
    x = ((384, 512), BF16)
    found = profile(samples.flash_attention, (x, x, x, 0.1), target)
    (recorder,), (line,) = found.recorders, found.lines
    by_engine = {}
    for (kind, _, _), start, end in zip(recorder.rows, line.start, line.end, strict=True):
        by_engine.setdefault(recorder.kinds[kind].cost.engine, []).append((start, end))
    assert sum(map(len, by_engine.values())) == found.instructions
    for engine in ("pe", "vector", "scalar", "gpsimd"):
        for (_, end), (start, _) in pairwise(by_engine[engine]):
            assert start >= end - 1e-6


@pytest.mark.parametrize("kernel", [samples.matmul, samples.softmax, samples.rms_norm, samples.flash_attention])
@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_a_dry_run_costs_what_a_full_run_costs(kernel, target):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 256)).astype(np.float32)
    arguments = {
        "matmul": (x, x),
        "softmax": (x,),
        "rms_norm": (x, x[0], 1e-6),
        "flash_attention": (x, x, x, 0.1),
    }[kernel.__name__]
    full = profile(kernel, arguments, target, dry=False)
    shapes = [(value.shape, F32) if isinstance(value, np.ndarray) else value for value in arguments]
    dry = profile(kernel, shapes, target)
    for name in ("us", "engines", "flops", "hbm_read", "hbm_written", "instructions", "sbuf_peak", "psum_peak", "path"):
        assert getattr(dry, name) == getattr(full, name), name
    assert [row for r in dry.recorders for row in r.rows] == [row for r in full.recorders for row in r.rows]


def test_a_kernel_that_looks_at_values_is_run_in_full():
    """How often the loop runs is data; where a load reads is not what it costs."""
    x, n = np.ones((8, 960), np.float32), np.full((1, 1), 5, np.int32)
    found = profile(kernels.counted, (x, n))
    assert found.engines["vector"].instructions == 5
    assert profile(kernels.counted, (x, n), dry=False).us == found.us
    with pytest.raises(NoValuesError):
        kernels.counted.specialize("trn2").run(x, n, dry=True)
    assert profile(kernels.pointed, (x, n), dry=False).us == profile(kernels.pointed, (x, n)).us
    kernels.pointed.specialize("trn2").run(x, n, dry=True)
