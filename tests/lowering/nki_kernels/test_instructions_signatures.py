"""Parameters of every instruction: names, order and defaults as the package documents them."""

from __future__ import annotations

import ast
import inspect

import pytest

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl

SIGNATURES = """
dma_copy(dst, src, priority=None, oob_mode=oob_mode.error, dge_mode=dge_mode.unknown, engine=engine.unknown, name=None)
dma_transpose(dst, src, axes=None, priority=None, dge_mode=dge_mode.unknown, oob_mode=oob_mode.error, name=None)
dma_compute(dst, srcs, reduce_op, scales=None, unique_indices=True, oob_mode=oob_mode.error, name=None)
tensor_copy(dst, src, engine=engine.unknown, name=None)
memset(dst, value, engine=engine.unknown, name=None)
tensor_copy_predicated(dst, src, predicate, reverse_pred=False, name=None)
nc_stream_shuffle(dst, src, shuffle_mask, name=None)
local_gather(dst, src_buffer, index, num_elem_per_idx=1, num_valid_indices=None, name=None)
nc_n_gather(dst, data, indices, name=None)
sendrecv(src, dst, send_to_rank, recv_from_rank, pipe_id, dma_engine=dma_engine.dma, name=None)
core_barrier(data, cores, engine=engine.gpsimd, name=None)
nc_matmul(dst, stationary, moving, is_stationary_onezero=False, is_moving_onezero=False, is_transpose=False, \
accumulate=None, tile_position=(), tile_size=(), perf_mode=matmul_perf_mode.none, name=None)
nc_matmul_mx(dst, stationary, moving, stationary_scale, moving_scale, tile_position=None, tile_size=None, \
accumulate=None, name=None)
nc_transpose(dst, data, engine=engine.unknown, name=None)
tensor_tensor(dst, data1, data2, op, engine=engine.unknown, name=None)
tensor_scalar(dst, data, op0, operand0, reverse0=False, op1=None, operand1=None, reverse1=False, \
engine=engine.unknown, name=None)
scalar_tensor_tensor(dst, data, op0, operand0, op1, operand1, reverse0=False, reverse1=False, name=None)
activation(dst, op, data, bias=None, scale=1.0, reduce_op=None, reduce_res=None, reduce_cmd=reduce_cmd.idle, name=None)
activation_reduce(dst, op, data, reduce_op, reduce_res, bias=None, scale=1.0, name=None)
activate2(dst, op, data, imm0, imm1, op0, op1, relu_param=0.0, reverse0=False, reverse1=False, reduce_op=None, \
reduce_res=None, reduce_cmd=reduce_cmd.idle, name=None)
exponential(dst, src, max_value=0.0, reduce_res=None, reduce_cmd=reduce_cmd.idle, reduce_init=0.0, name=None)
reciprocal(dst, data, name=None)
iota(dst, pattern, offset=0, channel_multiplier=0, name=None)
affine_select(dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op=nl.equal, offset=0, name=None)
range_select(dst, on_true_tile, comp_op0, comp_op1, bound0, bound1, reduce_cmd=reduce_cmd.reset_reduce, \
reduce_res=None, reduce_op=nl.maximum, range_start=0, on_false_value=-3.4028235e+38, name=None)
select_reduce(dst, predicate, on_true, on_false, reduce_res=None, reduce_cmd=reduce_cmd.idle, reduce_op=nl.maximum, \
reverse_pred=False, name=None)
tensor_scalar_reduce(dst, data, op0, operand0, reduce_op, reduce_res=None, reverse0=False, \
reduce_cmd=reduce_cmd.reset_reduce, reduce_init=None, reduce_res_negate=False, name=None)
tensor_scalar_cumulative(dst, src, op0, op1, imm0, imm1=None, reduce_cmd=reduce_cmd.reset_reduce, name=None)
tensor_tensor_scan(dst, data0, data1, initial, op0, op1, reverse0=False, reverse1=False, name=None)
tensor_reduce(dst, op, data, axis, negate=False, keepdims=False, name=None)
tensor_partition_reduce(dst, op, data, name=None)
bn_stats(dst, data, name=None)
bn_aggr(dst, data, name=None)
max8(dst, src, name=None)
nc_find_index8(dst, data, vals, name=None)
nc_match_replace8(dst, data, vals, imm, dst_idx=None, name=None)
topk(val_dst, idx_dst, src, n, name=None)
nonzero_with_count(dst, src, index_offset=0, padding_val=-1, name=None)
sequence_bounds(dst, segment_ids, name=None)
rng(dst, engine=engine.vector, name=None)
set_rng_seed(src_seeds, name=None)
rand_set_state(src_seeds, engine=engine.gpsimd, name=None)
rand_get_state(dst, engine=engine.gpsimd, name=None)
rand2(dst, min, max, name=None)
dropout(dst, data, prob, name=None)
quantize_mx(dst, src, dst_scale, name=None)
register_alloc(x=None)
register_move(dst, src)
register_load(dst, src)
register_store(dst, src)
"""
LANGUAGE = """
ndarray(shape, dtype, buffer=nl.sbuf, name='', address=None)
shared_constant(constant)
shared_identity_matrix(n, dtype='uint8', dst=None)
ds(start, size)
program_id(axis=0)
num_programs(axes=0)
program_ndim()
load(src, dtype=None)
store(dst, value)
matmul(x, y, transpose_x=False)
sum(x, axis, dtype=None, keepdims=False)
all(x, axis, dtype=None)
device_print(print_prefix, tensor)
fori_loop(lower, upper, body_fun, step=1)
while_loop(init, body_fun)
"""
NAMES = {**{name: getattr(nisa, name) for name in dir(nisa)}, "nl": nl}


