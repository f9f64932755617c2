"""The table of seeded defects: kernel, defect, the text that is replaced, by what, and what catches it."""

from __future__ import annotations

from dataclasses import dataclass

NUMBERS = "numbers"  # the result is further from double precision than the kernel's own tests allow


@dataclass(frozen=True)
class Mutation:
    """`old`, which occurs `count` times in the subject's source, becomes `new`; `by` is what catches the defect."""

    subject: str
    defect: str
    old: str
    new: str
    by: str
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.subject}: {self.defect}"


RESET, REDUCE = "reduce_cmd=nisa.reduce_cmd.reset_reduce", "reduce_cmd=nisa.reduce_cmd.reduce"

EARLY = "    write_rows(past_values, locate_rows(load_column(positions)), load_rows(chunk_values))\n"

TILE_TO_HBM = "dst=out[m : m + m_size, n : n + n_size], src=tile"
HBM_TO_TILE = "dst=tile, src=out[m : m + m_size, n : n + n_size]"

# Kernels by hand, sample_kernels.py.
MATMUL = (
    ("dropped accumulate flag", "accumulate=(k > 0)", "accumulate=False", NUMBERS),
    ("sums without a beginning", "accumulate=(k > 0)", "accumulate=True", "G4C-K012"),
    ("a contraction of 256", "k_size = min(P, depth - k)", "k_size = min(2 * P, depth - k)", "G4C-K007"),
    ("sums over the end of a bank", "n_size = min(512, ", "n_size = min(700, ", "G4C-K005"),
    ("sums in bf16", "(m_size, n_size), dtype=nl.float32", "(m_size, n_size), dtype=nl.bfloat16", "G4C-K010"),
    ("eviction by DMA", "nisa.tensor_copy(dst=tile, src=psum)", "nisa.dma_copy(dst=tile, src=psum)", "G4C-K008"),
    ("eviction by GpSimd", "dst=tile, src=psum", "dst=tile, src=psum, engine=nisa.engine.gpsimd", "G4C-K008"),
    (
        "eviction by the Tensor Engine",
        "dst=tile, src=psum",
        "dst=tile, src=psum, engine=nisa.engine.tensor",
        "G4C-K018",
    ),
    ("the last columns are left out", "range(0, columns, 512)", "range(0, columns - 512, 512)", "G4C-K014"),
    ("the tail of the contraction is left out", "range(0, depth, P)", "range(0, depth - P, P)", NUMBERS),
    ("a load that is one row late", "src=rhs[k : k + k_size, ", "src=rhs[k + 1 : k + 1 + k_size, ", "G4C-K015"),
    ("one product left out", "nisa.nc_matmul(dst=psum,", "k > 0 and nisa.nc_matmul(dst=psum,", "G4C-K012"),
    ("operands in each other's place", "stationary=left, moving=right", "stationary=right, moving=left", "G4C-K007"),
    ("one load for all", "rhs[k : k + k_size, ", "rhs[0 : k_size, ", NUMBERS),
    ("a store that is a load", TILE_TO_HBM, HBM_TO_TILE, "G4C-K014"),
    ("more rows than there are", "m_size = min(P, rows - m)", "m_size = P", "G4C-K015"),
    ("the result in private HBM", "buffer=nl.shared_hbm", "buffer=nl.private_hbm", "G4C-K014", 4),
)
RMS_NORM = (
    ("epsilon dropped", "op1=nl.add, operand1=epsilon", "op1=nl.add, operand1=0.0", NUMBERS),
    ("the sign of the mean", "operand0=1.0 / columns", "operand0=-1.0 / columns", "G4C-K013"),
    ("a sum that nobody starts", RESET, REDUCE, "G4C-K027", 3),
    ("the gain of one partition for all", "gain[:size, :]", "gain[0:1, :]", "G4C-K017"),
)
FLASH = (
    ("a stale maximum", "nisa.tensor_copy(dst=peak, src=new_peak)", "nisa.tensor_copy(dst=peak, src=peak)", NUMBERS),
    (
        "a sum that does not decay",
        "data=total, op0=nl.multiply, operand0=decay",
        "data=total, op0=nl.multiply, operand0=1.0",
        NUMBERS,
    ),
    ("a sum that begins with leftovers", "        nisa.memset(dst=total, value=0.0)\n", "", "G4C-K011"),
    ("a sum of maxima", "data1=new_peak, data2=peak, op=nl.maximum", "data1=new_peak, data2=peak, op=nl.add", NUMBERS),
    ("a divisor that is not inverted", "nisa.reciprocal(dst=total, data=total)\n        final", "final", NUMBERS),
    ("a column that is not one", "bias=new_peak", "bias=masked", "G4C-K017"),
    (
        "sums in bf16",
        "part_sum = nl.ndarray((rows, 1), dtype=nl.float32",
        "part_sum = nl.ndarray((rows, 1), dtype=nl.bfloat16",
        NUMBERS,
    ),
    ("mask inverted", "cmp_op=nl.greater_equal", "cmp_op=nl.less", NUMBERS),
    ("a query that does not see itself", "offset=q0 - k0", "offset=q0 - k0 - 1", NUMBERS),
    ("mask in PSUM", "dst=masked,\n                pattern", "dst=scores,\n                pattern", "G4C-K008"),
    ("scale dropped", "data=scores, scale=scale", "data=scores", NUMBERS),
    ("K in the place of V", "src=v[k0 + part", "src=k[k0 + part", NUMBERS),
    ("a wrong d tile", "moving=transposed[:, c, :]", "moving=transposed[:, 0, :]", NUMBERS),
    ("d tiles left out", "for c in range(chunks)", "for c in range(1)", NUMBERS),
    ("a wrong start partition", "stationary=queries[:, c, :]", "stationary=queries[1:, c, :]", "G4C-K006"),
    (
        "a column that is not evicted",
        "dst=result[:, c, :], src=psum",
        "dst=result[:, c, 1:], src=psum[:, 1:]",
        "G4C-K011",
    ),
)

