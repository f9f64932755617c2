"""Cases of the simulator's strict checks: a kernel that breaks a rule, and its neighbor that does not.

In: a body in the manner of a diff: lines with `-` are of the broken kernel only, lines with `+` of the correct one.
Out: both kernels as source text. The line that the refusal has to name ends in `# !`.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

import numpy as np

from g4c.lowering.nki.simulator import Kernel
from g4c.lowering.nki.simulator.source import load

HEADER = '''
import nki
import nki.collectives as ncc
import nki.isa as nisa
import nki.language as nl
import numpy as np

VECTOR, SCALAR, GPSIMD = nisa.engine.vector, nisa.engine.scalar, nisa.engine.gpsimd
TENSOR, SYNC = nisa.engine.tensor, nisa.engine.sync


def filled(shape, dtype=nl.float32, buffer=nl.sbuf, value=0):
    """A tile that is written."""
    tile = nl.ndarray(shape, dtype=dtype, buffer=buffer)
    nisa.memset(dst=tile, value=value if "int" in dtype else float(value))
    return tile


def output(shape, dtype=nl.float32):
    """A tensor that a kernel can return."""
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm)


def filled_row(i):
    """The body of a run-time loop."""
    filled((1, 64))


def same(register):
    """The body of a run-time loop that goes on as long as the register says."""
    return register


@nki.jit
'''
MARK = "# !"


@dataclass(frozen=True)
class Case:
    """`code` is what the broken kernel is refused with, `says` words of the message or of the rule.

    `body` is that of kernel(x), or the whole definition where it starts with `def kernel`. `arguments`: fp32 arrays of
    these shapes, or values. `limit`: the number of instructions a program may have.
    """

    code: str
    what: str
    says: str
    body: str
    target: str = "trn2"
    grid: int | None = None
    arguments: tuple[object, ...] = ((128, 64),)
    limit: int | None = None

    @property
    def name(self) -> str:
        """What pytest shows."""
        return f"{self.code.removeprefix('G4C-')} {self.what}"

    def text(self, sign: str) -> str:
        """The file with the broken (`-`) or with the correct (`+`) kernel."""
        lines = []
        for line in dedent(self.body).strip("\n").split("\n"):
            if line[:2] in ("- ", "+ ") and line[0] != sign:
                continue
            lines.append("  " + line[2:] if line[:2] in ("- ", "+ ") else line)
        body = "\n".join(lines)
        body = dedent(body)
        if not body.startswith("def kernel"):
            body = "def kernel(x):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
        return HEADER + body

    def kernel(self, sign: str) -> Kernel:
        """The broken (`-`) or the correct (`+`) kernel, for the case's target and grid."""
        name = "broken.py" if sign == "-" else "correct.py"
        kernel = load(self.text(sign), "kernel", name).specialize(self.target)
        return kernel if self.grid is None else kernel[self.grid]

    def values(self) -> list[object]:
        """The arguments: ones where a shape is given."""
        return [np.ones(a, np.float32) if isinstance(a, tuple) else a for a in self.arguments]

    def refused_line(self) -> int:
        """The number of the line that the broken kernel marks."""
        marked = [n for n, line in enumerate(self.text("-").split("\n"), 1) if line.rstrip().endswith(MARK)]
        assert len(marked) == 1, f"{self.name}: one line of the broken kernel ends in {MARK}"
        return marked[0]


def one(code: str, what: str, says: str, broken: str, correct: str, target: str = "trn2", before: str = "") -> Case:
    """A case of one instruction. Its operands: tiles `a` to `c` [128, 64] and columns `s` [128, 1] of fp32 in SBUF, `h`
    bf16, `i` int32, `u` uint8, `p` and `r` [128, 64] fp32 in PSUM; `before` makes others."""
    body = (
        "  a, b, c, s = filled((128, 64)), filled((128, 64)), filled((128, 64)), filled((128, 1))\n"
        "  h, i, u = filled((128, 64), nl.bfloat16), filled((128, 64), nl.int32), filled((128, 64), nl.uint8)\n"
        "  p, r = filled((128, 64), buffer=nl.psum), filled((128, 64), buffer=nl.psum)\n"
    )
    body += f"  {before}\n" if before else ""
    return Case(code, what, says, body + f"- {broken}  # !\n+ {correct}", target)
