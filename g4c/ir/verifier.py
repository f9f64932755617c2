"""Is this module well-formed? Checked around every pass.

In: a module. Out: nothing, or a `VerificationError` with up to ten findings, each showing the lines around it.
Checks: every value is defined once and before it is used, results are what `infer` says, attributes have their kinds
and pass `verify`, ops are legal at the module's level, symbols exist with the right types, calls match their callees,
kernels are of their operands alone, caches are declared and returned once, names are unique. What passes prints to text
that parses back equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.levels import LEGAL_OPS, UNTILED, unrecorded
from g4c.ir.module import Function, Module
from g4c.ir.op import InvalidOpError, Level, Op, Value, attribute_mismatch
from g4c.ir.ops.structure import CallOp, LoadWeightOp
from g4c.ir.printer import is_valid_name, print_op, value_names
from g4c.ir.weights import Weight

LIMIT = 10


@dataclass(frozen=True)
class Finding:
    """One defect: catalogue code, message, function and index of the op in it (None: the function or module)."""

    code: str
    message: str
    function: str | None = None
    index: int | None = None


class VerificationError(G4cError):
    """A module that is not well-formed; `findings` holds at most LIMIT defects, the first gives the code."""

    def __init__(self, module: Module, findings: list[Finding]) -> None:
        first = findings[0]
        super().__init__(first.code, first.message, where=_where(module, first), excerpt=_excerpt(module, first))
        self.findings = findings
        self.rest = [
            str(G4cError(f.code, f.message, where=_where(module, f), excerpt=_excerpt(module, f))) for f in findings[1:]
        ]

    def __str__(self) -> str:
        stopped = [f"  = stopped after {LIMIT} errors"] if len(self.findings) == LIMIT else []
        return "\n".join([super().__str__(), *self.rest, *stopped])


def verify_module(module: Module) -> None:
    """Raise VerificationError unless `module` is well-formed."""
    findings = []
    for finding in _check_module(module):
        findings.append(finding)
        if len(findings) == LIMIT:
            break
    if findings:
        raise VerificationError(module, findings)


def _check_module(module: Module) -> Iterator[Finding]:
    yield from _check_tables(module)
    broken = [message for weight in module.weights.values() if (message := _misfit(weight)) is not None]
    if broken:
        yield from (Finding("G4C-V002", message) for message in broken)
        return  # what loads such a weight cannot be judged
    owned: set[Op] = set()
    for function in module.functions.values():
        yield from _check_signature(module, function)
        yield from _check_body(module, function, owned)
        if function.role == "kernel":
            yield from _check_kernel(module, function)
    yield from _check_recursion(module)


def _misfit(weight: Weight) -> str | None:
    """What does not fit in the weight's chain of transforms."""
    try:
        _ = weight.type
    except InvalidOpError as error:
        return str(error)
    return None


def _check_tables(module: Module) -> Iterator[Finding]:
    """Entries stand under their own names; weights, caches and functions share one set of symbols, as in MLIR."""
    seen: dict[str, str] = {}
    tables = (("weight", module.weights), ("cache", module.caches), ("function", module.functions))
    for kind, table in tables:
        for name, entry in table.items():
            if entry.name != name:
                yield Finding("G4C-V008", f"{kind} {entry.name} is entered under the name {name}")
            if name in seen:
                yield Finding("G4C-V008", f"{name} is both a {seen[name]} and a {kind}")
            seen[name] = kind
    for contraction in unrecorded(module):
        message = f"{contraction.mnemonic} is not in tiles, and the attribute {UNTILED} gives no reason"
        yield Finding("G4C-V040", message)
    if "level" in module.attributes:
        yield Finding("G4C-V008", "the attribute level is the module's level; it cannot be set beside it")


def _check_signature(module: Module, function: Function) -> Iterator[Finding]:
    def finding(message: str) -> Finding:
        return Finding("G4C-V003", message, function.name)

    names = [param.name for param in function.params]
    for name in sorted({name for name in names if names.count(name) > 1 or not is_valid_name(name)}):
        yield finding(f"parameter name {name!r} is used twice or malformed")
    names = [result.name for result in function.results]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield finding(f"result name {name!r} is used twice")
    sides = (
        ("parameter", [(p.name, p.cache, p.type) for p in function.params]),
        ("result", [(r.name, r.cache, r.value.type) for r in function.results]),
    )
    for side, entries in sides:
        held = [cache for _, cache, _ in entries if cache is not None]
        for name, cache, type in entries:
            if cache is None:
                continue
            if cache not in module.caches:
                yield finding(f"{side} {name}: cache {cache} is not in the module's table")
            elif module.caches[cache].type != type:
                yield finding(f"{side} {name} is {type}, cache {cache} is {module.caches[cache].type}")
            if held.count(cache) > 1:
                yield finding(f"{side} {name}: cache {cache} is bound twice")
    taken = {param.cache for param in function.params}
    for result in function.results:
        if result.cache is not None and result.cache not in taken:
            yield finding(f"result {result.name}: cache {result.cache} is returned but no parameter takes it")


