"""Checks of rules that are broken on a detour: by a view, a second stage, a run-time index, tiles that take turns."""

from __future__ import annotations

from check_case import Case, one

PARTITIONS = [
    one("G4C-K006", *rest)
    for rest in (
        (
            "every fourth partition",
            "src steps over partitions by 4",
            "nisa.tensor_copy(dst=c[:32, :], src=a[0:128:4, :])",
            "nisa.dma_copy(dst=c[:32, :], src=a[0:128:4, :])",
        ),
        (
            "every second partition of a contraction",
            "stationary steps over partitions by 2",
            "nisa.nc_matmul(p[:64, :], a.slice(0, 0, 128, 2), b[0:64, :], accumulate=False)",
            "nisa.nc_matmul(p[:64, :], a.slice(0, 64, 128), b[0:64, :], accumulate=False)",
        ),
        (
            "one partition for all",
            "operand0 steps over partitions by 0",
            "nisa.tensor_scalar(dst=c, data=a, op0=nl.add, operand0=s.ap([[0, 128], [1, 1]]))",
            "nisa.tensor_scalar(dst=c, data=a, op0=nl.add, operand0=s.ap([[1, 128], [1, 1]]))",
        ),
        (
            "an access pattern from partition 16",
            "from partition 16",
            "nisa.memset(dst=a.ap([[64, 32], [1, 64]], offset=64 * 16), value=0.0)",
            "nisa.memset(dst=a.ap([[64, 32], [1, 64]], offset=64 * 32), value=0.0)",
        ),
        (
            "a row of another type",
            "from partition 33",
            "nisa.memset(dst=a.view(nl.int32)[33:34], value=0)",
            "nisa.memset(dst=a.view(nl.int32)[64:65], value=0)",
        ),
        (
            "the column of sums",
            "reduce_res uses 16 partitions from partition 8",
            "nisa.activation_reduce(a[:16, :], nl.exp, b[:16, :], nl.add, s[8:24, :])",
            "nisa.activation_reduce(a[:16, :], nl.exp, b[:16, :], nl.add, s[32:48, :])",
        ),
    )
]

OPERATORS = [
    one("G4C-K021", "bypass of the ALU", "only nisa.activate2", "nisa.tensor_scalar(a, b, nl.bypass, None)",
        "nisa.tensor_scalar(a, b, nl.abs, None)"),
    one("G4C-K021", "rsqrt by the Vector Engine in two stages", "on the GpSimd Engine",
        "nisa.scalar_tensor_tensor(a, a, nl.rsqrt, None, nl.add, b)",
        "nisa.scalar_tensor_tensor(a, a, nl.abs, None, nl.add, b)"),
    one("G4C-K021", "rsqrt before a reduction", "on the GpSimd Engine",
        "nisa.tensor_scalar_reduce(a, b, nl.rsqrt, None, nl.add, s)",
        "nisa.tensor_scalar_reduce(a, b, nl.abs, None, nl.add, s)"),
    one("G4C-K021", "a unary operator between tiles", "a binary operator",
        "nisa.scalar_tensor_tensor(a, a, nl.add, 1.0, nl.abs, b)",
        "nisa.scalar_tensor_tensor(a, a, nl.add, 1.0, nl.subtract, b)"),
    one("G4C-K019", "abs_max in a scan on trn2", "available from NeuronCore-v4 on",
        "nisa.tensor_tensor_scan(a, b, c, 0.0, nl.abs_max, nl.add)",
        "nisa.tensor_tensor_scan(a, b, c, 0.0, nl.maximum, nl.add)"),
    one("G4C-K018", "hwdge triggered by GpSimd", "sync and scalar",
        "nisa.dma_copy(a, x, dge_mode=nisa.dge_mode.hwdge, engine=GPSIMD)",
        "nisa.dma_copy(a, x, dge_mode=nisa.dge_mode.swdge, engine=GPSIMD)"),
    one("G4C-K008", "rsqrt of PSUM in the second stage", "GpSimd Engine cannot access PSUM",
        "nisa.tensor_scalar(a, p, nl.add, 1.0, op1=nl.rsqrt, operand1=None)",
        "nisa.tensor_scalar(a, filled((128, 64), value=1), nl.add, 1.0, op1=nl.rsqrt, operand1=None)"),
    one("G4C-K008", "an identity in HBM", "an identity is made in SBUF", "nl.shared_identity_matrix(64, dst=x[:64, :])",
        "nl.shared_identity_matrix(64, dst=a[:64, :])"),
]  # fmt: skip

