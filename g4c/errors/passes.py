"""Catalogue of pass errors: P001-P009 pipelines, P010-P019 the manager's checks, P020 onwards single passes."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    "G4C-P001": Entry(
        "a pipeline names a pass that does not exist", "`g4c list` shows the passes. Names are `verb-noun`.", 2
    ),
    "G4C-P002": Entry(
        "a pipeline gives a pass an option that it does not have",
        "The options of a pass are the fields of its class; docs/passes.md lists them. Underscores become hyphens.",
        2,
    ),
    "G4C-P003": Entry(
        "an option's value has the wrong type",
        "Integers, numbers, true/false, words, or tuples of integers written as 1x128.",
        2,
    ),
    "G4C-P004": Entry(
        "a pipeline string is malformed",
        "A pipeline is `pass,pass{option=value,option=value},pass`. The caret shows where reading stopped.",
        2,
    ),
    "G4C-P005": Entry(
        "passes in the wrong order",
        "A pass declares which others must come first where a pipeline has both (`runs_after`).",
        2,
    ),
    "G4C-P006": Entry(
        "a pass at the wrong level",
        "Levels are graph, tiled, nki. A lowering pass raises the level; a pass runs only at the level it declares.",
        2,
    ),
    "G4C-P007": Entry(
        "a place in the pipeline that does not exist or is ambiguous",
        "--start-from, --stop-after and --print-ir-* take a pass's name, its number, or both as dump files have it\n"
        "(`03_cse`). A name that occurs more than once needs its number.",
        2,
    ),
    "G4C-P010": Entry(
        "a pass misreports whether it changed the module",
        "The manager compares a structural hash before and after every pass with the pass's own `modified`.\n"
        "This is a bug in the pass; the repro directory holds its input.",
        70,
    ),
    "G4C-P011": Entry(
        "a pass crashed",
        "An unexpected exception inside a pass: a bug in g4c. The repro directory holds the pass's input, the\n"
        "environment and the traceback; please attach it to a report.",
        70,
    ),
    "G4C-P012": Entry(
        "a pass changed the numbers",
        "With --check-numerics the reference interpreter runs every program before and after each pass on the same\n"
        "random inputs and weights. A result differs by more than the tolerance: the pass is wrong.",
        4,
    ),
    "G4C-P013": Entry(
        "--check-numerics cannot run this module",
        "The interpreter holds every weight in memory and runs on numpy. It is meant for tiny variants; the limit\n"
        "protects the machine.",
    ),
    "G4C-P014": Entry(
        "the dumps of a pipeline cannot be written",
        "The directory given with --dump-dir cannot be made or written, or its disk is full. Nothing else was changed.",
    ),
    "G4C-P020": Entry(
        "a shared cache is written after it was read",
        "eliminate-shared-kv proves that what a layer reads from another layer's cache is what that cache holds at\n"
        "the end. Here a cache is updated after an attention read it, or two updates start from the same state;\n"
        "with caches updated in place the reader could see either. The trace must write a cache before it is read.",
    ),
    "G4C-P021": Entry(
        "a cache is read in a state that the program does not return",
        "An attention reads a cache as it was before this program updated it, or an update is not returned, or\n"
        "what is returned under a cache's name comes from elsewhere. The donor's cache would then not be what shared\n"
        "layers expect.",
    ),
    "G4C-P030": Entry(
        "layers cannot be cut out of a program",
        "specialize-layers makes one function call per layer. Two layers feed each other, so neither can run first.\n"
        "The module paths in the locations decide which op belongs to which layer.",
    ),
    "G4C-P040": Entry(
        "the length of the RoPE tables is unknown",
        "precompute-rope needs the number of positions: its option context, the module's max_context, or a cache.",
    ),
    "G4C-P041": Entry(
        "the RoPE tables are shorter than the caches",
        "Every slot of a cache is a position that must have a row in the table. Give precompute-rope a larger context.",
    ),
    "G4C-P042": Entry(
        "a pass over whole programs meets layer functions",
        "Passes that follow values from layer to layer (window-kv-cache, prune-prefill, fuse-projections, ...) want\n"
        "every op in the program itself. They come before specialize-layers; a module that is cut up already is made\n"
        "whole again by inline-layers.",
    ),
    "G4C-P060": Entry(
        "window-kv-cache cannot pad rings to this",
        "`pad` is what the number of slots is a multiple of: 128, the width of a tile, by default; at least 1.",
        2,
    ),
    "G4C-P061": Entry(
        "the states of a windowed cache cannot be followed",
        "window-kv-cache wants one update per program at most, of the state that the program is given, and its result\n"
        "returned as that cache's new state and as nothing else.",
    ),
    "G4C-P062": Entry(
        "an attention reads a windowed cache in an unknown way",
        "Two ways are known: all keys and values are updated caches, or they are the caches as they were before the\n"
        "update and, as a second segment, the rows that the update writes. Only then is it known that a ring holds\n"
        "whatever the window sees.",
    ),
    "G4C-P063": Entry(
        "an op other than attention reads a windowed cache",
        "It would see the slots of a ring, which are those of other positions. window-kv-cache comes before passes\n"
        "that make such ops of an update or of keys (mask-kv-updates, rebuild-keys).",
    ),
    "G4C-P064": Entry(
        "the positions of a windowed cache's readers and writers differ",
        "New rows, queries and the positions that slots hold must go by one and the same value, or it is not known\n"
        "whether a ring holds what the window sees.",
    ),
    "G4C-P080": Entry(
        "tiles that the tensor engine does not take",
        "tile-contractions cuts for an array of 128 partitions: at most 128 partitions and 128 columns of a\n"
        "stationary tile (partition, q-tile), at most 512 columns of a moving one, which fill a PSUM bank (moving,\n"
        "kv-tile). All are even, as RoPE rotates pairs.",
        2,
    ),
    "G4C-P090": Entry(
        "a program's result is not known to be logits",
        "split-logits replaces logits, which it knows by what they are: the only result beside caches of a program\n"
        "that embeds tokens, the product of a stored head onto the vocabulary of that embedding, softcapped or not.\n"
        "It comes before passes that take the head apart (tile-contractions, split-matvec).",
    ),
    "G4C-P091": Entry(
        "split-logits cannot give so many candidates",
        "`k` is at least 1 and at most the number of tokens of the vocabulary.",
        2,
    ),
    "G4C-P092": Entry(
        "programs give another number of candidates already",
        "split-logits was run with another `k`. The logits are gone; start from the module before it.",
        2,
    ),
    "G4C-P100": Entry(
        "no such kernels",
        "outline-kernels makes kernels of the kinds that g4c/passes/kernel_patterns knows, or of one of them by name.",
        2,
    ),
}
