"""fold-norms: the weight of a norm in front of projections becomes part of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from g4c.ir.module import Module
from g4c.ir.op import Op, Value, defining
from g4c.ir.ops import LinearOp, LoadWeightOp, RmsNormOp, SelectRowsOp
from g4c.ir.types import DType
from g4c.ir.weights import Cast, Scale, Weight
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import used_values
from g4c.passes.flat import require_flat
from g4c.passes.weight_uses import Use, loaded_weight, replace_weights, weight_uses


@dataclass(frozen=True)
class FoldNorms(Pass):
    """Multiply the weight w of an rms_norm into the projections W that its result goes to: W diag(w).

    Only where linear ops alone use the norm's result, directly or through select_rows, and in every program alike: a
    projection must meet the same norm weight wherever it is used and be used for nothing else (the tied embedding is),
    and so must the norm's weight. What does not fit keeps its weight; the stats count why. A constant weight of ones
    goes wherever it is.

    Rounding: in f32 the same product of three factors in another order. In a narrower type the norm's result is rounded
    without w instead of with it, and W w is rounded once more, when the weights are packed. With the rounding of the
    projection's result these are three instead of two: in bf16 its RMS error, measured, is 1.2 times what it was.
    Little is won there, so `narrow=true` is needed to fold weights of less than f32.

    before:  %0 = "g4.load_weight"() {weight = @layers.0.input_layernorm.weight} ...
             %1 = "g4.rms_norm"(%x, %0) {epsilon = 1.0e-06 : f64, ...} ...
             %2 = "g4.load_weight"() {weight = @layers.0.self_attn.q_proj.weight} ...
             %3 = "g4.linear"(%1, %2) ...
    after:   "g4.weight"() {sym_name = "layers.0.self_attn.q_proj.weight", ..., transforms = ["scale{axis=1}"]} ...
             %0 = "g4.rms_norm"(%x) {epsilon = 1.0e-06 : f64, ...} ...
             %1 = "g4.load_weight"() {weight = @layers.0.self_attn.q_proj.weight} ...
             %2 = "g4.linear"(%0, %1) ...

    Stats: norms and projections (weights) that were folded, weights of ones that went. Norms that keep their weight:
    kept_for_other_ops, because something else uses the norm's result, or nothing does; kept_for_other_uses, because the
    norm's weight or a projection's is used elsewhere, too, or is a constant; kept_for_rounding.
    """

    name = "fold-norms"
    runs_after = ("eliminate-shared-kv", "prune-prefill")

    narrow: bool = False

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        require_flat(module, self.name)
        uses = weight_uses(module)
        consumers = _Consumers(module)
        folded: dict[str, list[str]] = {}
        kept = {"kept_for_other_ops": 0, "kept_for_other_uses": 0, "kept_for_rounding": 0}
        ones: list[str] = []
        for name, used in uses.items():
            norms = [use.op for use in used if isinstance(use.op, RmsNormOp) and use.operand == "w"]
            weight = module.weights[name]
            if not norms:
                continue
            if _is_ones(weight):
                ones.append(name)
                continue
            projections = consumers.projections(norms)
            if not projections:
                kept["kept_for_other_ops"] += 1
            elif len(norms) < len(used) or not _may_fold(module, name, projections, uses):
                kept["kept_for_other_uses"] += 1
            elif weight.type.dtype != DType.F32 and not self.narrow:
                kept["kept_for_rounding"] += 1
            else:
                folded[name] = projections
        for name, projections in folded.items():
            _scale(module, name, projections)
        _take_from_norms(module, {name: uses[name] for name in (*folded, *ones)})
        count = sum(map(len, folded.values()))
        return PassResult(bool(folded or ones), {"norms": len(folded), "projections": count, "ones": len(ones), **kept})


def _is_ones(weight: Weight) -> bool:
    """Whether `weight` is a constant of ones, rounded or not."""
    kept = all(isinstance(step, Cast) for step in weight.transforms)
    return kept and weight.value is not None and bool((weight.value.array() == 1).all())


class _Consumers:
    """Who uses a value, in all functions of a module."""

    def __init__(self, module: Module) -> None:
        self._users: dict[Value, list[Op]] = {}
        for function in module.functions.values():
            self._users |= function.users()
        self._returned = {result.value for function in module.functions.values() for result in function.results}

    def projections(self, norms: Iterable[RmsNormOp]) -> list[str]:
        """Weights of the linear ops that the results of `norms` go to; none if they go anywhere else, too."""
        names: dict[str, None] = {}
        todo = [norm.result for norm in norms]
        while todo:
            value = todo.pop()
            if value in self._returned:
                return []
            for op in self._users.get(value, ()):
                weight = loaded_weight(op.w) if isinstance(op, LinearOp) and op.x is value else None
                if weight is not None:
                    names[weight] = None
                elif isinstance(op, SelectRowsOp):
                    todo.append(op.result)
                else:
                    return []
        return list(names)


def _may_fold(module: Module, norm: str, projections: Sequence[str], uses: dict[str, list[Use]]) -> bool:
    """Whether the weights are stored ones, and every use of `projections` is on a result of `norm`."""
    stored = all(module.weights[name].value is None for name in (norm, *projections))
    return stored and all(_norm_of(use) == norm for name in projections for use in uses[name])


def _norm_of(use: Use) -> str | None:
    """The norm weight that `use`, a linear op's of its projection weight, has in front of it."""
    if not isinstance(use.op, LinearOp) or use.operand != "w":
        return None
    value = use.op.x
    while (selected := defining(value, SelectRowsOp)) is not None:
        value = selected.x
    norm = defining(value, RmsNormOp)
    return loaded_weight(norm.w) if norm is not None else None


def _scale(module: Module, norm: str, projections: Sequence[str]) -> None:
    """Put the weight `norm` into `projections`."""
    factor = module.weights[norm]
    scaled = {name: Weight.joined(name, (module.weights[name], factor), Scale(1)) for name in projections}
    replace_weights(module, scaled)


def _take_from_norms(module: Module, weights: Mapping[str, Sequence[Use]]) -> None:
    """Let no norm have one of `weights`, by their uses. A weight goes if nothing else uses it."""
    gone = set(weights)
    for name, uses in weights.items():
        for use in uses:
            if isinstance(use.op, RmsNormOp) and use.operand == "w":
                use.op.w = None
            else:
                gone.discard(name)
    for function in module.functions.values():
        used = used_values(function)
        function.ops = [op for op in function.ops if _loaded(op) not in weights or op.results[0] in used]
    replace_weights(module, dict.fromkeys(gone))


def _loaded(op: Op) -> str | None:
    return op.weight.name if isinstance(op, LoadWeightOp) else None
