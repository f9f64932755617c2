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
            "set()",
            "the type set",
            """
            - sizes = set([64, 32])  # !
            + sizes = [64, 32]
            """,
        ),
        (
            "complex()",
            "the type complex",
            """
            - value = complex(1, 2)  # !
            + value = (1, 2)
            """,
        ),
        (
            "a power of two beyond 32 bits",
            "the 64-bit integer 1099511627776",
            """
            - mask = 2**40  # !
            + mask = 2**32 - 1
            """,
        ),
        (
            "a shift beyond 32 bits",
            "the 64-bit integer 8589934592",
            """
            - mask = 1 << 33  # !
            + mask = 1 << 31
            """,
        ),
        (
            "keys that are counted",
            "keys that are not strings",
            """
            - sizes = {n: 64 for n in range(3)}  # !
            + sizes = {str(n): 64 for n in range(3)}
            """,
        ),
        (
            "a keyword-only parameter of a lambda",
            "keyword-only parameters",
            """
            - rows = (lambda *, n=1: n)()  # !
            + rows = (lambda n=1: n)()
            """,
        ),
        (
            "an integer key that is added",
            "keys that are not strings",
            """
              sizes = {}
            - sizes[0] = 64  # !
            + sizes["0"] = 64
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
    Case(
        "G4C-K001",
        "a second base that is no NKIObject",
        "classes derive from nl.NKIObject",
        """
          def kernel(x):
              filled(Sizes().shape)  # !


        - class Rows:
        + class Rows(nl.NKIObject):
              shape = (1, 1)


        - class Sizes(nl.NKIObject, Rows):
        + class Sizes(Rows):
              pass
        """,
    ),
    Case(
        "G4C-K001",
        "slots",
        "slots and metaclasses",
        """
          def kernel(x):
              filled(Sizes().shape)  # !


          class Sizes(nl.NKIObject):
        -     __slots__ = ()
              shape = (1, 1)
        """,
    ),
    Case(
        "G4C-K001",
        "try in a method",
        "shape uses try",
        """
          def kernel(x):
              filled(Sizes().shape())


          class Sizes(nl.NKIObject):
              def shape(self):
        -         try:  # !
        -             return (1, 1)
        -         finally:
        -             pass
        +         return (1, 1)
        """,
    ),
    Case(
        "G4C-K001",
        "a set in a function that is passed on",
        "body uses a set",
        """
          def kernel(x):
              run(body)


          def run(function):
              function()


          def body():
        -     sizes = {64, 32}  # !
        +     sizes = (64, 32)
        """,
    ),
]
