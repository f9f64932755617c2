"""Catalogue of lowering errors."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    "G4C-L001": Entry(
        "jaxlib lacks an entry point",
        "g4c turns StableHLO into HLO protos through functions of jaxlib that are not public API and change "
        "between versions. Install the version that constraints.txt pins.",
    ),
    "G4C-L002": Entry(
        "XLA rejects a StableHLO module",
        "The module that g4c emitted is accepted by the StableHLO verifier but not by XLA's converter. This is a "
        "bug in g4c; the message names the op.",
        exit_code=70,
    ),
    "G4C-L003": Entry(
        "an HLO proto is malformed",
        "XLA cannot read the serialized module: a field is missing, an id is used twice, or the bytes are not an "
        "HLO module.",
    ),
    "G4C-L004": Entry(
        "the StableHLO verifier rejects a module",
        "Types, shapes or attributes of an op do not fit. For a module that g4c emitted this is a bug in g4c; for"
        " an HLO proto from elsewhere the message names the op that is inconsistent.",
        exit_code=70,
    ),
    "G4C-L005": Entry(
        "an op has no lowering",
        "The IR contains an op that the Neuron lowering does not know. Lower it to the GRAPH vocabulary first.",
    ),
    "G4C-L006": Entry(
        "the HLO module is not legal for the target",
        "The finished module contains an operation, element type, shape or attribute that neuronx-cc is not known"
        " to compile. Every finding names the rule, the op and the module path it came from.",
    ),
    "G4C-L007": Entry(
        "a program's signature cannot be lowered",
        "A program must return its results first and then the new state of every cache it takes, with the types "
        "of the caches.",
    ),
    "G4C-L008": Entry(
        "torch-mlir cannot be used",
        "g4c verifies StableHLO with the bindings of the torch-mlir package. Install the version that "
        "constraints.txt pins.",
    ),
    "G4C-L010": Entry(
        "a top-k is too large",
        "g4.top_k is written as k rounds of maximum and comparison, unrolled, and compares indices in f32. That is good"
        " for k up to 256 and axes up to 16,777,216 entries. Ask for fewer, or sort on the host.",
    ),
}