TYPES = [
    one("G4C-K010", "arithmetic on a packed tile", "operands of MX matmuls only",
        "nisa.tensor_copy(a, i.view(nl.float8_e5m2_x4))", "nisa.tensor_copy(a, i)"),
    one("G4C-K010", "a load that casts a packed tile", "moved, not cast",
        "nisa.dma_copy(packed, x)", "nisa.dma_copy(packed, i.view(nl.float8_e5m2_x4))",
        before="packed = a.view(nl.float8_e5m2_x4)"),
    one("G4C-K010", "a matmul as transpose of integers", "stationary is int32",
        "nisa.nc_matmul(q, i[:64, :], nl.shared_identity_matrix(64, nl.int32), is_transpose=True)",
        "nisa.nc_matmul(p[:64, :], a[:64, :], nl.shared_identity_matrix(64, nl.float32), is_transpose=True)",
        before="q = filled((64, 64), nl.int32, nl.psum)"),
    one("G4C-K010", "the identity of another type", "fp32 and tf32 go only with",
        "nisa.nc_matmul(p[:64, :], a[:64, :], nl.shared_identity_matrix(64, nl.bfloat16), is_transpose=True)",
        "nisa.nc_matmul(p[:64, :], a[:64, :], nl.shared_identity_matrix(64, nl.float32), is_transpose=True)"),
    one("G4C-K017", "a column of bits of fewer partitions", "one element for each of 128 partitions",
        "nisa.tensor_scalar(i, i, nl.bitwise_and, i[:64, 0:1])", "nisa.tensor_scalar(i, i, nl.bitwise_and, i[:, 0:1])"),
    one("G4C-K017", "a tile as a column of bits", "one element for each of 128 partitions",
        "nisa.tensor_scalar(i, i, nl.bitwise_and, i)", "nisa.tensor_tensor(i, i, i, nl.bitwise_and)"),
    one("G4C-K026", "a sum of int32 over a row", "of 32-bit integers is rounded",
        "nisa.tensor_reduce(i[:, 0:1], nl.add, n[:, :63], axis=1)",
        "nisa.tensor_reduce(i[:, 0:1], nl.add, n[:, :55], axis=1)",
        before="n = filled((128, 64), nl.int32, value=300001)"),
    one("G4C-K026", "a number beyond 2^24", "operand0=16777217",
        "nisa.tensor_scalar(i, i, nl.maximum, 2**24 + 1)", "nisa.tensor_scalar(i, i, nl.maximum, 2**24)"),
    one("G4C-K026", "a load that casts", "holds 16777217", "nisa.dma_copy(a, n)", "nisa.dma_copy(i, n)",
        before="n = filled((128, 64), nl.int32, value=2**24 + 1)"),
]  # fmt: skip