# Generated prefill attention: with a window, a past and padding; in blocks with an online softmax.
WINDOW = (
    ("a window that is one too long, own rows", "offset=WINDOW - 1 - BAND", "offset=WINDOW - BAND", NUMBERS),
    ("a window that is one too short, past", "operand0=1.0 * WINDOW", "operand0=1.0 * WINDOW - 1", NUMBERS),
    ("transposes in more than PSUM holds", "rotation(2, (128, 4, 128)", "rotation(2, (128, 40, 128)", "G4C-K004"),
    ("causality by one", "offset=BAND,", "offset=BAND - 1,", NUMBERS),
    ("KV heads of another group", "GROUP = 2", "GROUP = 1", "G4C-K015"),
    ("one d tile of two", "D_TILES = 2", "D_TILES = 1", "G4C-K017"),
    ("too few key tiles in SBUF", "SLOTS = 5 ", "SLOTS = 3 ", "G4C-K011"),
    ("padding that does not give zeros", "data2=real, op=nl.multiply", "data2=real, op=nl.maximum", NUMBERS),
    ("own keys in the past's tiles", "FIRST_TILES = (0, 2)", "FIRST_TILES = (0, 1)", NUMBERS),
    (
        "GpSimd on PSUM",
        "nisa.tensor_copy(dst=dst, src=src)",
        "nisa.tensor_copy(dst=dst, src=src, engine=nisa.engine.gpsimd)",
        "G4C-K008",
    ),
)
ONLINE = (
    ("a maximum with the wrong sign", "data=minus, scale=-1.0", "data=minus, scale=1.0", NUMBERS),
    ("decay of another block", "decay[(n + 1) % ADDED]", "decay[n % ADDED]", "G4C-K011"),
    ("a sum that nobody starts", RESET, REDUCE, "G4C-K027", 2),
    ("products without a beginning", "accumulate=(j + t > 0)", "accumulate=(t >= 0)", "G4C-K012"),
    ("only the last keys' products", "accumulate=(j + t > 0)", "accumulate=False", NUMBERS),
    ("scores of the wrong bank", "scores[(bank + i) % SCORES]", "scores[(bank + i + 1) % SCORES]", "G4C-K011"),
    (
        "the divisor of another query tile",
        'row_sum = total[step["unit"] % UNITS]',
        'row_sum = total[(step["unit"] + 1) % UNITS]',
        "G4C-K011",
    ),
)

