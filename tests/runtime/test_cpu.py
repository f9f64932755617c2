"""The CPU backend on small programs: results, copies, aliasing, threads, refusals."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from g4c.errors import G4cError
from g4c.ir.types import DType, TensorType
from g4c.lowering.neuron.finish import Signature, finish
from g4c.lowering.neuron.xla import stablehlo_to_hlo
from g4c.runtime import cpu
from g4c.runtime.aligned import aligned_empty

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def client() -> cpu.CpuClient:
    return cpu.cpu_client()


def program(body: str, arguments: str, results: str, returned: str, signature: Signature) -> bytes:
    text = f"func.func public @main({arguments}) -> ({results}) {{\n{body}\nreturn {returned} : {results}\n}}"
    return finish(stablehlo_to_hlo(f"module @m {{ {text} }}"), "small", signature)


MATMUL = program(
    "%y = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1]"
    " : (tensor<2x64xbf16>, tensor<32x64xbf16>) -> tensor<2x32xf32>",
    "%x: tensor<2x64xbf16>, %w: tensor<32x64xbf16>",
    "tensor<2x32xf32>",
    "%y",
    Signature(("x",), ("y",), (), ("w",)),
)
# One row written into a cache, whose sum is returned too.
UPDATE = program(
    """%zero = stablehlo.constant dense<0> : tensor<i32>
    %new = stablehlo.dynamic_update_slice %cache, %x, %position, %zero
        : (tensor<16x64xf32>, tensor<1x64xf32>, tensor<i32>, tensor<i32>) -> tensor<16x64xf32>
    %none = stablehlo.constant dense<0.0> : tensor<f32>
    %sum = stablehlo.reduce(%new init: %none) applies stablehlo.add across dimensions = [0, 1]
        : (tensor<16x64xf32>, tensor<f32>) -> tensor<f32>""",
    "%position: tensor<i32>, %x: tensor<1x64xf32>, %cache: tensor<16x64xf32>",
    "tensor<f32>, tensor<16x64xf32>",
    "%sum, %new",
    Signature(("position", "x"), ("sum",), ("cache",)),
)


def aligned(array: np.ndarray) -> np.ndarray:
    result = aligned_empty(TensorType(array.shape, DType.of(array.dtype)))
    result[...] = array
    return result


def test_a_program_computes_what_numpy_computes(client: cpu.CpuClient) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 64)).astype(BF16)
    w = random.standard_normal((32, 64)).astype(BF16)
    (y,) = client.compile(MATMUL, "matmul").execute([client.copy(x), client.bind(w)])
    np.testing.assert_allclose(cpu.array_of(y), x.astype(np.float32) @ w.astype(np.float32).T, rtol=1e-5, atol=1e-5)


def test_aligned_arrays_are_bound_without_a_copy(client: cpu.CpuClient) -> None:
    array = aligned(np.ones((32, 64), BF16))
    assert cpu.address_of(client.bind(array)) == array.ctypes.data
    assert cpu.address_of(client.copy(array)) != array.ctypes.data


@pytest.mark.parametrize("offset", [0, 2, 16])
def test_mapped_files_are_bound_at_any_alignment(client: cpu.CpuClient, tmp_path: Path, offset: int) -> None:
    w = np.arange(32 * 64).reshape(32, 64).astype(BF16)
    (tmp_path / "weights").write_bytes(b"\0" * offset + w.tobytes())
    mapped = np.memmap(tmp_path / "weights", BF16, "r", offset, (32, 64))
    buffer = client.bind(mapped)
    assert (cpu.address_of(buffer) == mapped.ctypes.data) == (offset == 0)
    assert np.array_equal(cpu.array_of(buffer), w)


def test_arrays_that_are_not_contiguous_are_bound_as_what_they_are(client: cpu.CpuClient) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert np.array_equal(cpu.array_of(client.bind(array)), array)


def test_a_bound_array_lives_as_long_as_its_buffer(client: cpu.CpuClient) -> None:
    array = aligned(np.full((1 << 16,), 7, np.float32))
    before = sys.getrefcount(array)
    buffer = client.bind(array)
    assert sys.getrefcount(array) > before
    del buffer
    client.copy(np.zeros(1, np.float32))  # jaxlib lets go of dropped arrays at its next call
    assert sys.getrefcount(array) == before


def test_results_are_arrays_that_outlive_their_buffer(client: cpu.CpuClient) -> None:
    (y,) = client.compile(MATMUL, "matmul").execute(
        [client.copy(np.ones((2, 64), BF16)), client.copy(np.ones((32, 64), BF16))]
    )
    array = cpu.array_of(y)
    assert array.ctypes.data == cpu.address_of(y)
    del y
    assert (array == 64).all()


def test_caches_are_updated_in_place(client: cpu.CpuClient) -> None:
    executable = client.compile(UPDATE, "update")
    cache = client.zeros(TensorType((16, 64), DType.F32))
    address = cpu.address_of(cache)
    for position in range(16):
        x = np.full((1, 64), position, np.float32)
        total, new = executable.execute([client.copy(np.int32(position)), client.copy(x), cache])
        assert cpu.address_of(new) == address
        assert cache.is_deleted()
        assert cpu.array_of(total) == 64 * sum(range(position + 1))
        cache = new
    assert np.array_equal(cpu.array_of(cache)[:, 0], np.arange(16))


def test_a_bound_array_is_never_written_through_an_alias(client: cpu.CpuClient) -> None:
    array = aligned(np.zeros((16, 64), np.float32))
    inputs = [client.copy(np.int32(3)), client.copy(np.ones((1, 64), np.float32))]
    _, new = client.compile(UPDATE, "update").execute([*inputs, client.bind(array)])
    assert cpu.array_of(new)[3].all()
    assert not array.any()


def test_pieces_of_a_split_product_take_turns_in_one_temporary(client: cpu.CpuClient) -> None:
    pieces, rows, steps, lanes = 4, 4096, 12, 128
    body = [
        f"%ones = stablehlo.constant dense<1.0> : tensor<1x{lanes}xf32>",
        "%zero = stablehlo.constant dense<0.0> : tensor<f32>",
        f"%x3 = stablehlo.broadcast_in_dim %x, dims = [1, 2]"
        f" : (tensor<{steps}x{lanes}xf32>) -> tensor<{rows}x{steps}x{lanes}xf32>",
    ]
    for piece in range(pieces):
        body.append(f"""
            %s{piece} = stablehlo.slice %w [{piece * rows}:{(piece + 1) * rows}, 0:{steps}, 0:{lanes}]
                : (tensor<{pieces * rows}x{steps}x{lanes}xbf16>) -> tensor<{rows}x{steps}x{lanes}xbf16>
            %w{piece} = stablehlo.convert %s{piece}
                : (tensor<{rows}x{steps}x{lanes}xbf16>) -> tensor<{rows}x{steps}x{lanes}xf32>
            %p{piece} = stablehlo.multiply %w{piece}, %x3 : tensor<{rows}x{steps}x{lanes}xf32>
            %r{piece} = stablehlo.reduce(%p{piece} init: %zero) applies stablehlo.add across dimensions = [1]
                : (tensor<{rows}x{steps}x{lanes}xf32>, tensor<f32>) -> tensor<{rows}x{lanes}xf32>
            %y{piece} = stablehlo.dot_general %ones, %r{piece}, contracting_dims = [1] x [1]
                : (tensor<1x{lanes}xf32>, tensor<{rows}x{lanes}xf32>) -> tensor<1x{rows}xf32>""")
    results = ", ".join([f"tensor<1x{rows}xf32>"] * pieces)
    proto = program(
        "\n".join(body),
        f"%x: tensor<{steps}x{lanes}xf32>, %w: tensor<{pieces * rows}x{steps}x{lanes}xbf16>",
        results,
        ", ".join(f"%y{piece}" for piece in range(pieces)),
        Signature(("x",), tuple(f"y{piece}" for piece in range(pieces)), (), ("w",)),
    )
    executable = client.compile(proto, "split")
    sums = rows * lanes * 4
    assert sums <= executable.temporary_bytes < 1.5 * sums
    x = np.ones((steps, lanes), np.float32)
    w = np.arange(pieces * rows).reshape(-1, 1, 1) % 7 * np.ones((1, steps, lanes))
    found = np.concatenate(
        [cpu.array_of(y)[0] for y in executable.execute([client.copy(x), client.copy(w.astype(BF16))])]
    )
    assert np.array_equal(found, np.arange(pieces * rows) % 7 * steps * lanes)


def test_the_number_of_threads_is_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    seen = []
    make = cpu._jaxlib().make_cpu_client

    def record(**arguments: object) -> object:
        seen.append(os.environ["NPROC"])
        return make(**arguments)

    jaxlib = cpu._jaxlib()
    monkeypatch.setattr(cpu, "_jaxlib", lambda: type(jaxlib)(**{**vars(jaxlib), "make_cpu_client": record}))
    client = cpu.CpuClient(1)
    cpu.CpuClient()
    assert seen == ["1", "2"]
    (y,) = client.compile(MATMUL, "m").execute([client.copy(np.ones((n, 64), BF16)) for n in (2, 32)])
    assert (cpu.array_of(y) == 64).all()


def test_a_damaged_module_is_refused(client: cpu.CpuClient) -> None:
    with pytest.raises(G4cError, match="cannot compile") as refused:
        client.compile(b"not a module", "decode")
    assert (refused.value.code, refused.value.where, refused.value.exit_code) == ("G4C-R051", "decode", 3)


def test_arguments_that_do_not_fit_are_refused(client: cpu.CpuClient) -> None:
    executable = client.compile(MATMUL, "matmul")
    wrong_size = [client.copy(np.ones((2, 65), BF16)), client.copy(np.ones((32, 64), BF16))]
    for arguments in (wrong_size, wrong_size[:1]):
        with pytest.raises(G4cError, match="execution failed") as refused:
            executable.execute(arguments)
        assert refused.value.code == "G4C-R052"


def test_a_jaxlib_without_an_entry_point_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxlib import _jax

    cpu._jaxlib.cache_clear()
    with monkeypatch.context() as patch:
        patch.delattr(_jax, "batched_device_put")
        assert not cpu.available()
        with pytest.raises(G4cError, match="batched_device_put") as refused:
            cpu.CpuClient()
        assert refused.value.code == "G4C-R050"
    assert cpu.available()
