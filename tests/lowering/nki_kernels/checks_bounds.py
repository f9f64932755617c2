"""Checks of outputs, bounds, and addresses that overlap."""

from __future__ import annotations

from check_case import Case

CASES = [
    # Outputs.
    *(
        Case(
            "G4C-K014",
            f"an output in {buffer}",
            "buffer=nl.shared_hbm",
            f"""
            - out = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.{buffer})  # !
            + out = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.shared_hbm)
              nisa.dma_copy(dst=out, src=x)
              return out
            """,
        )
        for buffer in ("private_hbm", "hbm", "sbuf")
    ),
    Case(
        "G4C-K014",
        "a row that is not written",
        "every element of an output is written",
        """
        - out = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.shared_hbm)  # !
        + out = nl.ndarray((127, 64), dtype=nl.float32, buffer=nl.shared_hbm)
          nisa.dma_copy(dst=out[:127, :], src=x[:127, :])
          return out
        """,
    ),
    Case(
        "G4C-K014",
        "one of two outputs is not written",
        "128 elements of the output",
        """
          first = output((128, 1))
          second = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.shared_hbm)  # !
          nisa.dma_copy(dst=first, src=x[:, :1])
        - nisa.dma_copy(dst=first, src=x[:, 1:2])
        + nisa.dma_copy(dst=second, src=x[:, 1:2])
          return first, second
        """,
    ),
    # Bounds.
    Case(
        "G4C-K015",
        "a slice past the end",
        "clamp the bounds of tails",
        """
          a = filled((128, 64))
        - nisa.tensor_copy(dst=a[:, 0:8], src=a[:, 60:68])  # !
        + nisa.tensor_copy(dst=a[:, 0:4], src=a[:, 60:64])
        """,
    ),
    Case(
        "G4C-K015",
        "nl.ds past the end",
        "clamp the bounds of tails",
        """
          a = filled((128, 64))
        - nisa.tensor_copy(dst=a[:, 0:8], src=a[:, nl.ds(57, 8)])  # !
        + nisa.tensor_copy(dst=a[:, 0:8], src=a[:, nl.ds(56, 8)])
        """,
    ),
    Case(
        "G4C-K015",
        "an empty slice",
        "0 <= start < stop <= size",
        """
          a = filled((128, 64))
        - nisa.memset(dst=a[:, 8:8], value=0.0)  # !
        + nisa.memset(dst=a[:, 8:9], value=0.0)
        """,
    ),
    Case(
        "G4C-K015",
        "an index past the end",
        "index 128 in dimension 0 of size 128",
        """
          a = filled((1, 64))
        - nisa.dma_copy(dst=a, src=x[128, :])  # !
        + nisa.dma_copy(dst=a, src=x[-1, :])
        """,
    ),
    Case(
        "G4C-K015",
        "an access pattern past the end of a partition",
        "bytes 4..259 of 128 partitions of 256 bytes",
        """
          a, b = filled((128, 64)), filled((128, 64))
        - nisa.tensor_copy(dst=b, src=a.ap([[64, 128], [1, 64]], offset=1))  # !
        + nisa.tensor_copy(dst=b, src=a.ap([[64, 128], [1, 64]], offset=0))
        """,
    ),
    Case(
        "G4C-K015",
        "an access pattern past the end of HBM",
        "an access pattern reaches",
        """
          a = filled((128, 64))
        - nisa.dma_copy(dst=a, src=x.ap([[65, 128], [1, 64]]))  # !
        + nisa.dma_copy(dst=a, src=x.ap([[64, 128], [1, 64]]))
        """,
    ),
    Case(
        "G4C-K015",
        "a run-time index past the end",
        "run-time index 64",
        """
        - index = filled((1, 1), nl.int32, value=64)
        + index = filled((1, 1), nl.int32, value=63)
          a = filled((128, 64))
          nisa.tensor_copy(dst=a[:, 0:1], src=a.ap([[64, 128], [1, 1]], scalar_offset=index, indirect_dim=1))  # !
        """,
    ),
    Case(
        "G4C-K015",
        "a negative run-time index of a DMA",
        "run-time index -1",
        """
          index = filled((1, 1), nl.int32, value=-1)
          a = filled((1, 64))
          row = x.ap([[64, 1], [1, 64]], scalar_offset=index, indirect_dim=0)
        - nisa.dma_copy(dst=a, src=row)  # !
        + nisa.dma_copy(dst=a, src=row, oob_mode=nisa.oob_mode.skip)
        """,
    ),
    Case(
        "G4C-K015",
        "a vector of indices past the end",
        "index 128 of a vector of indices",
        """
          index = filled((16, 1), nl.int32, value=128)
          a = filled((16, 64))
          rows = x.ap([[64, 16], [1, 64]], vector_offset=index)
        - nisa.dma_copy(dst=a, src=rows)  # !
        + nisa.dma_copy(dst=a, src=rows, oob_mode=nisa.oob_mode.skip)
        """,
    ),
    Case(
        "G4C-K015",
        "a scatter past the end",
        "index 16 of a vector of indices",
        """
          out = output((16, 64))
          nisa.dma_copy(dst=out, src=x[:16, :])
        - index = filled((16, 1), nl.int32, value=16)
        + index = filled((16, 1), nl.int32, value=15)
          a = filled((16, 64))
          nisa.dma_copy(dst=out.ap([[64, 16], [1, 64]], vector_offset=index), src=a)  # !
          return out
        """,
    ),
    Case(
        "G4C-K015",
        "a gather in a partition past its end",
        "index 64 of 64 elements",
        """
          a, b = filled((128, 64)), filled((128, 2))
        - index = filled((128, 2), nl.uint32, value=64)
        + index = filled((128, 2), nl.uint32, value=63)
          nisa.nc_n_gather(dst=b, data=a, indices=index)  # !
        """,
    ),
    # Addresses that overlap.
    Case(
        "G4C-K022",
        "two tiles at one address",
        "disjoint addresses",
        """
          out = output((128, 64))
          a = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 0))
          nisa.dma_copy(dst=a, src=x)
        - b = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 252))
        + b = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 256))
          nisa.memset(dst=b, value=0.0)
          nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)  # !
          nisa.dma_copy(dst=out, src=a)
          return out
        """,
    ),
    Case(
        "G4C-K022",
        "two tiles in one bank",
        "was overwritten through another tile at the same address",
        """
          out = output((128, 64))
          w = filled((128, 64))
          a = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum, address=(0, 2048))
          nisa.nc_matmul(dst=a, stationary=w, moving=w, accumulate=False)
        - b = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum, address=(0, 2048))
        + b = nl.ndarray((64, 64), dtype=nl.float32, buffer=nl.psum, address=(64, 2048))
          nisa.nc_matmul(dst=b, stationary=w, moving=w, accumulate=False)
          nisa.tensor_copy(dst=w[:64, :], src=a)  # !
          nisa.tensor_copy(dst=w[64:, :], src=b)
          nisa.dma_copy(dst=out, src=w)
          return out
        """,
    ),
]