def _check_body(module: Module, function: Function, owned: set[Op]) -> Iterator[Finding]:
    """`owned` collects the ops of all functions."""
    defined: set[Value] = set(function.params)
    for index, op in enumerate(function.ops):

        def finding(code: str, message: str, index: int = index, op: Op = op) -> Finding:
            return Finding(code, f"{op.mnemonic}: {message}", function.name, index)

        if type(op) not in LEGAL_OPS[module.level]:
            yield finding("G4C-V004", f"not legal at level {module.level.value}")
        for name, value in op.named_operands():
            if value not in defined:
                yield finding("G4C-V005", f"operand {name} ({value.type}) is not defined above")
        if op in owned:
            yield finding("G4C-V005", "the same op object stands in the module twice")
        owned.add(op)
        message = _check_rules(op)
        if message is not None:
            yield finding("G4C-V001", message)
        yield from (finding("G4C-V006", message) for message in _check_symbol(module, op))
        defined.update(op.results)
    for result in function.results:
        if result.value not in defined:
            yield Finding("G4C-V005", f"result {result.name} is not defined", function.name)


def _check_kernel(module: Module, function: Function) -> Iterator[Finding]:
    """What a kernel cannot be: something that is not its operands alone, or that gives nothing new."""

    def finding(message: str, index: int | None = None) -> Finding:
        return Finding("G4C-V041", f"kernel {function.name} {message}", function.name, index)

    if module.level is not Level.NKI:
        yield finding(f"stands in a module at level {module.level.value}")
    for index, op in enumerate(function.ops):
        if isinstance(op, CallOp):
            yield finding(f"calls {op.callee.name}", index)
        if isinstance(op, LoadWeightOp):
            yield finding(f"loads {op.weight.name}, which it takes as a parameter", index)
    for cache in [param.cache for param in function.params] + [result.cache for result in function.results]:
        if cache is not None:
            yield finding(f"binds cache {cache}, which the program does")
    if not function.params or not function.results:
        yield finding("has no parameters or no results")
    for result in function.results:
        if result.value in function.params:
            yield finding(f"returns its parameter {result.name} as it is")


def _check_rules(op: Op) -> str | None:
    """What the op itself refuses: the kind of an attribute, or the first thing that `infer` and `verify` find."""
    for name, value in op.attributes().items():
        mismatch = attribute_mismatch(type(op), name, value)
        if mismatch is not None:
            return mismatch
    try:
        inferred = op.infer()
        op.verify()
    except InvalidOpError as error:
        return str(error)
    found = tuple(value.type for value in op.results)
    return None if inferred == found else f"results are {_types(found)}, operands give {_types(inferred)}"


def _check_symbol(module: Module, op: Op) -> Iterator[str]:
    if isinstance(op, LoadWeightOp):
        weight = module.weights.get(op.weight.name)
        if weight is None:
            yield f"weight {op.weight.name} is not in the module's table"
        elif weight.type != op.type:
            yield f"loaded as {op.type}, weight {weight.name} is {weight.type}"
    if isinstance(op, CallOp):
        callee = module.functions.get(op.callee.name)
        if callee is None or callee.role == "program":
            yield f"callee {op.callee.name} is not a layer or kernel function of the module"
            return
        wanted = tuple(param.type for param in callee.params)
        found = tuple(value.type for value in op.args)
        if wanted != found:
            yield f"{callee.name} takes {_types(wanted)}, got {_types(found)}"
        wanted = tuple(result.value.type for result in callee.results)
        if wanted != op.types:
            yield f"{callee.name} returns {_types(wanted)}, the call says {_types(op.types)}"


def _check_recursion(module: Module) -> Iterator[Finding]:
    """No function reaches itself through calls."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[Finding]:
        if name in path:
            yield Finding("G4C-V007", f"recursive call: {' -> '.join((*path, name))}", name)
        elif name not in done and name in module.functions:
            for callee in dict.fromkeys(module.callees(module.functions[name])):
                yield from visit(callee, (*path, name))
            done.add(name)

    for name in module.functions:
        yield from visit(name, ())


def _types(types: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, types))})"


def _where(module: Module, finding: Finding) -> str:
    if finding.function is None:
        return f"module {module.name}"
    if finding.index is None:
        return finding.function
    loc = str(module.functions[finding.function].ops[finding.index].loc)
    return f"{finding.function}:{finding.index}" + (f"  {loc}" if loc else "")


def _excerpt(module: Module, finding: Finding) -> str | None:
    """The op, marked, and one line on either side."""
    if finding.function is None or finding.index is None:
        return None
    function = module.functions[finding.function]
    names = value_names(function)
    lines = []
    for index in range(max(0, finding.index - 1), min(len(function.ops), finding.index + 2)):
        mark = ">" if index == finding.index else " "
        lines.append(f"{mark}{index:>5} | {print_op(function.ops[index], names, locations=False)}")
    return "\n".join(lines)
