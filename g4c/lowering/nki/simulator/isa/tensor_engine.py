"""The Tensor Engine: nc_matmul with accumulation in PSUM, and nc_transpose (also on the Vector Engine)."""

from __future__ import annotations

from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import access, dtypes, indirection
from g4c.lowering.nki.simulator.addressing import array_of, marks_of
from g4c.lowering.nki.simulator.diagnostics import error, warn
from g4c.lowering.nki.simulator.enums import Engine, MatmulPerfMode, member
from g4c.lowering.nki.simulator.generation import PSUM_BANK_BYTES
from g4c.lowering.nki.simulator.instruction import TENSOR, VECTOR, Step
from g4c.lowering.nki.simulator.memory import ACCUMULATED, LEFTOVER, UNWRITTEN, WRITTEN, MemoryRegion
from g4c.lowering.nki.simulator.tensor import NkiTensor

_INPUTS = frozenset({"float8_e4m3", "float8_e5m2", "bfloat16", "float16", "tfloat32", "float32"})
_SINGLE = frozenset({"float32", "tfloat32"})


def nc_matmul(
    dst,
    stationary,
    moving,
    is_stationary_onezero=False,
    is_moving_onezero=False,
    is_transpose=False,
    accumulate=None,
    tile_position=(),
    tile_size=(),
    perf_mode=MatmulPerfMode.none,
    name=None,
):
    """dst[M, N] = or += stationary[K, M].T @ moving[K, N]: fp32 products and sums, in PSUM."""
    operands = {
        "stationary": stationary,
        "moving": moving,
        "is_transpose": is_transpose,
        "tile_position": tile_position,
    }
    step = Step("nc_matmul", name, TENSOR, dst=dst, **operands)
    if accumulate is not None and not isinstance(accumulate, bool | int | np.bool_):
        raise error("G4C-K002", f"nisa.nc_matmul: accumulate={accumulate!r}", "True, False or None")
    _check_places(step)
    double = _is_double_row(step, perf_mode)
    _check_types(step, is_transpose)
    if is_transpose:
        return _pass_through(step, dst, stationary, moving, accumulate)
    (left, left_defined), (right, right_defined) = step.take(stationary), step.take(moving)
    rows = stationary.shape[0]
    if double:
        left, right = left.reshape(2 * rows, -1), right.reshape(2 * rows, -1)
    columns, count = left.shape[1], right.shape[1]
    _check_sizes(step, rows, columns, count, tile_position, tile_size)
    for parameter, flag in (("stationary", is_stationary_onezero), ("moving", is_moving_onezero)):
        if flag:
            _check_onezero(
                step, parameter, *((left, left_defined) if parameter == "stationary" else (right, right_defined))
            )
    product = np.matmul(dtypes.to_fp32(left).T, dtypes.to_fp32(right))
    defined = None
    if left_defined is not None or right_defined is not None:
        lines, stripes = _whole(left_defined, columns), _whole(right_defined, count)
        defined = lines[:, None] & stripes[None, :]
    _accumulate(step, dst, product, accumulate, defined)
    return step.done(
        columns=columns, count=count, dtype=moving.dtype, double_row=double, fp32=moving.dtype == "float32"
    )


def _check_onezero(step: Step, parameter: str, values: np.ndarray, defined: np.ndarray | None) -> None:
    """What a flag promises: zeros and ones only."""
    known = values.reshape(-1) if defined is None else values[defined.reshape(values.shape)]
    others = known[(known != 0) & (known != 1)]
    if others.size:
        step.refuse(
            "G4C-K002",
            f"is_{parameter}_onezero, but {parameter} holds {float(others[0]):g}",
            "only 0 and 1 are exact then",
        )


def _whole(defined: np.ndarray | None, columns: int) -> np.ndarray:
    """Which columns of an operand are defined over the whole contraction."""
    return np.ones(columns, bool) if defined is None else defined.reshape(-1, columns).all(axis=0)