def parameters(line: str) -> list[tuple[str, object]]:
    """(name, default) of a documented line."""
    arguments = ast.parse(f"def {line}: ...").body[0].args  # type: ignore[attr-defined]
    missing = [inspect.Parameter.empty] * (len(arguments.args) - len(arguments.defaults))
    defaults = [eval(ast.unparse(node), NAMES) for node in arguments.defaults]
    return list(zip([a.arg for a in arguments.args], missing + defaults, strict=True))


def lines(module: object, text: str) -> list[tuple[object, str]]:
    return [(module, line) for line in text.strip().split("\n")]


@pytest.mark.parametrize(
    ("module", "line"), lines(nisa, SIGNATURES) + lines(nl, LANGUAGE), ids=lambda v: str(v).partition("(")[0][:40]
)
def test_parameters(module: object, line: str) -> None:
    function = getattr(module, line.partition("(")[0])
    found = [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
    assert found == parameters(line)


def test_every_instruction_is_in_the_table() -> None:
    tabled = {line.partition("(")[0] for line in SIGNATURES.strip().split("\n")}
    functions = {name for name in nisa.__all__ if inspect.isfunction(getattr(nisa, name))}
    assert functions - tabled == {"get_nc_version", "get_nc_sub_version"}


@pytest.mark.parametrize(
    ("enum", "members"),
    [
        ("engine", {"unknown": 0, "tensor": 1, "scalar": 2, "gpsimd": 3, "dma": 4, "vector": 5, "sync": 6}),
        ("reduce_cmd", {"idle": 0, "reset": 1, "reduce": 2, "reset_reduce": 3, "load_reduce": 4}),
        ("dge_mode", {"unknown": 0, "swdge": 1, "hwdge": 2, "none": 3}),
        ("oob_mode", {"error": 0, "skip": 1}),
        ("nc_version", {"gen2": 2, "gen3": 3, "gen4": 4}),
        ("dma_engine", {"dma": 1, "gpsimd_dma": 2}),
    ],
)
def test_enums(enum: str, members: dict[str, int]) -> None:
    assert {member.name: member.value for member in getattr(nisa, enum)} == members
