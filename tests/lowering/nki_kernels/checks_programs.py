"""Checks of programs: size, registers, accumulators, pairs of programs, what is not simulated."""

from __future__ import annotations

from check_case import Case, one

SIZE = [
    Case(
        "G4C-K016",
        "one instruction too many",
        "loops are unrolled",
        """
          a = filled((1, 1))
        - for _ in range(100):
        + for _ in range(99):
              nisa.tensor_copy(dst=a, src=a)  # !
        """,
        limit=100,
    )
]

REGISTERS = [
    Case("G4C-K025", what, says, body)
    for what, says, body in (
        (
            "65 registers",
            "a sequencer has 64",
            """
            - for _ in range(1):
            -     held = [nisa.register_alloc(n) for n in range(65)]  # !
            + for _ in range(2):
            +     held = [nisa.register_alloc(n) for n in range(64)]
            +     held = None
            """,
        ),
        (
            "the register of a loop is written",
            "a loop controls its own register",
            """
              other = nisa.register_alloc(0)
              for i in nl.dynamic_range(3):
            -     nisa.register_move(i, other)  # !
            +     nisa.register_move(other, i)
            """,
        ),
        (
            "a step that is a register",
            "a positive compile-time integer",
            """
              step = nisa.register_alloc(1)
            - nl.fori_loop(0, 4, filled_row, step=step)  # !
            + nl.fori_loop(0, step, filled_row, step=1)
            """,
        ),
        (
            "a loop inside of no_reorder",
            "put no_reorder inside of the loop",
            """
            - with nl.no_reorder():
            -     nl.fori_loop(0, 4, filled_row)  # !
            + nl.fori_loop(0, 4, filled_row)
            """,
        ),
        (
            "a tile of a loop's turn after the loop",
            "is used outside it",
            """
              a, made = filled((1, 64)), []

              def body(i):
                  tile = filled((1, 64))
                  nisa.tensor_tensor(a, a, tile, nl.add)
                  made.append(tile)

              nl.fori_loop(0, 4, body)
            - nisa.tensor_copy(a, made[0])  # !
            + nisa.tensor_copy(filled((1, 64)), a)
            """,
        ),
        (
            "a tile of the turn before",
            "is used outside it",
            """
              before = filled((1, 64))
              for i in nl.dynamic_range(3):
                  tile = filled((1, 64))
                  nisa.tensor_copy(tile, before)  # !
            -     before = tile
            +     nisa.tensor_scalar(before, tile, nl.add, 1.0)
            """,
        ),
        (
            "an instruction of registers on a number",
            "a register from nisa.register_alloc",
            """
              a = filled((1, 1), nl.int32)
            - nisa.register_load(0, a)  # !
            + nisa.register_load(nisa.register_alloc(), a)
            """,
        ),
        (
            "while_loop that starts with a number",
            "starts with int",
            """
            - nl.while_loop(0, same)  # !
            + nl.while_loop(nisa.register_alloc(0), same)
            """,
        ),
    )
]