ARGUMENTS = [
    one("G4C-K002", "an axis that data does not have", "dimensions that data has",
        "nisa.tensor_reduce(s, nl.add, a, axis=3)", "nisa.tensor_reduce(s, nl.add, a, axis=-1)"),
    one("G4C-K017", "indices in one partition", "one index per partition",
        "nisa.dma_copy(a[:16, :], x.ap([[64, 16], [1, 64]], vector_offset=i[0:1, 0:16]))",
        "nisa.dma_copy(a[:16, :], x.ap([[64, 16], [1, 64]], vector_offset=i[0:16, 0:1]))"),
    one("G4C-K002", "indices of 8 bits", "an int32 or uint32 tile",
        "x.ap([[64, 16], [1, 64]], vector_offset=u[:16, 0:1])", "x.ap([[64, 16], [1, 64]], vector_offset=i[:16, 0:1])"),
    one("G4C-K002", "ones and zeros that are others", "is_moving_onezero, but moving holds 2",
        "nisa.nc_matmul(p[:64, :], a, filled((128, 64), value=2), is_moving_onezero=True, accumulate=False)",
        "nisa.nc_matmul(p[:64, :], a, filled((128, 64), value=1), is_moving_onezero=True, accumulate=False)"),
    one("G4C-K006", "a shuffle of 64 partitions from 96", "64 partitions are shuffled",
        "nisa.nc_stream_shuffle(a[96:128, :], b[:64, :], [0] * 32)",
        "nisa.nc_stream_shuffle(a[96:128, :], b[:32, :], [0] * 32)"),
    one("G4C-K010", "immediates of two types", "share one type",
        "nisa.activate2(a, nl.exp, b, s, h[:, 0:1], nl.multiply, nl.add)",
        "nisa.activate2(a, nl.exp, b, s, s, nl.multiply, nl.add)", "trn3"),
    one("G4C-K010", "a maximum in an integer", "reduce_res is int32",
        "nisa.select_reduce(a, u, b, 0.0, reduce_res=i[:, 0:1], reduce_cmd=nisa.reduce_cmd.reset_reduce)",
        "nisa.select_reduce(a, u, b, 0.0, reduce_res=h[:, 0:1], reduce_cmd=nisa.reduce_cmd.reset_reduce)"),
    one("G4C-K007", "max8 of four dimensions", "at most 3 dimensions",
        "nisa.max8(a[:, :8], b.reshape((128, 4, 4, 4)))", "nisa.max8(a[:, :8], b.reshape((128, 16, 4)))"),
    one("G4C-K002", "a column as the fill of affine_select", "a compile-time number",
        "nisa.affine_select(a, [[1, 64]], 0, b, s)", "nisa.affine_select(a, [[1, 64]], 0, b, 1.0)"),
    one("G4C-K002", "a step of half an element", "are integers", "nisa.iota(a, [[1, 64]], channel_multiplier=0.5)",
        "nisa.iota(a, [[1, 64]], channel_multiplier=2.0)"),
    one("G4C-K002", "a flag that is a tile", "True, False or None", "nisa.nc_matmul(p[:64, :], a, b, accumulate=s)",
        "nisa.nc_matmul(p[:64, :], a, b, accumulate=False)"),
    one("G4C-K002", "a flat pattern", "iota: cannot unpack", "nisa.iota(a, [1, 64])", "nisa.iota(a, [[1, 64]])"),
    one("G4C-K002", "skip with static addresses", "only run-time addresses",
        "nisa.dma_compute(a, [b, c], nl.add, oob_mode=nisa.oob_mode.skip)", "nisa.dma_compute(a, [b, c], nl.add)"),
    one("G4C-K002", "sums of two other tiles scattered", "dst is a source",
        "nisa.dma_compute(rows, [a[:16, :], b[:16, :]], nl.add)", "nisa.dma_compute(rows, [a[:16, :], rows], nl.add)",
        before="n = filled((16, 1), nl.int32); nisa.iota(n, [[1, 1]], channel_multiplier=1); "
        "rows = x.ap([[64, 16], [1, 64]], vector_offset=n)"),
    one("G4C-K002", "a register of 33 bits", "registers have 32 bits", "nisa.register_alloc(2**31 * two)",
        "nisa.register_alloc(2**30 * two)", before="two = len((1, 1))"),
    one("G4C-K001", "a sum in Python", "unsupported operand", "a + b", "nl.add(a, b)"),
    one("G4C-K001", "numpy's sum", "tensors are run-time data", "np.sum(a)", "nisa.tensor_reduce(s, nl.add, a, 1)"),
    one("G4C-K020", "an instruction that is not there", "did you mean nisa.tensor_scalar?", "nisa.tensor_scala(a, a)",
        "nisa.tensor_scalar(a, a, nl.add, 1.0)"),
]  # fmt: skip

