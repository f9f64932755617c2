"""The cost of single instructions against the documented formulas, each written out for one shape."""

from __future__ import annotations

import pytest

from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit
from g4c.lowering.nki.simulator import language as nl
from g4c.lowering.nki.simulator.source import load

# Instructions on tiles a, b (SBUF), p (PSUM) of [128, N]: (text, {generation: (engine, cycles)}).
TABLE = [
    # Tensor Engine: max(min(64, M), N); fp32 4 times
    ("nc_matmul(dst=p32[:, :512], stationary=a16[:, :128], moving=b16[:, :512])", {2: ("pe", 512), 3: ("pe", 512)}),
    ("nc_matmul(dst=p32[:, :1], stationary=a16[:, :128], moving=b16[:, :1])", {2: ("pe", 64), 3: ("pe", 64)}),
    ("nc_matmul(dst=p32[:32, :40], stationary=a16[:, :32], moving=b16[:, :40])", {3: ("pe", 40)}),
    ("nc_matmul(dst=p32[:32, :20], stationary=a16[:, :32], moving=b16[:, :20])", {3: ("pe", 32)}),
    ("nc_matmul(dst=p32[:, :512], stationary=a32[:, :128], moving=b32[:, :512])", {2: ("pe", 2048), 3: ("pe", 2048)}),
    # transposes: max(P, min(64, F)); fp32 twice from v3 on
    ("nc_transpose(dst=p16[:, :128], data=a16[:, :128])", {2: ("pe", 128), 3: ("pe", 128)}),
    ("nc_transpose(dst=p16[:128, :32], data=a16[:32, :128])", {3: ("pe", 64)}),
    ("nc_transpose(dst=p32[:, :128], data=a32[:, :128])", {2: ("pe", 512), 3: ("pe", 256)}),
    ("nc_transpose(dst=b16[:32, :32], data=a16[:32, :32])", {3: ("vector", 64)}),
    # Scalar Engine
    ("activation(dst=b32, op=nl.exp, data=a32)", {2: ("scalar", 512), 3: ("scalar", 512), 4: ("scalar", 512)}),
    ("activation(dst=b32[:, :8], op=nl.exp, data=a32[:, :8])", {3: ("scalar", 64)}),
    (
        "activation(dst=b32, op=nl.exp, data=a32, reduce_op=nl.add, reduce_res=s, reduce_cmd=RESET)",
        {3: ("scalar", 512 + 64)},
    ),
    ("tensor_copy(dst=b16, src=a16, engine=nisa.engine.scalar)", {3: ("scalar", 512), 4: ("scalar", 256)}),
    # copies: a quarter in 16 bit within SBUF, half where one condition is missing
    ("tensor_copy(dst=b16, src=a16)", {2: ("vector", 512), 3: ("vector", 128), 4: ("vector", 128)}),
    ("tensor_copy(dst=b16, src=p16)", {2: ("vector", 512), 3: ("vector", 256)}),
    ("tensor_copy(dst=b16[:, 0:512:2], src=a16[:, 0:512:2])", {2: ("vector", 256), 3: ("vector", 128)}),
    ("tensor_copy(dst=b16, src=p32)", {3: ("vector", 512)}),
    ("tensor_copy(dst=b32, src=a32)", {3: ("vector", 512)}),
    ("tensor_copy(dst=b16, src=a16, engine=nisa.engine.gpsimd)", {3: ("gpsimd", 150 + 512)}),
    ("tensor_scalar(dst=b16, data=a16, op0=nl.multiply, operand0=2.0)", {2: ("vector", 512), 3: ("vector", 128)}),
    ("tensor_scalar(dst=b32, data=a32, op0=nl.multiply, operand0=s)", {3: ("vector", 512)}),
    # a step of more than 16 bytes halves the bandwidth
    ("tensor_copy(dst=b32[:, :64], src=a32[:, 0:512:8])", {3: ("vector", 128)}),
    # two tensors
    ("tensor_tensor(dst=b32, data1=a32, data2=b32, op=nl.add)", {2: ("vector", 1024), 3: ("vector", 1024)}),
    ("tensor_tensor(dst=b32, data1=a32, data2=p32, op=nl.add)", {2: ("vector", 512), 3: ("vector", 512)}),
    ("tensor_tensor(dst=b16, data1=a16, data2=b16, op=nl.add)", {2: ("vector", 512), 3: ("vector", 256)}),
    ("tensor_tensor(dst=b16, data1=a16, data2=b16, op=nl.maximum)", {2: ("vector", 1024), 3: ("vector", 512)}),
    ("tensor_tensor(dst=b32, data1=a32, data2=b32, op=nl.add, engine=nisa.engine.gpsimd)", {3: ("gpsimd", 1174)}),
    (
        "scalar_tensor_tensor(dst=b32, data=a32, op0=nl.multiply, operand0=s, op1=nl.add, operand1=b32)",
        {3: ("vector", 1024)},
    ),
    (
        "scalar_tensor_tensor(dst=b16, data=a16, op0=nl.subtract, operand0=1.0, op1=nl.multiply, operand1=b16)",
        {3: ("vector", 512)},
    ),
    # reductions
    ("tensor_reduce(dst=s, op=nl.maximum, data=a32, axis=1)", {3: ("vector", 512)}),
    ("tensor_reduce(dst=s16, op=nl.maximum, data=a16, axis=1)", {3: ("vector", 256)}),
    (
        "tensor_scalar_reduce(dst=b32, data=a32, op0=nl.add, operand0=1.0, reduce_op=nl.add, reduce_res=s)",
        {3: ("vector", 512 + 64)},
    ),
    ("reciprocal(dst=s, data=s)", {3: ("vector", 64)}),
    ("reciprocal(dst=b32, data=a32)", {3: ("vector", 8 * 512)}),
    # others
    ("memset(dst=b32, value=0.0)", {3: ("vector", 512)}),
    ("memset(dst=b16, value=0.0)", {3: ("vector", 256)}),
    ("memset(dst=b16, value=1.0)", {3: ("vector", 512)}),
    ("max8(dst=b32[:, :8], src=a32)", {3: ("vector", 512)}),
    ("iota(dst=i32, pattern=[[1, 512]])", {3: ("gpsimd", 662)}),
    (
        "affine_select(dst=b32, pattern=[[1, 512]], channel_multiplier=1, on_true_tile=a32, on_false_value=0.0)",
        {3: ("gpsimd", 662)},
    ),
    (
        "range_select(dst=b32, on_true_tile=a32, comp_op0=nl.greater_equal, comp_op1=nl.less, bound0=s, bound1=s, "
        "reduce_res=s, reduce_op=nl.maximum)",
        {3: ("vector", 512)},
    ),
    ("exponential(dst=b32, src=a32, max_value=s)", {4: ("vector", 128)}),
]
CASES = [
    pytest.param(text, number, *expected, id=f"v{number} {text.split('(')[0]} {at}")
    for at, (text, by_generation) in enumerate(TABLE)
    for number, expected in by_generation.items()
]
CLOCKS = {
    2: {"pe": 2.8, "vector": 1.12, "scalar": 1.4, "gpsimd": 1.4},
    3: {"pe": 2.4, "vector": 0.96, "scalar": 1.2, "gpsimd": 1.2},
    4: {"pe": 2.4, "vector": 1.2, "scalar": 1.2, "gpsimd": 1.2},
}
TARGETS = {2: "trn1", 3: "trn2", 4: "trn3"}
SOURCE = """import nki
import nki.isa as nisa
import nki.language as nl

RESET = nisa.reduce_cmd.reset_reduce


@nki.jit
def kernel():
    a16 = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
    b16 = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.sbuf)
    s16 = nl.ndarray((128, 1), dtype=nl.bfloat16, buffer=nl.sbuf)
    a32 = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    b32 = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    i32 = nl.ndarray((128, 512), dtype=nl.int32, buffer=nl.sbuf)
    s = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
    p16 = nl.ndarray((128, 512), dtype=nl.bfloat16, buffer=nl.psum)
    p32 = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    nisa.{text}
"""


