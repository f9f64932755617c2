"""Catalogue of verifier errors: modules that are not well-formed, and IR text that cannot be read."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    "G4C-V001": Entry(
        "operands or attributes of an op do not fit",
        "The op's own rule (`infer` or `verify`) refuses its operands or attributes. The message names both sides of\n"
        "the mismatch. If a pass is named, it produced the op: run the repro command with --print-ir-before of that\n"
        "pass.",
        4,
    ),
    "G4C-V002": Entry(
        "a weight's chain of transforms does not fit",
        "A weight is a symbol with recorded transforms (transpose, concat, cast, ...). The type of each step must fit\n"
        "the next.",
        4,
    ),
    "G4C-V003": Entry(
        "a function's parameters or results are inconsistent",
        "Names must be unique, caches must be declared in the module's table with the same type, and a cache that is\n"
        "returned must have been taken.",
        4,
    ),
    "G4C-V004": Entry(
        "an op is not legal at the module's level",
        "Levels are graph, tiled, nki. A lowering pass raises the level; an op of a later level may not appear before\n"
        "it.",
        4,
    ),
    "G4C-V005": Entry(
        "a value is used before it is defined, or defined twice",
        "Ops are in definition order; an operand must come from above, in the same function. An op object stands in\n"
        "one place only.",
        4,
    ),
    "G4C-V006": Entry(
        "a symbol does not resolve",
        "A load_weight or call names something that is not in the module's tables, or that has another type.",
        4,
    ),
    "G4C-V007": Entry(
        "functions call each other in a circle", "Layer functions are straight-line code without recursion.", 4
    ),
    "G4C-V008": Entry(
        "the module's tables are inconsistent",
        "Weights, caches and functions are symbols of one namespace: each stands under its own name, and no two share\n"
        "one. The attribute 'level' is the module's level.",
        4,
    ),
    "G4C-V010": Entry(
        "IR text cannot be parsed",
        "The text is not in the form that g4c prints. Line and column say where; `g4c opt FILE --pipeline ''` prints\n"
        "the canonical form of a file that parses.",
    ),
    "G4C-V011": Entry(
        "an op in the text is not valid",
        "The text parses, but the op's own rule refuses its operands or attributes.",
    ),
    "G4C-V020": Entry(
        "the interpreter was given no array, or one of the wrong shape or dtype",
        "Every parameter, and every weight without a constant value, needs an array of exactly its declared type.",
    ),
    "G4C-V040": Entry(
        "a tiled module holds a contraction that is not in tiles",
        "Above the graph level every linear op, matmul, attention and mixture of experts is in tiles, or the module's\n"
        "attribute g4.untiled names its kind and says why (`g4.matmul: ...`). Passes that run after tile-contractions\n"
        "may not bring in others.",
        4,
    ),
    "G4C-V041": Entry(
        "a function is no kernel",
        "A function of role kernel is what one kernel computes: from its parameters alone, weights and caches among\n"
        "them, without calls, and with results that are not its parameters. There are kernels at the nki level only.",
        4,
    ),
}
