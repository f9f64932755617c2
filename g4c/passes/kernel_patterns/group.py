"""The ops of a function that one kernel computes, and what the kernel takes and gives.

In: values and ops of one function. Out: `Group`, of which outline-kernels makes a kernel function and a call.
Invariant: what `ops` read is given by `params`, by `stand_ins`, by constants, or by earlier ones of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.ir.op import Op, Value


@dataclass(frozen=True)
class StandIn:
    """In the kernel's body the results of `op`, which reads params, stand for `values` of the function."""

    op: Op
    values: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """`ops` of a function, in order, that become the kernel `name`.

    `params` and `results`: names and values of the function; a result is what some op of the group gives. `feeding`:
    new ops that go in front of the call, whose results may be params. `stand_ins`: the first ops of the body.
    `transposed`: params that are stored weights [n, k] and reach the kernel as [k, n], transposed offline.
    """

    name: str
    ops: tuple[Op, ...]
    params: tuple[tuple[str, Value], ...]
    results: tuple[tuple[str, Value], ...]
    feeding: tuple[Op, ...] = ()
    stand_ins: tuple[StandIn, ...] = ()
    transposed: frozenset[Value] = frozenset()
