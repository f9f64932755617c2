"""Kernels that XLA calls on the CPU backend: what they are given, what becomes of what they give, and of errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import ml_dtypes
import numpy as np
import pytest

from g4c.errors import G4cError
from g4c.ir.types import Array
from g4c.lowering.neuron import xla
from g4c.lowering.neuron.finish import Signature, finish
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.runtime.cpu import CpuExecutable, array_of, cpu_client
from g4c.runtime.cpu_kernels import CpuKernel, raise_failure, register_kernel

BF16 = ml_dtypes.bfloat16


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    raise_failure()


def program(
    kernel: CpuKernel, inputs: Sequence[str], outputs: Sequence[str], *, transposed: bool = False, calls: int = 1
) -> CpuExecutable:
    """A compiled program of `calls` calls of `kernel` on its inputs, the first one perhaps transposed."""
    number = register_kernel(kernel)
    params = ", ".join(f"%a{k}: tensor<{type}>" for k, type in enumerate(inputs))
    names, types = [f"%a{k}" for k in range(len(inputs))], [f"tensor<{type}>" for type in inputs]
    lines = []
    if transposed:
        rows, columns, dtype = inputs[0].split("x")
        names[0], types[0] = "%t", f"tensor<{columns}x{rows}x{dtype}>"
        lines.append(
            f'%t = "stablehlo.transpose"(%a0) <{{permutation = array<i64: 1, 0>}}> : (tensor<{inputs[0]}>)'
            f" -> {types[0]}"
        )
    results = ", ".join(f"tensor<{type}>" for type in outputs)
    bound = f":{len(outputs)}" if len(outputs) > 1 else ""
    aliases = ", ".join(
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{result if len(outputs) > 1 else ''}], "
        f"operand_index = {operand}, operand_tuple_indices = []>"
        for operand, result in kernel.aliases
    )
    for call in range(calls):
        lines.append(
            f'%r{call}{bound} = "stablehlo.custom_call"({", ".join(names)}) <{{call_target_name = '
            f'"AwsNeuronCustomNativeKernel", api_version = 2 : i32, backend_config = "", output_operand_aliases = '
            f"[{aliases}]}}> : ({', '.join(types)}) -> ({results})"
        )
    last = [f"%r{calls - 1}" + (f"#{k}" if bound else "") for k in range(len(outputs))]
    text = f"module @m {{ func.func public @main({params}) -> ({results}) {{\n" + "\n".join(lines)
    text += f'\n"func.return"({", ".join(last)}) : ({results}) -> () }} }}'
    signature = Signature(tuple(f"i{k}" for k in range(len(inputs))), tuple(f"o{k}" for k in range(len(outputs))))
    module = HloModule.FromString(finish(xla.stablehlo_to_hlo(text), "m", signature))
    shapes = {i.id: i.shape for i in module.computations[-1].instructions}
    for instruction in module.computations[-1].instructions:
        if instruction.opcode == "custom-call":
            instruction.custom_call_api_version = 4
            instruction.backend_config = f"{{kernel_id = {number} : i64}}".encode()
            instruction.constrain_layout = True
            instruction.operand_shapes_with_layout.extend(shapes[i] for i in instruction.operand_ids)
    return cpu_client().compile(module.SerializeToString(), "m")


def execute(executable: CpuExecutable, *arrays: Array) -> list[Array]:
    client = cpu_client()
    results = executable.execute([client.copy(array) for array in arrays])
    raise_failure()
    return [array_of(result).copy() for result in results]


def test_operands_and_results_of_every_type() -> None:
    types = {"f32": np.float32, "bf16": BF16, "f16": np.float16, "i32": np.int32, "i8": np.int8, "i1": np.bool_}
    seen: list[Array] = []

    def run(*operands: Array) -> list[Array]:
        seen.extend(operand.copy() for operand in operands)
        return [operand[::-1] for operand in operands]

    kinds = [f"3x2x{name}" for name in types]
    given = [np.arange(6).reshape(3, 2).astype(kind) for kind in types.values()]
    found = execute(program(CpuKernel("reverse", run), kinds, kinds), *given)
    for array, operand, result in zip(given, seen, found, strict=True):
        np.testing.assert_array_equal(operand, array)
        np.testing.assert_array_equal(result, array[::-1])
        assert operand.dtype == result.dtype == array.dtype


def test_scalars_and_empty_tensors() -> None:
    types = ["f32", "0x4xf32"]
    executable = program(CpuKernel("same", lambda x, y: [x + 1, y]), types, types)
    found = execute(executable, np.float32(2), np.zeros((0, 4), np.float32))
    assert found[0] == 3
    assert found[1].shape == (0, 4)


def test_a_transposed_operand_comes_row_by_row() -> None:
    """XLA makes a transpose a change of layout where it may."""
    kernel = CpuKernel("same", lambda x: [x * 2])
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    (found,) = execute(program(kernel, ["2x3xf32"], ["3x2xf32"], transposed=True), x)
    np.testing.assert_array_equal(found, x.T * 2)


def test_an_aliased_operand_is_updated_in_place() -> None:
    addresses = []

    def run(x: Array, cache: Array) -> list[Array]:
        addresses.append(cache.ctypes.data)
        cache[1] = x
        return [x, cache]

    kernel = CpuKernel("update", run, ((1, 1),))
    cache = np.zeros((4, 3), np.float32)
    _, found = execute(program(kernel, ["3xf32", "4x3xf32"], ["3xf32", "4x3xf32"]), np.ones(3, np.float32), cache)
    np.testing.assert_array_equal(found, [[0] * 3, [1] * 3, [0] * 3, [0] * 3])
    assert not cache.any(), "the caller's array is a copy"
    assert len(addresses) == 1


def test_other_operands_are_read_only() -> None:
    def run(x: Array) -> list[Array]:
        x[0] = 1
        return [x]

    with pytest.raises(G4cError, match="read-only") as caught:
        execute(program(CpuKernel("write", run), ["3xf32"], ["3xf32"]), np.zeros(3, np.float32))
    assert caught.value.code == "G4C-R072"


def raising(error: BaseException) -> Callable[..., list[Array]]:
    def run(x: Array) -> list[Array]:
        raise error

    return run


def test_what_a_kernel_raises_is_raised_after_the_execution() -> None:
    """Coded errors as they are; kernels after the failed one are not run; the next execution starts afresh."""
    count = []

    def run(x: Array) -> list[Array]:
        count.append(1)
        raise G4cError("G4C-K012", "a rule is broken")

    with pytest.raises(G4cError, match="a rule is broken") as caught:
        execute(program(CpuKernel("broken", run), ["3xf32"], ["3xf32"], calls=3), np.zeros(3, np.float32))
    assert caught.value.code == "G4C-K012"
    assert len(count) == 1
    (found,) = execute(program(CpuKernel("good", lambda x: [x]), ["3xf32"], ["3xf32"]), np.ones(3, np.float32))
    assert found.all()


def test_any_other_error_is_a_bug() -> None:
    executable = program(CpuKernel("buggy", raising(ZeroDivisionError("by zero"))), ["3xf32"], ["3xf32"])
    with pytest.raises(G4cError, match="ZeroDivisionError: by zero") as caught:
        execute(executable, np.zeros(3, np.float32))
    assert (caught.value.code, caught.value.exit_code) == ("G4C-R072", 70)


def test_ctrl_c_in_a_kernel() -> None:
    executable = program(CpuKernel("slow", raising(KeyboardInterrupt())), ["3xf32"], ["3xf32"])
    with pytest.raises(KeyboardInterrupt):
        execute(executable, np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (np.zeros((3, 1), np.float32), r"result 0 of odd is float32\[3, 1\], the program wants float32\[3\]"),
        (np.zeros(3, np.float64), r"is float64\[3\]"),
    ],
)
def test_results_that_do_not_fit(made: Array, words: str) -> None:
    executable = program(CpuKernel("odd", lambda x: [made]), ["3xf32"], ["3xf32"])
    with pytest.raises(G4cError, match=words) as caught:
        execute(executable, np.zeros(3, np.float32))
    assert caught.value.code == "G4C-R072"


def test_too_few_results() -> None:
    executable = program(CpuKernel("odd", lambda x: []), ["3xf32"], ["3xf32"])
    with pytest.raises(G4cError, match="ValueError"):
        execute(executable, np.zeros(3, np.float32))


def test_one_kernel_at_a_time() -> None:
    """Also where programs run in many threads."""
    running, most = [0], [0]
    guard = threading.Lock()

    def run(x: Array) -> list[Array]:
        with guard:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.02)
        with guard:
            running[0] -= 1
        return [x]

    executable = program(CpuKernel("slow", run), ["3xf32"], ["3xf32"])
    threads = [threading.Thread(target=execute, args=(executable, np.zeros(3, np.float32))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