# Generated decode attention with the update of a ring.
STEP = (
    ("off by one slot", "operand0=-1.0 * SLOTS", "operand0=1.0 - SLOTS", NUMBERS),
    (
        "the cache is written before it is read",
        "buffer=nl.shared_hbm)\n",
        "buffer=nl.shared_hbm)\n" + EARLY,
        NUMBERS,
    ),
    (
        "keys and values change places in the cache",
        "write_rows(past_keys, index, new_keys)",
        "write_rows(past_values, index, new_keys)",
        NUMBERS,
    ),
    ("a window that is one too short", "behind = 1.0 * WINDOW", "behind = 1.0 * WINDOW - 1", NUMBERS),
    ("empty slots are seen", "operand1=-1.0)", "operand1=-2.0)", NUMBERS),
    ("padding is written", "src=rows, oob_mode=nisa.oob_mode.skip", "src=rows", "G4C-K015"),
    (
        "all heads read the first KV head",
        "heads = slice(head * GROUP, (head + 1) * GROUP)",
        "heads = slice(0, GROUP)",
        "G4C-K011",
        3,
    ),
    ("an unwritten tail of scores", "if partitions < 128:", "if partitions < 0:", "G4C-K011"),
    ("values of the first part only", "accumulate=(accumulate or n > 0)", "accumulate=(n > 0)", NUMBERS),
)

# The same families with scores so large that their exponentials overflow.
STEEP = (("a maximum that is not subtracted", ", negate=True", "", NUMBERS),)
STEEP_STEP = (
    ("maxima of queries mixed up", "op0=nl.multiply, operand0=top", "op0=nl.add, operand0=top", NUMBERS),
    ("the least score as the maximum", "op=nl.maximum, data=flipped", "op=nl.minimum, data=flipped", NUMBERS),
)

# The linear family: a layer's residual stream, projections, the head.
LAYER = (
    ("another GELU", "op=nl.gelu_apprx_tanh, data=values", "op=nl.gelu_apprx_sigmoid, data=values", NUMBERS),
    (
        "the gate's weights for both",
        "multiply_to_features(up, groups, weights, width,",
        "multiply_to_features(up, groups, weights, 0,",
        NUMBERS,
    ),
    ("another epsilon", "EPSILON = 1e-06", "EPSILON = 1e-03", NUMBERS),
    ("a sum for a mean", "value=1.0 / width", "value=1.0", NUMBERS),
    ("a mean without a beginning", "accumulate=not fresh", "accumulate=True", "G4C-K012"),
    ("a power of PSUM by GpSimd", "operand1=-0.5)", "operand1=-0.5, engine=nisa.engine.gpsimd)", "G4C-K008"),
    ("tiles for more than SBUF holds", "(128, 2 * columns), dtype", "(128, 200 * columns), dtype", "G4C-K003"),
)
QKV = (
    (
        "the norm's gain squared",
        "dst=target, op=nl.copy, data=source, scale=gain",
        "dst=target, op=nl.square, data=source, scale=gain",
        NUMBERS,
    ),
)
# Kernels of two cores.
SHARED = (("both cores do the first half", "plan(nl.program_id(0))", "plan(0)", "G4C-K014"),)
HALVES = (
    ("both cores write the first half", "pieces[core * SHARE // PIECE + n]", "pieces[n]", "G4C-K029"),
    ("the other core's columns", "weight, core * SHARE,", "weight, (1 - core) * SHARE,", NUMBERS),
)
HEAD = (("no soft cap", "op=nl.tanh", "op=nl.copy", NUMBERS),)

MUTATIONS = [
    Mutation(subject, *row)
    for subject, rows in {
        "matmul": MATMUL,
        "rms_norm": RMS_NORM,
        "flash": FLASH,
        "window": WINDOW,
        "online": ONLINE,
        "step": STEP,
        "steep": STEEP,
        "steep_step": STEEP_STEP,
        "layer": LAYER,
        "qkv": QKV,
        "head": HEAD,
        "shared": SHARED,
        "halves": HALVES,
    }.items()
    for row in rows
]
