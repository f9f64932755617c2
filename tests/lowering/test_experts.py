"""top_k and experts as StableHLO: both forms of each, against the ops' references, and what they need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rules import EXACT, check, draw, few, opcodes

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Function, Module, Result
from g4c.ir.types import Array, DType, TensorType
from g4c.lowering.neuron.lower import lower_program
from g4c.lowering.neuron.rules import experts as experts_rules
from g4c.lowering.neuron.rules.experts import group_size
from g4c.lowering.neuron.rules.ordering import tile_width

F32, BF16, S32 = DType.F32, DType.BF16, DType.S32


# -- top_k ---
def top_k(x: Array, k: int) -> list[str]:
    """Checked bit for bit; the opcodes."""
    return opcodes(check(lambda value: ops.TopKOp(value, k), x, tolerance=EXACT))


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(("shape", "k"), [((3, 128), 8), ((2, 3, 9), 9), ((5,), 1), ((1, 1, 262144), 1)])
def test_top_k(shape: tuple[int, ...], k: int, dtype: DType) -> None:
    top_k(draw(shape, dtype), k)


@pytest.mark.parametrize(("extent", "k"), [(4096, 8), (4097, 8), (5000, 20), (20001, 64), (262144, 5), (4100, 64)])
def test_top_k_of_wide_axes(extent: int, k: int) -> None:
    """Whole numbers, so that most entries are equal to others, in tiles that do not divide the axis."""
    x = np.random.default_rng(extent).integers(0, 50, (2, extent)).astype(np.float32)
    assert ("gather" in top_k(x, k)) == (tile_width(extent, k) < extent)
    assert tile_width(extent, k) < extent or extent < 2 * k * 32 or extent <= 4096


@given(st.integers(1, 3), st.integers(4097, 6000), st.integers(1, 12), st.integers(1, 6), st.integers(0, 99))
@few
def test_top_k_of_any_wide_axis(rows: int, extent: int, k: int, kinds: int, seed: int) -> None:
    values = np.array([-np.inf, 0, 1, 1.5, np.inf, -3], np.float32)[:kinds]
    top_k(np.random.default_rng(seed).choice(values, (rows, extent)), k)


def test_top_k_of_infinite_entries() -> None:
    """An entry that was taken is not taken again, also where all that is left is minus infinity."""
    inf = np.inf
    top_k(np.array([[1, 2, 2, -inf, 2, 1, -inf], [-inf] * 7, [inf, 0, inf, -inf, 0, inf, 5]], np.float32), 7)


def test_indices_of_nan_stay_within_the_axis() -> None:
    """Whatever the order of NaN is: the indices choose experts' weights, and must not read outside of them."""
    proto = lowered(lambda m, x: ops.TopKOp(x, 3), TensorType((1, 8), F32))
    from cpu_execution import run

    _, indices = run(proto, [np.full((1, 8), np.nan, np.float32)])
    assert ((indices >= 0) & (indices < 8)).all()


def test_no_step_of_a_wide_top_k_is_quadratic() -> None:
    """64 of a vocabulary: the axis itself is read a few times, all else is less than a tenth of it."""
    module = check(lambda x: ops.TopKOp(x, 64), draw((1, 262144), F32), tolerance=EXACT)
    sizes = [int(np.prod(i.shape.dimensions)) for i in module.computations[-1].instructions]
    assert max(sizes) == 262144
    assert sum(size == 262144 for size in sizes) <= 4  # the parameter and views of it
    assert max(size for size in sizes if size < 262144) <= 262144 // 10
    assert len(sizes) < 3000


def lowered(make: object, *types: TensorType) -> bytes:
    module = Module("test")
    function = module.add_function(Function("decode", "program"))
    op = function.append(make(module, *(function.add_param(f"p{k}", type) for k, type in enumerate(types))))
    function.results = [Result(value, f"y{k}") for k, value in enumerate(op.results)]
    return lower_program(module, "decode", target="trn2").hlo_proto


@pytest.mark.parametrize(("extent", "k"), [(1 << 20, 257), ((1 << 24) + 1, 1)])
def test_a_top_k_beyond_its_bounds_is_refused(extent: int, k: int) -> None:
    with pytest.raises(G4cError, match="at most k = 256 of 16777216 entries") as caught:
        lowered(lambda m, x: ops.TopKOp(x, k), TensorType((extent,), F32))
    assert caught.value.code == "G4C-L010"


# -- experts ---
def arrays(lead: tuple[int, ...], choices: int, count: int, hidden: int, width: int, dtype: DType) -> list[Array]:
    random = np.random.default_rng((*lead, choices))
    rows = int(np.prod(lead))
    chosen = np.stack([random.permutation(count)[:choices] for _ in range(rows)]).astype(np.int32)
    return [
        draw((*lead, hidden), dtype, 1),
        chosen.reshape(*lead, choices),
        draw((*lead, choices), F32, 2, 0.0, 1.0),
        draw((count, 2 * width, hidden), dtype, 3, -0.3, 0.3),
        draw((count, hidden, width), dtype, 4, -0.3, 0.3),
    ]


TOLERANCE = {F32: {"rtol": 1e-4, "atol": 1e-5}, BF16: {"rtol": 2e-2, "atol": 1e-2}}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(
    ("lead", "choices", "count", "gathers"),
    [((1, 1), 2, 8, 2), ((2, 1), 2, 16, 4), ((4,), 2, 8, 0), ((2, 9), 3, 8, 0), ((1, 1), 4, 8, 0), ((3, 1), 1, 9, 6)],
)
def test_experts(lead: tuple[int, ...], choices: int, count: int, gathers: int, dtype: DType) -> None:
    operands = arrays(lead, choices, count, 64, 48, dtype)
    names = opcodes(check(ops.ExpertsOp, *operands, tolerance=TOLERANCE[dtype]))
    assert names.count("gather") == gathers
    assert "while" not in names


def test_weights_may_be_of_the_type_of_the_rows() -> None:
    x, indices, weights, gate_up, down = arrays((5,), 2, 4, 32, 16, BF16)
    check(ops.ExpertsOp, x, indices, weights.astype(BF16.numpy), gate_up, down, tolerance=TOLERANCE[BF16])


def test_many_rows_go_through_groups_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many groups as the memory bound asks for, with the same numbers."""
    monkeypatch.setattr(experts_rules, "GROUP_BYTES", 4 * 40 * 64 * 2)
    operands = arrays((40,), 2, 8, 64, 16, F32)
    module = check(ops.ExpertsOp, *operands, tolerance=TOLERANCE[F32])
    assert opcodes(module).count("dot") == 2 * 4
    largest = max(np.prod(i.shape.dimensions) for i in module.computations[-1].instructions if i.opcode == "dot")
    assert largest * 4 <= experts_rules.GROUP_BYTES


@pytest.mark.parametrize(("rows", "group"), [(1, 128), (128, 32), (512, 8), (2048, 2), (100_000, 1)])
def test_groups_of_26b_a4b(rows: int, group: int) -> None:
    assert group_size(128, rows, 2816) == group