def _check_places(step: Step) -> None:
    """stationary and moving in SBUF, dst in PSUM."""
    step.tiles("stationary", "moving", "dst")
    for parameter in ("stationary", "moving"):
        if step.tensor(parameter).buffer is not MemoryRegion.sbuf:
            step.refuse("G4C-K008", f"{parameter} is in PSUM", "the Tensor Engine reads its inputs from SBUF")
    if step.tensor("dst").buffer is not MemoryRegion.psum:
        step.refuse("G4C-K008", f"dst is {step.tensor('dst')!r}", "the Tensor Engine writes to PSUM")
    if step.program.generation.number < 4 and step.tensor("dst").dynamic is None:
        check_bank(step, step.tensor("dst"))


def check_bank(step: Step, dst: NkiTensor) -> None:
    """The destination of one matmul lies in one bank (v2, v3)."""
    box = dst.box()
    base = dst.storage.base % dst.storage.pitch
    first, last = (base + box.b0) // PSUM_BANK_BYTES, (base + box.b1 - 1) // PSUM_BANK_BYTES
    if first != last:
        step.refuse(
            "G4C-K005",
            f"dst {dst!r} spans PSUM banks {first} to {last}",
            f"on {step.program.generation.name} one matmul writes to one bank of {PSUM_BANK_BYTES} bytes per partition",
        )


def _is_double_row(step: Step, perf_mode: Any) -> bool:
    mode = member(MatmulPerfMode, perf_mode)
    if mode is None:
        raise error("G4C-K002", f"nisa.nc_matmul: perf_mode={perf_mode!r}", "a member of nisa.matmul_perf_mode")
    if mode is MatmulPerfMode.none:
        return False
    step.requires_generation(3, "double_row")
    for parameter in ("stationary", "moving"):
        tensor = step.tensor(parameter)
        if tensor.dtype not in dtypes.FP8:
            step.refuse("G4C-K010", f"{parameter} is {tensor.dtype}", "double_row takes fp8")
        if tensor.ndim < 3 or tensor.shape[1] != 2:
            raise error("G4C-K017", f"nisa.nc_matmul: {parameter} is {list(tensor.shape)}", "double_row: [K, 2, ...]")
    return True


def _check_types(step: Step, is_transpose: bool) -> None:
    stationary, moving, dst = (step.tensor(p) for p in ("stationary", "moving", "dst"))
    allowed = _INPUTS | ({"float8_e4m3fn"} if step.program.generation.number >= 4 else frozenset())
    step.check_dtype("stationary", allowed)
    step.check_dtype("moving", allowed)
    kinds = {stationary.dtype, moving.dtype}
    if kinds & _SINGLE and not kinds <= _SINGLE:
        step.refuse(
            "G4C-K010",
            f"stationary is {stationary.dtype}, moving is {moving.dtype}",
            "fp32 and tf32 go only with fp32 and tf32",
        )
    if kinds == {"float8_e4m3", "float8_e4m3fn"}:
        step.refuse("G4C-K010", "float8_e4m3 with float8_e4m3fn", "the legacy and the OCP format do not mix")
    results = ("float32",) if step.program.generation.number < 4 else ("float32", "bfloat16")
    if dst.dtype not in results and not is_transpose:
        step.refuse(
            "G4C-K010", f"dst is {dst.dtype}", f"dst is {' or '.join(results)} on {step.program.generation.name}"
        )


