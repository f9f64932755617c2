"""Catalogue of neuronx-cc errors."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    "G4C-N001": Entry(
        "kernels are there as source only",
        "A program calls kernels that g4c has generated. neuronx-cc takes them compiled by the compiler of the nki\n"
        "package, which is part of the Neuron SDK; a bundle that was made without the SDK holds their sources\n"
        "(kernels/), and placeholders where the compiled kernels belong. Such a program runs on the CPU backend\n"
        "(g4c run --cpu-kernels simulate). With --kernels none programs are plain HLO, which neuronx-cc takes.",
        3,
    ),
}
