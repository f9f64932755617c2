"""The programs of one trace after different pipelines, side by side on the CPU backend of this process.

In: a trace and pipelines. Out: `Programs`, which know what they cost and run a prefill and steps of decode. Invariant:
what two forms have in common, weights made of the same and programs of the same HLO, they share, so that differences
between their times are not those of two compilations.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from g4c.ir.module import Module
    from g4c.ir.weights import Weight
    from g4c.lowering.neuron.lower import LoweredProgram

DECODE = "decode"


class Device:
    """XLA's CPU client with what is on it: buffers of random weights, executables."""

    def __init__(self, threads: int, seed: int) -> None:
        from g4c.runtime.cpu import cpu_client
        from g4c.runtime.random_weights import RandomWeights

        self.client = cpu_client(threads)
        self._provider = RandomWeights(seed)
        self._weights: dict[Weight, Any] = {}
        self._executables: dict[bytes, Any] = {}

    def weight(self, weight: Weight) -> Any:
        """The buffer of `weight`."""
        from g4c.runtime.weights import WeightStore

        key = _ingredients(weight)
        if key not in self._weights:
            self._weights[key] = self.client.bind(WeightStore({weight.name: weight}, self._provider)[weight.name])
        return self._weights[key]

    def executable(self, program: LoweredProgram) -> Any:
        """`program`, compiled."""
        if program.hlo_proto not in self._executables:
            self._executables[program.hlo_proto] = self.client.compile(program.hlo_proto, program.name)
        return self._executables[program.hlo_proto]

    def keep(self, programs: Programs) -> None:
        """Forget what `programs` do not use."""
        weights = {_ingredients(weight) for weight in programs.weights}
        protos = {lowered.hlo_proto for lowered in programs.lowered.values()}
        self._weights = {key: buffer for key, buffer in self._weights.items() if key in weights}
        self._executables = {key: loaded for key, loaded in self._executables.items() if key in protos}


def _ingredients(weight: Weight) -> Weight:
    return dataclasses.replace(weight, name="")


class Programs:
    """The programs of `traced`, one prefill and decode, after `pipeline`, in the form that `g4c run` executes.

    `costs`: FLOPs and HLO instructions per program, bytes of weights and caches. `text`: the module that `pipeline`
    left.
    """

    def __init__(self, device: Device, traced: Module, pipeline: str) -> None:
        from g4c.ir.op import Level
        from g4c.ir.printer import print_module
        from g4c.lowering.neuron.lower import lower_program
        from g4c.passes.manager import PipelineOptions, run_pipeline
        from g4c.passes.pipeline import parse_pipeline
        from g4c.passes.pipelines import CPU_PIPELINE

        quiet = PipelineOptions(repro_dir=None, sink=lambda _: None)
        module = traced.copy()
        run_pipeline(module, parse_pipeline(pipeline), quiet)
        self.pipeline = pipeline
        self.text = print_module(module, locations=False)
        self.costs = costs(module)
        if module.level is Level.GRAPH:
            run_pipeline(module, parse_pipeline(CPU_PIPELINE), quiet)
        self.lowered = {program.name: lower_program(module, program.name, target="cpu") for program in module.programs}
        self.weights = list(module.weights.values())
        self._client = device.client
        self._executables = {name: device.executable(program) for name, program in self.lowered.items()}
        self._weights = {weight.name: device.weight(weight) for weight in self.weights}
        self._caches = {name: self._client.zeros(cache.type) for name, cache in module.caches.items()}
        (self._prefill,) = [name for name in self.lowered if name != DECODE]

    def run(self, tokens: Any, steps: int) -> tuple[float, float, Any]:
        """Seconds of a prefill, and of a step of decode, with what the prefill returns for its last row.

        The last `steps` of the tokens [batch, n] are for decode.
        """
        batch, length = tokens.shape[0], tokens.shape[1] - steps
        positions = np.broadcast_to(np.arange(length), (batch, length))
        start = time.perf_counter()
        result = self._execute(self._prefill, tokens[:, :length], positions, np.full((batch, 1), length - 1))
        middle = time.perf_counter()
        for at in range(length, length + steps):
            self._execute(DECODE, tokens[:, at : at + 1], np.full((batch, 1), at))
        end = time.perf_counter()
        return middle - start, (end - middle) / max(steps, 1), result

    def _execute(self, name: str, *inputs: Any) -> Any:
        """The first result of the program `name`; its caches are updated in place."""
        from g4c.runtime.cpu import array_of

        lowered = self.lowered[name]
        buffers = [self._client.copy(np.asarray(array, np.int32)) for array in inputs]
        buffers += [self._caches[cache] for cache, _ in lowered.caches]
        buffers += [self._weights[weight] for weight, _ in lowered.weights]
        results = self._executables[name].execute(buffers)
        states = results[len(lowered.outputs) :]
        self._caches.update(zip([cache for cache, _ in lowered.caches], states, strict=True))
        return array_of(results[0])


def costs(module: Module) -> dict[str, float]:
    """What the module's own tables and ops say, and how many instructions there are in the HLO for neuronx-cc."""
    from g4c.lowering.neuron.hlo_proto import HloModule
    from g4c.lowering.neuron.lower import lower_program

    found: dict[str, float] = {
        "weight_bytes": _bytes(module.weights.values()),
        "kv_bytes": _bytes(module.caches.values()),
    }
    for program in module.programs:
        kind = program.name.partition("_")[0]
        proto = HloModule.FromString(lower_program(module, program.name, target="trn2").hlo_proto)
        found[f"{kind}_flops"] = module.cost(program).flops
        found[f"{kind}_hlo"] = sum(len(computation.instructions) for computation in proto.computations)
    return found


def _bytes(table: Iterable[Any]) -> int:
    return sum(entry.type.nbytes for entry in table)
