"""Small programs written op by op, several of them on one table of weights, for passes that look at all programs."""

from __future__ import annotations

from g4c.ir import ops
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Loc, Op, SymbolRef, Value
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Weight

WIDTH = 16


class Draft:
    """A program of `module` on x [rows..., width]; weights are entered where they are first used."""

    def __init__(self, module: Module, name: str, *rows: int, width: int = WIDTH, dtype: DType = DType.F32) -> None:
        self.module = module
        self.dtype = dtype
        self.function = module.add_function(Function(name, "program"))
        self.x = self.function.add_param("x", TensorType((*rows, width), dtype))

    def emit(self, op: Op, path: str = "") -> Value:
        op.loc = Loc(f"model.{path}", "m.py", 1) if path else op.loc
        return self.function.append(op).result

    def load(self, name: str, *shape: int) -> Value:
        weight = self.module.weights.get(name) or Weight.stored(name, TensorType(shape, self.dtype))
        self.module.add_weight(weight)
        return self.emit(ops.LoadWeightOp(SymbolRef(name), weight.type))

    def linear(self, x: Value, name: str, width: int = 8) -> Value:
        return self.emit(ops.LinearOp(x, self.load(f"{name}.weight", width, x.shape[-1])), name)

    def norm(self, x: Value, name: str | None) -> Value:
        w = None if name is None else self.load(f"{name}.weight", x.shape[-1])
        return self.emit(ops.RmsNormOp(x, w, 1e-6), name or "")

    def select(self, x: Value, count: int = 1) -> Value:
        """`count` rows of x [b, s, ...], which of them is an input."""
        names = {param.name: param for param in self.function.params}
        rows = names.get("rows") or self.function.add_param("rows", TensorType((x.shape[0], count), DType.S32))
        return self.emit(ops.SelectRowsOp(x, rows))

    def give(self, *values: Value) -> None:
        """Return `values` as y0, y1, ..."""
        self.function.results = [Result(value, f"y{i}") for i, value in enumerate(values)]