def _check_sizes(step: Step, rows: int, columns: int, count: int, position: Any, size: Any) -> None:
    """K, M, N against the array and its tiling, and against dst."""
    stationary, moving, dst = (step.tensor(p) for p in ("stationary", "moving", "dst"))
    generation = step.program.generation
    if stationary.shape[0] != moving.shape[0]:
        raise error(
            "G4C-K017",
            f"nisa.nc_matmul: stationary has {stationary.shape[0]} partitions, moving has {moving.shape[0]}",
            "the contraction is over the partitions of both",
        )
    limit = generation.moving_limit * (2 if dst.dtype == "bfloat16" and generation.number >= 4 else 1)
    row_limit, column_limit = 128, 128
    if bool(position) != bool(size):
        step.refuse("G4C-K002", f"tile_position={position}, tile_size={size}", "both or none")
    elif size:
        row_limit, column_limit = size
        allowed = [n for n in (32, 64, 128) if n >= generation.smallest_row_tile]
        if row_limit not in allowed or column_limit not in allowed:
            step.refuse("G4C-K007", f"tile_size={tuple(size)}", f"tiles of {allowed} on {generation.name}")
        if position[0] % row_limit or position[1] % column_limit or max(position[0], position[1]) >= 128:
            step.refuse(
                "G4C-K007", f"tile_position={tuple(position)}", f"multiples of tile_size {tuple(size)} below 128"
            )
    for what, found, most in (
        ("contraction", rows, row_limit),
        ("stationary columns", columns, column_limit),
        ("moving columns", count, limit),
    ):
        if found > most:
            step.refuse("G4C-K007", f"{found} {what}", f"at most {most} on {generation.name}")
    if dst.shape[0] != columns or dst.size != columns * count:
        raise error(
            "G4C-K017",
            f"nisa.nc_matmul: the product is [{columns}, {count}], dst is {list(dst.shape)}",
            "dst is [M, N]",
        )


def _accumulate(
    step: Step, dst: NkiTensor, product: np.ndarray, accumulate: bool | None, defined: np.ndarray | None
) -> None:
    """Overwrite or add to what PSUM holds, as `accumulate` and what was written before say."""
    program = step.program
    static = access.resolve(program, indirection.resolve(step, dst))
    assert static is not None
    if static is not dst and program.generation.number < 4:
        check_bank(step, static)
    storage = static.storage
    held = array_of(static)
    if accumulate is False or (accumulate is None and storage.uniform == UNWRITTEN):
        step.write(static, product, ACCUMULATED, defined)
        return
    held = dtypes.to_fp32(held).reshape(product.shape)
    step.reads.append(static)
    if storage.uniform == ACCUMULATED:
        step.write(static, held + product, ACCUMULATED, defined)
        return
    marks = marks_of(static, storage.mark_array(static.itemsize), storage.unit)
    marks = (marks if marks.shape == static.shape else marks[..., 0]).reshape(product.shape)
    foreign = marks == WRITTEN
    add = np.ones(product.shape, bool)
    if accumulate is None:
        add = marks != UNWRITTEN
        if foreign.any() and program.generation.number < 4:
            if (held[foreign] != 0).any():
                _refuse_foreign(step, static)
            else:
                add &= ~foreign  # zeros: adding and overwriting are the same
                warn("G4C-K012", "a matmul follows a memset of PSUM to zero; the first matmul overwrites anyway")
    elif (marks == UNWRITTEN).any():
        step.refuse(
            "G4C-K012",
            f"accumulate=True, but {int((marks == UNWRITTEN).sum())} elements of {dst!r} were never written",
            "the first matmul of a group has accumulate=False: pass accumulate=(k > 0)",
        )
        if not program.strict:
            warn("G4C-K012", "accumulate=True on PSUM that was never written")
    elif program.generation.number < 4 and foreign.any():
        _refuse_foreign(step, static)
    if (marks == LEFTOVER).any():
        kept = (marks != LEFTOVER) | ~add
        defined = kept if defined is None else defined & kept
        step.source = step.source or storage.leftovers
    step.write(static, np.where(add, held + product, product), ACCUMULATED, defined)


def _refuse_foreign(step: Step, dst: NkiTensor) -> None:
    step.refuse(
        "G4C-K012",
        f"a matmul adds to {dst!r}, which another engine has written",
        f"on {step.program.generation.name} a matmul can only add to a matmul's result: start with accumulate=False",
    )


