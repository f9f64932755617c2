"""Matmul kernels: what a layer adds to its residual stream, the head, and other products with stored weights.

In: a function. Out: `Group`s whose linear ops read weights that are transposed offline, so that kernels have [k, n];
the head's stay as they are, because tokens are looked up in them.
Invariant: the names of params and results say which parts there are; values between the parts stay in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from g4c.ir.module import Function
from g4c.ir.op import Op, Value, defining
from g4c.ir.ops import (
    AddOp,
    ConvertOp,
    ExpOp,
    GatedGeluOp,
    MulOp,
    ReduceOp,
    ReshapeOp,
    RmsNormOp,
    SliceOp,
    SoftcapOp,
    SubOp,
    TiledLinearOp,
    TopKOp,
    TransposeOp,
)
from g4c.ir.types import DType
from g4c.passes.kernel_patterns.group import Group, StandIn

_DTYPES = (DType.BF16, DType.F32)
HEAD_ROWS = 128  # of a kernel that transposes the head's weight on the way
HEAD_BEST, HEAD_TILE = 8, 2048  # how many of a tile a kernel finds, and how many there may be
_ORDER = ("attention", "mlp", "per_layer")


@dataclass(frozen=True, eq=False)
class _Part:
    """hidden + norm(... @ w): one addition to the residual stream, of `kind`, by `ops`; its own params in order."""

    kind: str
    hidden: Value
    add: AddOp
    ops: tuple[Op, ...]
    params: tuple[tuple[str, Value], ...]
    weights: tuple[Value, ...]
    epsilons: tuple[float, ...]


@dataclass(frozen=True)
class ResidualPattern:
    """Kernels residual_...: O projection, MLP, per-layer gate, as many as follow each other, and the layer's scalar."""

    def find(self, function: Function) -> list[Group]:
        users = function.users()
        results = {result.value for result in function.results}
        parts = [part for add in function.ops_of(AddOp) if (part := _part(add)) is not None]
        groups = []
        for chain in _chains(parts, users, results):
            group = _residual(chain, users, results)
            if _closed(group, users, results):
                groups.append(group)
        return groups


def _part(add: AddOp) -> _Part | None:
    """What `add` adds to the stream, if a kernel can."""
    for hidden, added in (add.operands, add.operands[::-1]):
        norm = defining(added, RmsNormOp)
        product = defining(norm.x, TiledLinearOp) if norm is not None else None
        if norm is None or norm.w is None or product is None or hidden.type != added.type:
            continue
        if hidden.dtype not in _DTYPES:
            return None
        ops = (product, norm, add)
        gated = defining(product.x, GatedGeluOp)
        if gated is not None:
            inner = _gate_per_layer(gated, hidden) or _gate_up(gated, hidden)
            if inner is None:
                return None
            return _with_gate(inner, gated, hidden, ops)
        params = (("attended", product.x), ("o_proj", product.w), ("o_gain", norm.w))
        return _Part("attention", hidden, add, ops, params, (product.w,), (norm.epsilon,))
    return None


@dataclass(frozen=True, eq=False)
class _Gate:
    """What makes the operands of a gated gelu; `norm`: of the MLP, `factor`: of the per-layer gate."""

    product: TiledLinearOp
    slices: tuple[SliceOp, ...] = ()
    norm: RmsNormOp | None = None
    factor: Value | None = None


def _gate_per_layer(gated: GatedGeluOp, hidden: Value) -> _Gate | None:
    product = defining(gated.gate, TiledLinearOp)
    return _Gate(product, factor=gated.up) if product is not None and product.x is hidden else None


def _gate_up(gated: GatedGeluOp, hidden: Value) -> _Gate | None:
    """gate and up are the halves of one product of the normalized stream."""
    gate, up = defining(gated.gate, SliceOp), defining(gated.up, SliceOp)
    if gate is None or up is None or gate.x is not up.x:
        return None
    product = defining(gate.x, TiledLinearOp)
    norm = defining(product.x, RmsNormOp) if product is not None else None
    if product is None or norm is None or norm.x is not hidden:
        return None
    halves = _columns((gate, up))
    return _Gate(product, (gate, up), norm) if halves == [gate, up] else None