ACCUMULATORS = [
    one("G4C-K027", what, says, f"{before}; {broken}", f"{before}; {correct}", target)
    for what, says, before, broken, correct, target in (
        (
            "a chain that nothing starts",
            "the accumulators hold nothing",
            "cmd = nisa.reduce_cmd",
            "nisa.activation(a, nl.exp, b, reduce_op=nl.add, reduce_res=s, reduce_cmd=cmd.reduce)",
            "nisa.activation(a, nl.exp, b, reduce_op=nl.add, reduce_res=s, reduce_cmd=cmd.reset_reduce)",
            "trn2",
        ),
        (
            "reduce_res of an activation that does not reduce",
            "the default reduce_cmd does not reduce",
            "cmd = nisa.reduce_cmd",
            "nisa.activation(a, nl.exp, b, reduce_op=nl.add, reduce_res=s)",
            "nisa.activation(a, nl.exp, b)",
            "trn2",
        ),
        (
            "a chain with another instruction between",
            "let no other user of the registers come between",
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s)",
            "nisa.range_select(c, b, nl.less, nl.less, s, s); "
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s, reduce_cmd=nisa.reduce_cmd.reduce)",
            "nisa.tensor_reduce(s, nl.add, b, 1); "
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s, reduce_cmd=nisa.reduce_cmd.reduce)",
            "trn2",
        ),
        (
            "a chain that goes on with another operator",
            "the accumulators hold a reduction of nisa.tensor_scalar_reduce with nl.add",
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s)",
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.maximum, s, reduce_cmd=nisa.reduce_cmd.reduce)",
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s, reduce_cmd=nisa.reduce_cmd.reduce)",
            "trn2",
        ),
        (
            "a chain disturbed by select_reduce that does not reduce",
            "since broken.py",
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s)",
            "nisa.select_reduce(c, u, b, 0.0); "
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s, reduce_cmd=nisa.reduce_cmd.reduce)",
            "nisa.activation(c, nl.exp, b); "
            "nisa.tensor_scalar_reduce(a, b, nl.add, 0.0, nl.add, s, reduce_cmd=nisa.reduce_cmd.reduce)",
            "trn2",
        ),
        (
            "a chain of activations disturbed by activate2",
            "a reduction of nisa.activate2",
            "cmd = nisa.reduce_cmd; nisa.activation(a, nl.exp, b, reduce_op=nl.add, reduce_cmd=cmd.reset_reduce)",
            "nisa.activate2(c, nl.exp, b, 1, 0, nl.multiply, nl.add, reduce_op=nl.add, reduce_cmd=cmd.reset_reduce); "
            "nisa.activation(a, nl.exp, b, reduce_op=nl.add, reduce_res=s, reduce_cmd=cmd.reduce)",
            "nisa.exponential(c, b); "
            "nisa.activation(a, nl.exp, b, reduce_op=nl.add, reduce_res=s, reduce_cmd=cmd.reduce)",
            "trn3",
        ),
    )
]

PAIRS = [
    Case(code, what, says, body, grid=2)
    for code, what, says, body in (
        (
            "G4C-K024",
            "a barrier that one program does not reach",
            "does not reach",
            """
              out = output((2, 64))
              me = nl.program_id(0)
              nisa.dma_copy(dst=out[me : me + 1, :], src=x[me : me + 1, :])
            - if me == 0:
            + if me < 2:
                  nisa.core_barrier(out, (0, 1))  # !
              return out
            """,
        ),
        (
            "G4C-K024",
            "shared tensors of different shapes",
            "both programs allocate the same shared tensors",
            """
              me = nl.program_id(0)
            - out = nl.ndarray((2 + me, 64), dtype=nl.float32, buffer=nl.shared_hbm)  # !
            + out = nl.ndarray((2, 64), dtype=nl.float32, buffer=nl.shared_hbm)
              nisa.dma_copy(dst=out[me : me + 1, :], src=x[me : me + 1, :])
              return out
            """,
        ),
        (
            "G4C-K024",
            "a sendrecv with itself",
            "exchange with each other",
            """
              me = nl.program_id(0)
              a, b = filled((128, 64)), filled((128, 64))
            - nisa.sendrecv(a, b, send_to_rank=me, recv_from_rank=me, pipe_id=0)  # !
            + nisa.sendrecv(a, b, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=0)
            """,
        ),
        (
            "G4C-K024",
            "a sendrecv of different tiles",
            "equal tiles",
            """
              me = nl.program_id(0)
            - a, b = filled((128, 64 - me)), filled((128, 64 - me))
            + a, b = filled((128, 64)), filled((128, 64))
              nisa.sendrecv(a, b, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=0)  # !
            """,
        ),
        (
            "G4C-K024",
            "pipes that do not match",
            "waits in sendrecv",
            """
              me = nl.program_id(0)
              a, b = filled((128, 64)), filled((128, 64))
            - nisa.sendrecv(a, b, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=me)  # !
            + nisa.sendrecv(a, b, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=0)
            """,
        ),
        (
            "G4C-K029",
            "the other half before the barrier",
            "nisa.core_barrier on the tensor orders",
            """
              out, half = output((2, 64)), output((2, 64))
              me = nl.program_id(0)
              nisa.dma_copy(dst=half[me : me + 1, :], src=x[me : me + 1, :])
            - nisa.dma_copy(dst=out[me : me + 1, :], src=half[1 - me : 2 - me, :])  # !
            + nisa.core_barrier(half, (0, 1))
            + nisa.dma_copy(dst=out[me : me + 1, :], src=half[1 - me : 2 - me, :])
              return out
            """,
        ),
        (
            "G4C-K029",
            "different values in one place",
            "else they write disjoint parts",
            """
              out, row = output((1, 64)), filled((1, 64))
              me = nl.program_id(0)
            - nisa.memset(dst=row, value=me + 1.0)
            - nisa.dma_copy(dst=out, src=row)  # !
            + nisa.dma_copy(dst=out[:, me * 32 : me * 32 + 32], src=row[:, :32])
              return out
            """,
        ),
        (
            "G4C-K029",
            "rows of the other half, gathered",
            "not written by this program, nor before a barrier",
            """
              out, half = output((2, 64)), output((2, 64))
              me = nl.program_id(0)
              nisa.dma_copy(dst=half[me : me + 1, :], src=x[me : me + 1, :])
              a, index = filled((1, 64)), filled((1, 1), nl.int32, value=1 - me)
            + nisa.core_barrier(half, (0, 1))
              nisa.dma_copy(dst=a, src=half.ap([[64, 1], [1, 64]], vector_offset=index))  # !
              nisa.dma_copy(dst=out[me : me + 1, :], src=a)
              return out
            """,
        ),
        (
            "G4C-K029",
            "both halves, of which one is masked",
            "not written by this program, nor before a barrier",
            """
              out, both = output((2, 64)), output((1, 128))
              me = nl.program_id(0)
              nisa.dma_copy(dst=both[:, me * 64 : me * 64 + 64], src=x[me : me + 1, :])
              a = filled((1, 128))
              nisa.dma_copy(dst=a, src=both)  # !
            - nisa.affine_select(a, [[1, 128]], 0, a, 0.0, nl.greater_equal, offset=-64 * (1 - me))
            + nisa.affine_select(a, [[1, 128]], 0, a, 0.0, [nl.less, nl.greater_equal][me], offset=-64)
              nisa.dma_copy(dst=out[me : me + 1, :], src=a[:, 0:64] if me == 0 else a[:, 64:128])
            - nisa.dma_copy(dst=out[me : me + 1, :], src=a[:, 64:128] if me == 0 else a[:, 0:64])
              return out
            """,
        ),
    )
] + [
    one(
        "G4C-K024",
        "sendrecv in one program",
        "launch it with kernel[2]",
        "nisa.sendrecv(a, b, send_to_rank=1, recv_from_rank=1, pipe_id=0)",
        "nisa.tensor_copy(dst=b, src=a)",
    )
]