def only(text, target):
    """The cost of the only instruction of a kernel."""
    found = profile(load(SOURCE.format(text=text), "kernel"), (), target)
    (recorder,) = found.recorders
    ((kind, _, _),) = recorder.rows
    return recorder.kinds[kind].cost


@pytest.mark.parametrize(("text", "number", "engine", "cycles"), CASES)
def test_an_instruction_takes_the_documented_cycles(text, number, engine, cycles):
    cost = only(text, TARGETS[number])
    assert (cost.engine, cost.cycles) == (engine, pytest.approx(cycles))
    assert cost.ns == pytest.approx(cycles / CLOCKS[number][engine])


def test_useful_work():
    cost = only("nc_matmul(dst=p32[:64, :256], stationary=a16[:, :64], moving=b16[:, :256])", "trn2")
    assert cost.flops == 2 * 128 * 64 * 256
    assert cost.work == pytest.approx(256 / 2)  # half of the columns are idle
    assert only("nc_transpose(dst=p16[:, :128], data=a16[:, :128])", "trn2").flops == 0


@jit
def transpose_by_matmul(x):
    """A transpose on the Tensor Engine by its flag."""
    tile = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    identity = nl.shared_identity_matrix(128, dtype=x.dtype)
    psum = nl.ndarray((128, 128), dtype=x.dtype, buffer=nl.psum)
    nisa.nc_matmul(dst=psum, stationary=tile, moving=identity, is_transpose=True)