def _with_gate(inner: _Gate, gated: GatedGeluOp, hidden: Value, ops: tuple[TiledLinearOp, RmsNormOp, AddOp]) -> _Part:
    product, norm, add = ops
    assert norm.w is not None, norm
    weights = (inner.product.w, product.w)
    own: list[tuple[str, Value]] = []
    if inner.norm is None:
        assert inner.factor is not None, gated
        own += [("per_layer_input", inner.factor), ("gate", weights[0]), ("projection", weights[1])]
        own += [("per_layer_gain", norm.w)]
        return _Part("per_layer", hidden, add, (inner.product, gated, *ops), tuple(own), weights, (norm.epsilon,))
    if inner.norm.w is not None:
        own += [("mlp_gain_in", inner.norm.w)]
    own += [("gate_up", weights[0]), ("down", weights[1]), ("mlp_gain", norm.w)]
    inside = (inner.norm, inner.product, *inner.slices, gated, *ops)
    return _Part("mlp", hidden, add, inside, tuple(own), weights, (inner.norm.epsilon, norm.epsilon))


def _columns(slices: Sequence[SliceOp]) -> list[SliceOp] | None:
    """`slices` of one value in the order of their columns, if they are all of its columns, once each."""
    ordered = sorted(slices, key=lambda op: op.starts[-1])
    at = 0
    for op in ordered:
        whole = all(start == 0 for start in op.starts[:-1]) and op.limits[:-1] == op.x.shape[:-1]
        if not whole or op.starts[-1] != at:
            return None
        at = op.limits[-1]
    return ordered if ordered and at == ordered[0].x.shape[-1] else None


def _chains(parts: Sequence[_Part], users: Mapping[Value, Sequence[Op]], results: set[Value]) -> Iterator[list[_Part]]:
    """Parts that follow each other, each reading the stream of the one before and nobody else."""
    chain: list[_Part] = []
    for part in parts:
        last = chain[-1] if chain else None
        follows = (
            last is not None
            and part.hidden is last.add.result
            and last.add.result not in results
            and all(user in part.ops for user in users[part.hidden])
            and _ORDER.index(last.kind) < _ORDER.index(part.kind)
            and set(part.epsilons) == set(last.epsilons)
        )
        if last is not None and not follows:
            yield chain
            chain = []
        chain.append(part)
    if chain:
        yield chain


def _residual(chain: Sequence[_Part], users: Mapping[Value, Sequence[Op]], results: set[Value]) -> Group:
    ops = tuple(op for part in chain for op in part.ops)
    params = [("hidden", chain[0].hidden), *(param for part in chain for param in part.params)]
    y = chain[-1].add.result
    scaled = _scaled(y, users) if y not in results else None
    if scaled is not None:
        ops, y, params = (*ops, scaled[0]), scaled[0].result, [*params, ("scalar", scaled[1])]
    name = "_".join(("residual", *(part.kind for part in chain), *(["scaled"] if scaled is not None else [])))
    transposed = frozenset(weight for part in chain for weight in part.weights)
    return Group(name, ops, tuple(params), (("y", y),), transposed=transposed)


def _scaled(value: Value, users: Mapping[Value, Sequence[Op]]) -> tuple[MulOp, Value] | None:
    """The only op that reads `value`, if it multiplies by one stored value, and that."""
    found = users.get(value, ())
    if len(found) != 1 or not isinstance(found[0], MulOp):
        return None
    op = found[0]
    scalar = op.operands[1] if op.operands[0] is value else op.operands[0]
    return (op, scalar) if scalar.shape == (1,) and scalar.dtype == value.dtype else None


def _closed(group: Group, users: Mapping[Value, Sequence[Op]], results: set[Value]) -> bool:
    """Whether nobody else reads what is inside of `group`, which has one epsilon and no param twice."""
    given = {value for _, value in group.results}
    inside = {value for op in group.ops for value in op.results} - given
    alone = all(value not in results and set(users.get(value, ())) <= set(group.ops) for value in inside)
    values = [value for _, value in group.params]
    epsilons = {op.epsilon for op in group.ops if isinstance(op, RmsNormOp)}
    return alone and len(set(values)) == len(values) and len(epsilons) <= 1


