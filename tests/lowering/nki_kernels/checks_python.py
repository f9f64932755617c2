"""Checks of the Python subset."""

from __future__ import annotations

from check_case import Case

CASES = [
    Case("G4C-K001", what, says, body)
    for what, says, body in (
        (
            "try",
            "uses try",
            """
            - try:  # !
            -     size = 64
            - except ValueError:
            -     size = 32
            + size = 64
            """,
        ),
        (
            "a generator expression",
            "a generator expression",
            """
            - total = sum(n for n in range(3))  # !
            + total = sum([n for n in range(3)])
            """,
        ),
        (
            "yield",
            "a generator (yield)",
            """
              def rows():
            -     yield 1  # !
            +     return [1]
              for row in rows():
                  filled((1, row))
            """,
        ),
        (
            "a set",
            "uses a set",
            """
            - sizes = {64, 32}  # !
            + sizes = (64, 32)
            """,
        ),
        (
            "`is`",
            "use ==",
            """
            - if x.dtype is nl.float32:  # !
            + if x.dtype == nl.float32:
                  filled((1, 1))
            """,
        ),
        (
            "a 64-bit integer",
            "the 64-bit integer 4294967296",
            """
            - bits = 4294967296  # !
            + bits = 4294967295
            """,
        ),
        (
            "a complex number",
            "a complex constant",
            """
            - value = 1j  # !
            + value = 1.0
            """,
        ),
        (
            "bytes",
            "a bytes constant",
            """
            - value = b"x"  # !
            + value = "x"
            """,
        ),
        (
            "a dictionary with integer keys",
            "keys that are not strings",
            """
            - sizes = {0: 64}  # !
            + sizes = {"0": 64}
            """,
        ),
        (
            "match",
            "uses match",
            """
            - match 1:  # !
            -     case 1:
            + if True:
            +     if True:
                      filled((1, 1))
            """,
        ),
        (
            "global",
            "uses global",
            """
            - global count  # !
              count = 1
            """,
        ),
        (
            "a class of its own",
            "a class definition inside of a function",
            """
            - class Sizes:  # !
            -     rows = 1
              filled((1, 1))
            """,
        ),
        (
            "a keyword-only parameter",
            "keyword-only parameters",
            """
            - def kernel(x, *, rows=1):  # !
            + def kernel(x, rows=1):
                    filled((1, rows))
            """,
        ),
        (
            "a tensor as a numpy array",
            "tensors are run-time data",
            """
              a = filled((1, 1))
            - np.asarray(a)  # !
            + nisa.tensor_copy(dst=a, src=a)
            """,
        ),
    )
] + [
    Case(
        "G4C-K001",
        "try in a function that the kernel calls",
        "rows uses try",
        """
          def kernel(x):
              filled((1, rows()))


          def rows():
        -     try:  # !
        -         return 1
        -     finally:
        -         pass
        +     return 1
        """,
    ),
    Case(
        "G4C-K001",
        "a class that is no NKIObject",
        "classes derive from nl.NKIObject",
        """
          def kernel(x):
              filled(Sizes().shape)  # !


        - class Sizes:
        + class Sizes(nl.NKIObject):
              shape = (1, 1)
        """,
    ),
]