def test_transposes_are_no_useful_work():
    found = profile(transpose_by_matmul, (((128, 128), "bfloat16"),))
    assert found.engines["pe"].cycles == 128
    assert found.flops == 0
    assert found.pe_utilization == 0


@jit
def moves(x, table, indices):
    """A store, a copy within SBUF, a gather by GpSimd's descriptors, a narrow load."""
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    a = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    b = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    c = nl.ndarray((16, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
    rows = nl.ndarray((128, 1), dtype=indices.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=a, src=x)
    nisa.dma_copy(dst=b, src=a)
    nisa.dma_copy(dst=c, src=x[:16, :])
    nisa.dma_copy(dst=rows, src=indices)
    nisa.dma_copy(dst=b, src=table.ap([[x.shape[1], 128], [1, x.shape[1]]], vector_offset=rows))
    nisa.dma_copy(dst=out, src=b, dge_mode=nisa.dge_mode.hwdge)
    return out


def test_transfers():
    """[128, 2048] bf16: 4 KiB per partition, so full efficiency. 16 partitions are served by 2 of the 16 engines."""
    size = 128 * 2048 * 2
    shapes = (((128, 2048), "bfloat16"), ((1000, 2048), "bfloat16"), ((128, 1), "int32"))
    found = profile(moves, shapes)
    (recorder,) = found.recorders
    load_, move, narrow, _, gather, store = [recorder.kinds[kind].cost for kind, _, _ in recorder.rows]
    assert load_.ns == pytest.approx(size / 362)
    assert move.ns == pytest.approx(size / 368)
    assert narrow.ns == pytest.approx(size / 8 / (362 / 8))
    assert (narrow.first, narrow.last) == (0, 2)
    assert (load_.stream, move.stream, store.stream) == ("loads", "moves", "stores")
    assert gather.gpsimd_ns > 0 == load_.gpsimd_ns
    assert store.issue_ns > load_.issue_ns
    assert found.hbm_read == size + size // 8 + 128 * 4 + size
    assert found.hbm_written == size
    assert found.moved_on_chip == size


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
def test_a_bandwidth_bound_kernel_takes_its_bytes_by_the_bandwidth(target):
    """64 loads of 1 MiB in full rows: nothing but the first start is seen beside the transfer."""
    bandwidth = {"trn1": 272, "trn2": 362, "trn3": 528}[target]
    found = profile(stream, (((64, 128, 4096), "bfloat16"),), target)
    transfers = 64 * 2**20 / bandwidth / 1000
    assert found.us == pytest.approx(1.3 + transfers)
    assert found.hbm_utilization == pytest.approx(transfers / (1.3 + transfers))
    assert found.bound == "dma"


@jit
def stream(x):
    """Loads, nothing else."""
    for n in range(x.shape[0]):
        tile = nl.ndarray((128, x.shape[2]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[n, :, :])


def test_flops_of_a_matmul_have_a_closed_form():
    import sample_kernels

    for m, k, n in ((128, 128, 512), (300, 200, 700)):
        found = profile(sample_kernels.matmul, (((k, m), "bfloat16"), ((k, n), "bfloat16")))
        assert found.flops == 2 * m * k * n
        assert found.pe_utilization == pytest.approx(m * k * n / 128 / 128 / 2400 / found.us)
