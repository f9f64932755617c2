"""What neuronx-cc is known to compile: the vocabulary and the rules that the legality lint applies.

In: nothing. Out: tables. Invariant: a rule says what is wanted, and names the diagnostic of neuronx-cc that it spares
the user, where one is documented. Errors refuse a module; warnings are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """One rule of the lint. `code` names it; `diagnostic` is what neuronx-cc would say, where that is documented."""

    code: str
    severity: Severity
    text: str
    diagnostic: str = ""


_ALL = (
    Rule("op-vocabulary", "error", "only operations that shipped Neuron stacks emit", "EVRF001/EUOC002"),
    Rule(
        "call-inlined", "error", "calls are inlined; no shipped Neuron stack emits call, while, conditional or fusion"
    ),
    Rule(
        "element-type",
        "error",
        "pred, s8, u8, s32, u32, bf16, f16, f32 and the fp8 types of the target",
        "EVRF004/EVRF005",
    ),
    Rule("fp8-of-target", "error", "f8e4m3fn is for trn3 only", "EVRF051"),
    Rule("no-64-bit", "error", "no 64-bit integers or floats; indices are s32", "ESFH002"),
    Rule("static-shape", "error", "no dynamic dimensions", "EMOD025"),
    Rule("rank", "warning", "tensors of rank >= 5 fail in attention-like code; reshape to rank <= 4", "INLA001"),
    Rule("norm-rank", "warning", "norm chains on tensors of rank 4 fail; use a view of rank <= 3", "ITEN404"),
    Rule("constant-size", "error", "constants above 1 MB are parameters"),
    Rule("proto-size", "error", "a serialized module stays below 2 GiB"),
    Rule("id-range", "error", "ids are positive and fit in int32"),
    Rule("id-unique", "error", "ids are unique over the module"),
    Rule("name-unique", "error", "instruction names are unique and not empty"),
    Rule(
        "operand-order",
        "error",
        "operands are defined before their users, called computations before their callers",
        "",
    ),
    Rule("operand-type", "error", "operands of an elementwise operation agree in type and shape", "EVRF064"),
    Rule("layout", "error", "every array shape has the layout [rank-1, ..., 0], in program shapes too"),
    Rule("program-shape", "error", "program shapes agree with the parameters and the root", "EVRF064"),
    Rule(
        "tensor-name",
        "error",
        "every parameter and result of the entry has a unique name of at most 255 characters",
        "",
    ),
    Rule(
        "alias", "error", "a cache is MUST_ALIAS, its input `X.must_alias_input`, its output `X`, both of one shape", ""
    ),
    Rule(
        "root", "error", "the root is a tuple of two or more results or a copy, and no result is a bare parameter", ""
    ),
    Rule("metadata", "error", "every instruction carries the module path it came from"),
    Rule("integer-dot", "error", "no dot on integers", "EVRF035"),
    Rule("integer-power", "error", "no power on integers", "EVRF062"),
    Rule("boolean-add", "warning", "add on predicates is rewritten to or; use or"),
    Rule("scatter-assign", "error", "a scatter assigns: its combiner returns the update", "EVRF016/EVRF060"),
    Rule(
        "reduce-combiner", "error", "a reduce is one of add, maximum, minimum, multiply and starts from a constant", ""
    ),
    Rule("reduce-window", "error", "one input, no base or window dilation", "EVRF017/EVRF018/EVRF019"),
    Rule(
        "index-bounds",
        "error",
        "indices made from iota and constants stay within the operand",
        "EVRF031/EVRF056/ESMP002",
    ),
    Rule(
        "update-starts",
        "warning",
        "starts that mix constants and run-time values give inefficient DMA; use scatter",
        "",
    ),
    Rule("sort", "warning", "sort over a vocabulary becomes a top-k that is rejected", "EVRF014/EVRF029"),
    Rule("custom-call-target", "error", "only custom calls that neuronx-cc recognizes", "EVRF015/EHCA005"),
    Rule(
        "kernel-call",
        "error",
        "a kernel's call has the kernel in base64 JSON, returns a status, and aliases results to operands of their "
        "shape",
        "EVRF059/EVRF065",
    ),
    Rule("integer-collective", "error", "collectives that reduce take floats", "EVRF061/EVRF063"),
)
RULES = {rule.code: rule for rule in _ALL}

VOCABULARY = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "copy",
        "reshape",
        "transpose",
        "broadcast",
        "concatenate",
        "slice",
        "pad",
        "reverse",
        "iota",
        "convert",
        "add",
        "subtract",
        "multiply",
        "divide",
        "remainder",
        "maximum",
        "minimum",
        "power",
        "negate",
        "abs",
        "sign",
        "floor",
        "ceil",
        "clamp",
        "exponential",
        "log",
        "sqrt",
        "rsqrt",
        "tanh",
        "logistic",
        "sine",
        "cosine",
        "atan2",
        "compare",
        "select",
        "and",
        "or",
        "not",
        "xor",
        "dot",
        "convolution",
        "reduce",
        "gather",
        "scatter",
        "dynamic-slice",
        "dynamic-update-slice",
        "sort",
        "reduce-window",
        "rng",
        "all-reduce",
        "all-gather",
        "reduce-scatter",
        "all-to-all",
        "custom-call",
    }
)
CONTROL_FLOW = frozenset({"call", "while", "conditional", "fusion"})
ELEMENTWISE = frozenset(
    {
        "add",
        "subtract",
        "multiply",
        "divide",
        "remainder",
        "maximum",
        "minimum",
        "power",
        "atan2",
        "and",
        "or",
        "xor",
        "compare",
        "negate",
        "abs",
        "sign",
        "floor",
        "ceil",
        "exponential",
        "log",
        "sqrt",
        "rsqrt",
        "tanh",
        "logistic",
        "sine",
        "cosine",
        "not",
    }
)
REDUCERS = frozenset({"add", "maximum", "minimum", "multiply"})
INTEGERS = frozenset({"s2", "s4", "s8", "s16", "s32", "s64", "u2", "u4", "u8", "u16", "u32", "u64", "pred"})
SIXTY_FOUR_BIT = frozenset({"s64", "u64", "f64"})
ELEMENT_TYPES = frozenset({"pred", "s8", "u8", "s32", "u32", "bf16", "f16", "f32", "f8e4m3", "f8e5m2", "f8e4m3fn"})
FP8_FN_TARGETS = frozenset({"trn3", "cpu"})
MAX_CONSTANT_BYTES = 1 << 20
MAX_PROTO_BYTES = (1 << 31) - 1
MAX_ID = (1 << 31) - 1

CUSTOM_CALLS = frozenset(
    {
        "AwsNeuronErf",
        "AwsNeuronGelu",
        "AwsNeuronGeluApprxTanh",
        "AwsNeuronSilu",
        "AwsNeuronRmsNorm",
        "AwsNeuronSoftmax",
        "AwsNeuronArgMax",
        "AwsNeuronArgMin",
        "AwsNeuronTopK",
        "AwsNeuronCustomNativeKernel",
        "AwsNeuronTransferWithStaticRing",
    }
)
