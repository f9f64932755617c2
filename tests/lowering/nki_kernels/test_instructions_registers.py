"""Registers, run-time loops, dynamic views and constants."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from instruction_case import BF16, FP32, INT32, normal

from g4c.lowering.nki.simulator import SimulationError, jit, simulate
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl

X = normal(16, 12)


@jit
def sum_of_columns(x: Any, count: Any) -> Any:
    """The first `count` columns, added up by a loop of the running program."""
    tile, total = nl.load(x), nl.zeros((16, 1), FP32)
    limit = nisa.register_alloc()
    nisa.register_load(limit, nl.load(count))

    def body(i: Any) -> None:
        nisa.tensor_tensor(total, total, tile.ap([[12, 16], [1, 1]], scalar_offset=i, indirect_dim=1), nl.add)

    nl.fori_loop(0, limit, body)
    out = nl.ndarray((16, 1), FP32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=total)
    return out


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_fori_loop_with_a_bound_known_at_run_time(count: int) -> None:
    found = simulate(sum_of_columns, target="trn2")(X, np.array([[count]], np.int32))
    np.testing.assert_allclose(found, X[:, :count].sum(1, keepdims=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bare", [False, True])
def test_while_loops(bare: bool) -> None:
    """Doubles a counter tile until a countdown ends: 5 times."""

    @jit
    def kernel(start: Any) -> Any:
        left = nl.load(start)
        value = nl.full((1, 1), 1, INT32)
        register = nisa.register_alloc(left)

        def body(r: Any) -> Any:
            nisa.tensor_tensor(value, value, value, nl.add)
            nisa.tensor_scalar(left, left, nl.subtract, 1.0)
            nisa.register_load(r, left)
            return r

        if bare:
            while register:
                body(register)
        else:
            nl.while_loop(register, body)
        out = nl.ndarray((1, 1), INT32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=value)
        return out

    assert simulate(kernel, target="trn2")(np.array([[5]], np.int32)).item() == 32


def test_dynamic_range_yields_registers() -> None:
    @jit
    def kernel(x: Any) -> Any:
        tile, out = nl.load(x), nl.ndarray((16, 3), FP32, buffer=nl.shared_hbm)
        picked = nl.ndarray((16, 3), FP32, buffer=nl.sbuf)
        for i in nl.dynamic_range(2, 11, 4):
            third = nisa.register_alloc()
            nisa.register_move(third, i)
            nisa.tensor_copy(picked[:, 0:1], tile[:, i].reshape((16, 1)))
            nisa.dma_copy(dst=out[:, 0:1], src=tile[:, nl.ds(i, 1)])
        nisa.dma_copy(dst=out[:, 1:3], src=x[:, 0:2])
        return out

    found = simulate(kernel, target="trn2")(X)
    np.testing.assert_array_equal(found[:, 0], X[:, 10])


@pytest.mark.parametrize(("dtype", "value"), [(INT32, -7), (np.dtype(np.uint8), 200), (FP32, 2.5)], ids=str)
def test_registers_are_loaded_moved_and_stored(dtype: np.dtype, value: float) -> None:
    @jit
    def kernel(x: Any) -> Any:
        first, second = nisa.register_alloc(), nisa.register_alloc(3)
        nisa.register_load(first, x)
        nisa.register_move(second, first)
        out = nl.ndarray((1, 1), dtype, buffer=nl.shared_hbm)
        nisa.register_store(out, second)
        return out

    assert simulate(kernel, target="trn2")(np.array([[value]], dtype)).item() == value


@pytest.mark.parametrize("use", [int, range, lambda r: r + 1, lambda r: r < 3, lambda r: [1, 2][r]])
def test_a_register_is_no_python_number(use: Any) -> None:
    """NKI raises a TypeError; here it has a code too."""

    @jit
    def kernel() -> None:
        use(nisa.register_alloc(1))

    with pytest.raises(TypeError, match="K025"):
        simulate(kernel, target="trn2")()


def test_registers_that_end_are_free_again() -> None:
    @jit
    def kernel() -> None:
        for n in range(1000):
            nisa.register_alloc(n)

    simulate(kernel, target="trn2")()


def test_constants() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16)

    @jit
    def kernel() -> Any:
        out = nl.ndarray((3, 4), BF16, buffer=nl.shared_hbm)
        eye = nl.ndarray((8, 8), FP32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=nl.shared_constant(table))
        nisa.dma_copy(dst=eye, src=nl.shared_identity_matrix(8, dtype=nl.float32))
        return out, eye

    found, eye = simulate(kernel, target="trn2")()
    np.testing.assert_array_equal(found, table)
    np.testing.assert_array_equal(eye, np.eye(8))


@pytest.mark.parametrize(
    ("target", "sbuf", "version"), [("trn1", 180224, 2), ("inf2", 180224, 2), ("trn2", 212984, 3), ("trn3", 245752, 4)]
)
def test_tile_size(target: str, sbuf: int, version: int) -> None:
    seen = {}

    @jit
    def kernel() -> None:
        size = nl.tile_size
        seen.update(
            pmax=size.pmax,
            bank=(size.psum_bank_fmax, size.psum_bank_fmax_bytes, size.psum_fmax, size.psum_num_banks),
            matmul=(size.gemm_stationary_fmax, size.gemm_moving_fmax),
            sbuf=(size.sbuf_fmax_bytes, size.sbuf_fmax, size.total_available_sbuf_size),
            version=nisa.get_nc_version().value,
        )

    simulate(kernel, target=target)()
    assert seen == {
        "pmax": 128,
        "bank": (512, 2048, 512, 8),
        "matmul": (128, 512),
        "sbuf": (sbuf, sbuf // 4, sbuf),
        "version": version,
    }


def test_one_bank_less_where_dma_transposes_are_matmuls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NKI_DMA_TRANSPOSE_AS_PE_TRANSPOSE", "true")
    assert nl.tile_size.psum_num_banks == 7


def test_the_register_of_a_loop_is_read_only() -> None:
    @jit
    def kernel() -> None:
        for i in nl.dynamic_range(3):
            nisa.register_move(i, 1)

    with pytest.raises(SimulationError, match="K025"):
        simulate(kernel, target="trn2")()


@dataclass
class Plan(nl.NKIObject):
    rows: int
    columns: int = 2
    sizes: list = field(default_factory=list)


@dataclass(frozen=True)
class Frozen(nl.NKIObject):
    rows: int = 1


class Plain(nl.NKIObject):
    rows: int
    columns: int = 2

    def __post_init__(self) -> None:
        self.area = (self.rows or 0) * self.columns


@dataclass
class Bare(nl.NKIObject):
    rows = None


def test_objects_are_made_as_the_compiler_makes_them() -> None:
    """With and without @dataclass: fields without a value are None."""
    assert (Plan(3).rows, Plan(3).columns, Plan(3).sizes) == (3, 2, [])
    assert Plan().rows is None
    assert Plan(1).sizes is not Plan(1).sizes
    assert Plan(1) == Plan(rows=1)
    assert (Plain(3).area, Plain(rows=3, columns=4).area, Plain().area) == (6, 12, 0)
    assert Bare(rows=3).rows == 3
    with pytest.raises(FrozenInstanceError):
        Frozen(2).rows = 3
    with pytest.raises(TypeError, match="Frozen has 1 fields, 2 values"):
        Frozen(1, 2)