def _pass_through(step: Step, dst: NkiTensor, stationary: NkiTensor, moving: NkiTensor, accumulate: bool | None):
    """is_transpose: stationary.T, bit-exact from v3 on, where moving is the identity."""
    generation = step.program.generation.number
    if accumulate:
        step.refuse("G4C-K012", "is_transpose with accumulate=True", "a transpose overwrites: accumulate=False")
    values, defined = step.take(stationary)
    identity = dtypes.to_fp32(step.read(moving))
    rows, columns = values.shape
    _check_sizes(step, rows, columns, identity.shape[1], (), ())
    if identity.shape[0] != identity.shape[1] or not np.array_equal(identity, np.eye(rows, dtype=np.float32)):
        step.refuse("G4C-K002", "is_transpose with a moving tile that is no identity", "moving is the identity matrix")
    if generation >= 3 and dst.dtype != stationary.dtype:
        step.refuse("G4C-K010", f"dst is {dst.dtype}, stationary is {stationary.dtype}", "a transpose keeps the type")
    if generation < 3 or dst.dtype != stationary.dtype:
        step.write(dst, _spread(dtypes.to_fp32(values)).T, ACCUMULATED, _transposed(step, defined))
    else:
        step.store(dst, values.T, ACCUMULATED, _transposed(step, defined))
    return step.done(columns=columns, count=rows, dtype=stationary.dtype, double_row=False, fp32=False)


def _transposed(step: Step, defined: np.ndarray | None) -> np.ndarray | None:
    """Which elements of a transpose are defined; on v2 leftovers, which may be NaN, spoil their whole column."""
    if defined is not None and step.program.generation.number < 3:
        defined = np.broadcast_to(defined.all(axis=0), defined.shape)
    return None if defined is None else defined.T


def _spread(values: np.ndarray) -> np.ndarray:
    """v2 multiplies with the identity: a NaN or infinity spoils its column of the contraction."""
    if np.isfinite(values).all():
        return values
    with np.errstate(invalid="ignore"):
        return np.matmul(np.eye(len(values), dtype=np.float32), values)


def nc_transpose(dst, data, engine=Engine.unknown, name=None):
    """dst[F, P] = data[P, F].T: up to 128x128 on the Tensor Engine (SBUF to PSUM), 32x32 on the Vector Engine."""
    step = Step("nc_transpose", name, TENSOR, dst=dst, data=data)
    rows, columns = data.shape[0], data.size // max(1, data.shape[0])
    small = rows <= 32 and columns <= 32
    on_tensor = step.tensor("dst").buffer is MemoryRegion.psum and data.buffer is MemoryRegion.sbuf
    step.run_on(engine, (TENSOR, VECTOR), TENSOR if on_tensor or not small else VECTOR)
    step.tiles("dst", "data")
    if step.engine is TENSOR:
        if data.buffer is not MemoryRegion.sbuf or dst.buffer is not MemoryRegion.psum:
            step.refuse(
                "G4C-K008", f"data is {data!r}, dst is {dst!r}", "the Tensor Engine transposes from SBUF to PSUM"
            )
        if step.program.generation.number < 4:
            check_bank(step, dst)
    limit = 128 if step.engine is TENSOR else 32
    if max(rows, columns) > limit:
        step.refuse(
            "G4C-K007", f"data is [{rows}, {columns}]", f"at most {limit}x{limit} on the {step.engine.name} engine"
        )
    product = step.engine is TENSOR and step.program.generation.number < 3  # v2 multiplies with the identity
    if dst.dtype != data.dtype and not (product and dst.dtype == "float32"):
        step.refuse("G4C-K010", f"dst is {dst.dtype}, data is {data.dtype}", "a transpose keeps the type")
    if dst.shape[0] != columns or dst.size != rows * columns:
        raise error(
            "G4C-K017", f"nisa.nc_transpose: data is [{rows}, {columns}], dst is {list(dst.shape)}", "dst is [F, P]"
        )
    mark = ACCUMULATED if step.engine is TENSOR else WRITTEN
    values, defined = step.take(data)
    if product:
        step.write(dst, _spread(dtypes.to_fp32(values)).T, mark, _transposed(step, defined))
    else:
        step.store(
            dst, dtypes.convert(values, data.dtype, dst.dtype).T, mark, defined if defined is None else defined.T
        )
    return step.done(rows=rows, columns=columns, dtype=data.dtype)
