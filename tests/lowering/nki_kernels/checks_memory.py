"""Checks of memory: capacity, banks, undefined elements, accumulation groups."""

from __future__ import annotations

from check_case import Case

CASES = [
    # SBUF: usable bytes per partition are 180224 on v2, 212984 on v3, 245752 on v4.
    Case(
        "G4C-K003",
        "tiles that live at the same time",
        "212984 bytes per partition",
        """
          a = filled((128, 27000))
        - b = nl.ndarray((128, 27000), dtype=nl.float32, buffer=nl.sbuf)  # !
        + b = nl.ndarray((128, 26000), dtype=nl.float32, buffer=nl.sbuf)
          nisa.memset(dst=b, value=0.0)
          nisa.tensor_tensor(dst=a[:, :26000], data1=a[:, :26000], data2=b[:, :26000], op=nl.add)
        """,
    ),
    Case(
        "G4C-K003",
        "a life that a later use prolongs",
        "tiles that live at instruction",
        """
          a = filled((128, 27000))
          nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=1.0)
          b = nl.ndarray((128, 27000), dtype=nl.float32, buffer=nl.sbuf)  # !
          nisa.memset(dst=b, value=0.0)
        - nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=1.0)
        + nisa.tensor_scalar(dst=b, data=b, op0=nl.add, operand0=1.0)
        """,
    ),
    *(
        Case(
            "G4C-K003",
            f"one element more than {target} has",
            f"{size} bytes per partition",
            f"""
            - a = nl.ndarray((128, {size + 1}), dtype=nl.uint8, buffer=nl.sbuf)  # !
            + a = nl.ndarray((128, {size}), dtype=nl.uint8, buffer=nl.sbuf)
              nisa.memset(dst=a, value=0)
            """,
            target,
        )
        for target, size in (("trn1", 180224), ("trn2", 212984), ("trn3", 245752))
    ),
    Case(
        "G4C-K003",
        "an address past the end",
        "usable bytes per partition of SBUF",
        """
        - a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 212736))  # !
        + a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 212728))
          nisa.memset(dst=a, value=0.0)
        """,
    ),
    # PSUM: 8 banks of 2 KiB.
    Case(
        "G4C-K004",
        "nine banks",
        "8 banks",
        """
          w = filled((128, 128))
          banks = [nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum) for _ in range(8)]
          for bank in banks:
              nisa.nc_matmul(dst=bank, stationary=w, moving=w, accumulate=False)
        - last = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)  # !
        + last = banks[0]
          nisa.nc_matmul(dst=last, stationary=w, moving=w, accumulate=False)
          for bank in banks:
              nisa.tensor_copy(dst=w, src=bank)
        """,
    ),
    Case(
        "G4C-K004",
        "an address past the last bank",
        "16384 usable bytes per partition of PSUM",
        """
        - p = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum, address=(0, 16384))  # !
        + p = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum, address=(0, 14336))
          nisa.memset(dst=p, value=0.0)
        """,
    ),
    Case(
        "G4C-K005",
        "a tile that does not start at a bank",
        "a multiple of 2048 bytes",
        """
        - p = nl.ndarray((128, 256), dtype=nl.float32, buffer=nl.psum, address=(0, 1024))  # !
        + p = nl.ndarray((128, 256), dtype=nl.float32, buffer=nl.psum, address=(0, 2048))
          nisa.memset(dst=p, value=0.0)
        """,
    ),
    *(
        Case(
            "G4C-K005",
            f"a matmul into two banks on {target}",
            "writes to one bank of 2048 bytes",
            """
              w, m = filled((128, 128)), filled((128, 512))
              p = nl.ndarray((128, 1024), dtype=nl.float32, buffer=nl.psum)
            - nisa.nc_matmul(dst=p[:, 256:768], stationary=w, moving=m, accumulate=False)  # !
            + nisa.nc_matmul(dst=p[:, 512:1024], stationary=w, moving=m, accumulate=False)
            """,
            target,
        )
        for target in ("trn1", "trn2")
    ),
    # Reads of what nothing has written.
    Case(
        "G4C-K011",
        "a tail that no load covers, as an output",
        "is read but was never written",
        """
          out = output((128, 64))
          a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
        - nisa.dma_copy(dst=a[:, :63], src=x[:, :63])
        + nisa.dma_copy(dst=a, src=x)
          nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=1.0)  # !
          nisa.dma_copy(dst=out, src=a)
          return out
        """,
    ),
    Case(
        "G4C-K011",
        "as an index",
        "is read but was never written",
        """
          a = filled((128, 64))
          index = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
        + nisa.memset(dst=index, value=3)
          nisa.tensor_copy(dst=a[:, 0:1], src=a[:, index].reshape((128, 1)))  # !
        """,
    ),
    Case(
        "G4C-K011",
        "by a sum over a row",
        "is read but was never written",
        """
          out = output((128, 1))
          a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf)
          nisa.dma_copy(dst=a[:, :63], src=x[:, :63])
          s = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
        - nisa.tensor_reduce(dst=s, op=nl.add, data=a, axis=1)  # !
        + nisa.tensor_reduce(dst=s, op=nl.add, data=a[:, :63], axis=1)
          nisa.dma_copy(dst=out, src=s)
          return out
        """,
    ),
    Case(
        "G4C-K011",
        "by the contraction of a matmul",
        "memory holds leftovers until it is written",
        """
          out = output((64, 64))
          a, b = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf), filled((128, 64))
          nisa.memset(dst=a[:64, :], value=1.0)
          p = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum)
        - nisa.nc_matmul(dst=p, stationary=a, moving=b, accumulate=False)  # !
        + nisa.nc_matmul(dst=p, stationary=a[:64, :], moving=b[:64, :], accumulate=False)
          nisa.tensor_copy(dst=b[:64, :], src=p)
          nisa.dma_copy(dst=out, src=b[:64, :])
          return out
        """,
    ),
    Case(
        "G4C-K011",
        "a register that nothing has loaded",
        "load it with nisa.register_load",
        """
          a = filled((1, 1), nl.int32)
          register = nisa.register_alloc()
        + nisa.register_load(register, a)
          nisa.register_store(a, register)  # !
        """,
    ),
    # Accumulation groups.
    Case(
        "G4C-K012",
        "accumulate=True on new PSUM",
        "the first matmul of a group has accumulate=False",
        """
          w = filled((128, 128))
          p = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
          for k in range(2):
        -     nisa.nc_matmul(dst=p, stationary=w, moving=w, accumulate=True)  # !
        +     nisa.nc_matmul(dst=p, stationary=w, moving=w, accumulate=(k > 0))
        """,
    ),
    Case(
        "G4C-K012",
        "accumulate=True beyond what the group covers",
        "were never written",
        """
          w = filled((128, 128))
          p = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
          nisa.nc_matmul(dst=p[:, :64], stationary=w, moving=w[:, :64], accumulate=False)
        - nisa.nc_matmul(dst=p[:, 32:96], stationary=w, moving=w[:, :64], accumulate=True)  # !
        + nisa.nc_matmul(dst=p[:, 32:64], stationary=w, moving=w[:, :32], accumulate=True)
        """,
    ),
    *(
        Case(
            "G4C-K012",
            f"adding to {what} on {target}",
            "another engine",
            f"""
              w = filled((128, 128))
              p = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
            - {writes}
            + nisa.nc_matmul(dst=p, stationary=w, moving=w, accumulate=False)
              nisa.nc_matmul(dst=p, stationary=w, moving=w, accumulate=True)  # !
            """,
            target,
        )
        for target in ("trn1", "trn2")
        for what, writes in (
            ("a memset", "nisa.memset(dst=p, value=0.0)"),
            ("a copy", "nisa.tensor_copy(dst=p, src=w)"),
        )
    ),
    Case(
        "G4C-K012",
        "accumulate=None on a memset that is not zero",
        "another engine",
        """
          w = filled((128, 128))
          p = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.psum)
        - nisa.memset(dst=p, value=1.0)
        + nisa.nc_matmul(dst=p, stationary=w, moving=w)
          nisa.nc_matmul(dst=p, stationary=w, moving=w)  # !
        """,
    ),
]
