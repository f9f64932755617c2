"""Catalogue of neuronx-cc errors."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    "G4C-N001": Entry(
        "kernels are there as source only",
        "A program calls kernels that g4c has generated. neuronx-cc takes them compiled by the compiler of the nki\n"
        "package, which is part of the Neuron SDK; a bundle that was made without the SDK holds their sources\n"
        "(kernels/), and placeholders where the compiled kernels belong. Such a program runs on the CPU backend\n"
        "(g4c run --cpu-kernels simulate). g4c link compiles the kernels on a machine with the SDK.\n"
        "With --kernels none programs are plain HLO, which neuronx-cc takes.",
        3,
    ),
    "G4C-N002": Entry(
        "a bundle for the CPU cannot be linked",
        "g4c link puts kernels that are compiled for a Neuron device into programs for that device. A bundle that was\n"
        "compiled with --target cpu has none: its kernels run in the simulator (g4c run --cpu-kernels simulate).",
    ),
    "G4C-N003": Entry(
        "nki is not installed",
        "Kernels are compiled by the nki package, which is part of the Neuron SDK. Install it (0.4 to 0.6) from the\n"
        "SDK's package repository into the Python environment in which g4c runs, with the neuronx-cc of the same\n"
        "release on PATH, and link there. The nrtpy package must not be in that environment.",
    ),
    "G4C-N004": Entry(
        "this nki is not for these kernels",
        "kernels/<sha>/spec.json says for which versions of nki a kernel was written: 0.4, 0.5 and 0.6, which are in\n"
        "the SDK 2.30, 2.31 and 2.32. Older ones have another language, newer ones are unknown to g4c.",
    ),
    "G4C-N005": Entry(
        "neuronx-cc does not belong to this nki",
        "neuronx-cc reads what the nki of the same release of the SDK has compiled: nki 0.4 goes with neuronx-cc\n"
        "2.25, 0.5 with 2.26, 0.6 with 2.27. It is the neuronx-cc on PATH that is asked for its version.",
    ),
    "G4C-N006": Entry(
        "nki does not compile a kernel",
        "The compiler of the nki package refused the source of a kernel, or its process crashed. The last lines of\n"
        "what it printed are shown. The bundle is not linked. The kernel can be run without nki, in the simulator.",
        3,
    ),
    "G4C-N007": Entry(
        "a compiled kernel is not the one that programs call",
        "What nki says of the kernel that it compiled (results, the inputs that they share their memory with, whether\n"
        "they are a tuple) differs from what the bundle's spec.json says, by which programs call it.",
        3,
    ),
    "G4C-N008": Entry(
        "the files of compiled kernels are not where they were",
        "Compiled kernels name their files (kernels/<sha>/artifacts) by absolute path, and neuronx-cc reads them.\n"
        "Link a bundle again after it was moved, or after these files were deleted.",
    ),
}