CASES = (
    PARTITIONS
    + OPERATORS
    + TYPES
    + ARGUMENTS
    + [
        Case(
            "G4C-K015",
            "a register past the end of a dimension of HBM",
            "indices are below 64",
            """
          a = filled((64, 1))
        - column = nisa.register_alloc(64)
        + column = nisa.register_alloc(63)
          nisa.dma_copy(dst=a, src=x[0:64, nl.ds(column, 1)])  # !
        """,
        ),
        Case(
            "G4C-K015",
            "a tile as the index of a slice",
            "indices are below 64",
            """
          a, row = filled((1, 64)), filled((1, 1), nl.int32, value=100)
        - y = x[0:64, :]
        + y = x[0:128, :]
          nisa.dma_copy(dst=a, src=y.select(0, row))  # !
        """,
        ),
        Case(
            "G4C-K015",
            "the last turn of a run-time loop",
            "run-time index 57",
            """
          def kernel(x):
              a, b = filled((128, 64)), filled((128, 8))

              def body(i):
                  nisa.tensor_copy(dst=b, src=a.ap([[64, 128], [1, 8]], scalar_offset=i, indirect_dim=1))  # !

        -     nl.fori_loop(0, 58, body)
        +     nl.fori_loop(0, 57, body)
        """,
        ),
        Case(
            "G4C-K005",
            "a bank known at run time",
            "spans PSUM banks 0 to 1",
            """
          w, p = filled((128, 128)), nl.ndarray((128, 1024), nl.float32, buffer=nl.psum)
        - start = nisa.register_alloc(500)
        + start = nisa.register_alloc(512)
          nisa.nc_matmul(p[:, nl.ds(start, 128)], w, w, accumulate=False)  # !
        """,
        ),
        Case(
            "G4C-K012",
            "a transpose that accumulates",
            "a transpose overwrites",
            """
          w, p = filled((128, 128)), nl.ndarray((128, 128), nl.float32, buffer=nl.psum)
          eye = nl.shared_identity_matrix(128, nl.float32)
          nisa.nc_matmul(p, w, w, accumulate=False)
        - nisa.nc_matmul(p, w, eye, is_transpose=True, accumulate=True)  # !
        + nisa.nc_matmul(p, w, eye, is_transpose=True, accumulate=False)
        """,
        ),
        Case(
            "G4C-K013",
            "a NaN beside it",
            "nl.sqrt of -1",
            """
          a, b = filled((128, 64), value=1), filled((128, 64))
          nisa.memset(a[:, 0:1], float("nan"))
        - nisa.memset(a[:, 1:2], -1.0)
          nisa.activation(b, nl.sqrt, a)  # !
        """,
        ),
        Case(
            "G4C-K003",
            "tiles that are loaded first and used one after another",
            "4 tiles that live",
            """
          total = filled((128, 64))
        - tiles = [nl.ndarray((128, 18000), nl.float32, buffer=nl.sbuf) for _ in range(3)]  # !
        + tiles = [nl.ndarray((128, 17000), nl.float32, buffer=nl.sbuf) for _ in range(3)]
          for tile in tiles:
              nisa.dma_copy(dst=tile[:, :64], src=x)
          for tile in tiles:
              nisa.tensor_tensor(dst=total, data1=total, data2=tile[:, :64], op=nl.add)
        """,
        ),
        Case(
            "G4C-K003",
            "placed tiles that take turns, and one beside them",
            "tiles that live at instruction",
            """
          a, b = [nl.ndarray((128, 27000), nl.float32, buffer=nl.sbuf, address=(0, 0)) for _ in range(2)]
        - c = nl.ndarray((128, 27000), nl.float32, buffer=nl.sbuf)  # !
        + c = nl.ndarray((128, 26000), nl.float32, buffer=nl.sbuf)
          for tile in (a, b, c, a, b):
              nisa.memset(tile, 0.0)
              nisa.tensor_scalar(tile, tile, nl.add, 1.0)
          nisa.tensor_scalar(c, c, nl.add, 1.0)
        """,
        ),
        Case(
            "G4C-K004",
            "placed banks that take turns, and one beside them",
            "8 banks",
            """
          banks = [nl.ndarray((128, 512), nl.float32, buffer=nl.psum, address=(0, 2048 * n)) for n in range(8)]
        - last = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)  # !
        + last = nl.ndarray((128, 512), nl.float32, buffer=nl.psum, address=(0, 0))
          for bank in (*banks, last, *banks, last):
              nisa.memset(bank, 0.0)
        """,
        ),
        Case(
            "G4C-K027",
            "a chain over more partitions than it started with",
            "a chain starts with reset_reduce on all partitions",
            """
          a, s, cmd = filled((128, 64)), filled((128, 1)), nisa.reduce_cmd
        - nisa.activation(a[:64], nl.exp, a[:64], reduce_op=nl.add, reduce_cmd=cmd.reset_reduce)
        + nisa.activation(a, nl.exp, a, reduce_op=nl.add, reduce_cmd=cmd.reset_reduce)
          nisa.activation(a, nl.exp, a, reduce_op=nl.add, reduce_res=s, reduce_cmd=cmd.reduce)  # !
        """,
        ),
        Case(
            "G4C-K027",
            "a chain that goes on with other partitions",
            "of partitions 32 to 63, but the chain is one of 32 partitions from 0",
            """
          a, s, cmd = filled((128, 64)), filled((128, 1)), nisa.reduce_cmd
          nisa.activation(a[:32], nl.exp, a[:32], reduce_op=nl.add, reduce_cmd=cmd.reset_reduce)
        + nisa.activation(a[32:64], nl.exp, a[32:64], reduce_op=nl.add, reduce_cmd=cmd.reset_reduce)
          nisa.activation(a[32:64], nl.exp, a[32:64], reduce_op=nl.add, reduce_res=s[32:64], reduce_cmd=cmd.reduce)  # !
        """,
        ),
        *(
            Case("G4C-K014", f"{what} as an output", "outputs are tensors", body)
            for what, body in (
                (
                    "a dictionary",
                    """
                - def kernel(x):  # !
                + def kernel(x):
                      out = output((128, 64))
                      nisa.dma_copy(out, x)
                -     return {"out": out}
                +     return out
                """,
                ),
                (
                    "a number",
                    """
                - def kernel(x):  # !
                + def kernel(x):
                      out = output((128, 64))
                      nisa.dma_copy(out, x)
                -     return out, 64
                +     return out, out
                """,
                ),
            )
        ),
    ]
)