ABSENT = [
    one("G4C-K020", *rest)
    for rest in (
        ("random numbers", "random numbers", "nisa.rng(dst=i)", "nisa.iota(dst=i, pattern=[[1, 64]])"),
        ("nl.rand", "random numbers are not simulated", "nl.rand((1, 1), nl.float32)", "nl.zeros((1, 1), nl.float32)"),
        (
            "MX formats",
            "MX formats",
            "nisa.quantize_mx(dst=a, src=h, dst_scale=u)",
            "nisa.tensor_copy(dst=a, src=h)",
            "trn3",
        ),
        (
            "collectives",
            "a kernel runs on one logical core",
            "ncc.all_reduce([a], [b], ncc.ReplicaGroup([[0, 1]]), nl.add)",
            "nisa.tensor_copy(dst=b, src=a)",
        ),
        ("division", "multiply by nl.reciprocal", "nl.divide(a, b)", "nl.multiply(a, b)"),
        ("a matmul that does not compile", "pass x transposed", "nl.matmul(a, b)", "nl.matmul(a, b, transpose_x=True)"),
        ("assignment", "write with an instruction", "a[0:1, :] = b", "nisa.tensor_copy(dst=a[0:1, :], src=b[0:1, :])"),
        ("nl.arange", "before NKI 0.3", "nl.arange(4)", "nl.ds(0, 4)"),
        ("nl.mgrid", "before NKI 0.3", "nl.mgrid[0:4]", "nl.ds(0, 4)"),
        ("nl.par_dim", "before NKI 0.3", "nl.par_dim(4)", "nl.ds(0, 4)"),
    )
]

CASES = SIZE + REGISTERS + ACCUMULATORS + PAIRS + ABSENT