@dataclass(frozen=True)
class HeadPattern:
    """Kernels lm_head_...: the product with the vocabulary, its soft cap, and the norm in front, of few rows.

    Where the best tokens of tiles are wanted (see split-logits), the kernel finds them, and no logits leave it.
    """

    def find(self, function: Function) -> list[Group]:
        users = function.users()
        results = {result.value for result in function.results}
        best = [group for top in function.ops_of(TopKOp) if (group := _best(top, users)) is not None]
        groups = [group for group in best if _closed(group, users, results)]
        taken = {op for group in groups for op in group.ops}
        for cap in function.ops_of(SoftcapOp):
            product = _head(cap.result)
            if product is None or cap in taken:
                continue
            group = _product("lm_head", product, (product, cap), [("y", cap.result)], frozenset())
            if _closed(group, users, results):
                groups.append(group)
        return groups


def _head(logits: Value) -> TiledLinearOp | None:
    """The product that `logits` are, softcapped or not, if a kernel takes its rows."""
    cap = defining(logits, SoftcapOp)
    product = defining(logits if cap is None else cap.x, TiledLinearOp)
    if product is None or product.result.dtype not in _DTYPES:
        return None
    return product if product.x.type.size <= HEAD_ROWS * product.x.shape[-1] else None


def _best(top: TopKOp, users: Mapping[Value, Sequence[Op]]) -> Group | None:
    """The head with what split-logits makes of its tiles: the best of each, and the sum of their exponentials."""
    turned = defining(top.x, TransposeOp)
    table = defining(turned.x, ReshapeOp) if turned is not None else None
    product = _head(table.x) if table is not None else None
    if top.k != HEAD_BEST or turned is None or table is None or product is None:
        return None
    cap = defining(table.x, SoftcapOp)
    ops: list[Op] = [product, *([cap] if cap is not None else []), table, turned, top]
    in_f32 = []
    for value in (top.results[0], turned.result):
        wide = _only(users, value, ConvertOp, top)
        ops += [wide] if wide is not None else []
        in_f32.append(value if wide is None else wide.result)
    values, at = in_f32
    shift = _only(users, at, SubOp, top)
    maxima = defining(shift.operands[1], SliceOp) if shift is not None else None
    if values.dtype != DType.F32 or maxima is None or maxima.x is not values:
        return None
    ops.append(maxima)
    for kind in (SubOp, ExpOp, ReduceOp, ReshapeOp):
        op = _only(users, at, kind, top)
        if op is None:
            return None
        ops.append(op)
        at = op.result
    results = [("values", values), ("indices", top.results[1]), ("sums", at)]
    return _product("lm_head_best", product, tuple(ops), results, frozenset())


def _only(users: Mapping[Value, Sequence[Op]], value: Value, kind: type[Op], besides: Op) -> Op | None:
    """The one op that reads `value`, besides one other, if it is a `kind`."""
    found = [op for op in users[value] if op is not besides]
    return found[0] if len(found) == 1 and isinstance(found[0], kind) else None


@dataclass(frozen=True)
class ProjectionPattern:
    """Kernels projection_...: products with stored weights, the norm in front, results split as they are read."""

    def find(self, function: Function) -> list[Group]:
        users = function.users()
        results = {result.value for result in function.results}
        groups = []
        for product in function.ops_of(TiledLinearOp):
            if product.result.dtype not in _DTYPES:
                continue
            readers = users.get(product.result, ())
            slices = [op for op in readers if isinstance(op, SliceOp)]
            split = _columns(slices) if len(slices) == len(readers) and product.result not in results else None
            if split is None:
                group = _product("projection", product, (product,), [("y", product.result)], frozenset([product.w]))
            else:
                given = [(f"y{n}", op.result) for n, op in enumerate(split)]
                group = _product("projection", product, (product, *split), given, frozenset([product.w]))
            if _closed(group, users, results):
                groups.append(group)
        return groups


def _product(
    name: str,
    product: TiledLinearOp,
    ops: tuple[Op, ...],
    results: list[tuple[str, Value]],
    transposed: frozenset[Value],
) -> Group:
    """A kernel of `ops` and, if x is a norm's result, that norm: done again where others read it, too."""
    norm = defining(product.x, RmsNormOp)
    if norm is None:
        return Group(name, ops, (("x", product.x), ("weight", product.w)), tuple(results), transposed=transposed)
    gain = (("gain", norm.w),) if norm.w is not None else ()
    params = (("x", norm.x), *gain, ("weight", product.w))
    again = (StandIn(norm, norm.results),)
    return Group(f"{name}_normed", ops, params, tuple(results), stand_ins=again, transposed=transposed)
