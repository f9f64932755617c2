"""A module's programs on XLA's CPU backend, without a bundle: for tests that compile the same trace in many ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from g4c.ir.module import Module
from g4c.ir.types import Array
from g4c.lowering.neuron.lower import LoweredProgram, lower_program
from g4c.runtime.cpu import CpuExecutable, array_of, cpu_client


class Compiled:
    """Every program of `module`, lowered for the CPU and compiled, on one set of weights and caches."""

    def __init__(self, module: Module, weights: Mapping[str, Array]) -> None:
        self.client = cpu_client()
        self.weights = {name: self.client.copy(np.ascontiguousarray(array)) for name, array in weights.items()}
        self.programs: dict[str, tuple[LoweredProgram, CpuExecutable]] = {}
        for program in module.programs:
            lowered = lower_program(module, program.name, target="trn2")
            self.programs[program.name] = lowered, self.client.compile(lowered.hlo_proto, program.name)
        self.caches = {name: self.client.zeros(cache.type) for name, cache in module.caches.items()}
        prefill = [name for name in self.programs if name != "decode"]
        self.buckets = tuple(sorted(int(name.rpartition("_")[2]) for name in prefill))

    def run(self, name: str, *inputs: Array) -> Array:
        """The first result of the program `name`; its caches are updated."""
        lowered, executable = self.programs[name]
        arguments = [self.client.copy(np.asarray(array, np.int32)) for array in inputs]
        arguments += [self.caches[cache] for cache, _ in lowered.caches]
        arguments += [self.weights[weight] for weight, _ in lowered.weights]
        results = executable.execute(arguments)
        caches = results[len(lowered.outputs) :]
        self.caches.update(zip([cache for cache, _ in lowered.caches], caches, strict=True))
        return array_of(results[0]).astype(np.float32)

    def logits(self, tokens: Array, prompts: Sequence[int], bucket: int, steps: int) -> list[Array]:
        """Per sequence the logits [1 + steps, V] of its last prompt token and of `steps` tokens after it.

        tokens [b, n]; sequence i has a prompt of prompts[i] tokens, which goes through `bucket` in chunks. The caches
        are not cleared: what an earlier call left there must not matter.
        """
        batch = len(tokens)
        found: list[list[Array]] = [[] for _ in range(batch)]
        for start in range(0, max(prompts), bucket):
            places = start + np.arange(bucket)
            positions = np.stack([np.where(places < length, places, -1) for length in prompts])
            ids = np.where(positions >= 0, tokens[:, np.minimum(places, tokens.shape[1] - 1)], 0)
            ends = [length - 1 - start for length in prompts]
            rows = np.array([[end if 0 <= end < bucket else 0] for end in ends])
            logits = self.run(f"prefill_{bucket}", ids, positions, rows)
            for sequence, end in enumerate(ends):
                if 0 <= end < bucket:
                    found[sequence].append(logits[sequence, 0])
        for step in range(steps):
            positions = np.array([[length + step] for length in prompts])
            logits = self.run("decode", np.take_along_axis(tokens, positions, axis=1), positions)
            for sequence in range(batch):
                found[sequence].append(logits[sequence, 0])
        return [np.stack(rows) for rows in found]
