"""All 35 layers of a small-width E2B on XLA's CPU backend: a decode that gives candidates and one that gives logits.

Two programs of the same trace, each in the form that the CPU runs fast, each with its own caches, 64 steps: the same
tokens, chosen on the device and on the host, and log-probabilities as torch finds them in the logits.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from g4c.frontend.config import load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir.module import Module
from g4c.ir.types import Array, DType
from g4c.lowering.neuron.lower import lower_program
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import CPU_PIPELINE, DEFAULT_PIPELINE
from g4c.runtime.candidates import Candidates
from g4c.runtime.cpu import array_of, cpu_client
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.sampling import GREEDY, Sampler, Sampling

K = 12
STEPS = 64
CUT = "specialize-layers"


class Decode:
    """The decode program of `module` after `pipeline`, on random weights; its caches are empty at first."""

    def __init__(self, module: Module, pipeline: str) -> None:
        self.module = module.copy()
        run_pipeline(self.module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))
        lowered = lower_program(self.module, "decode", target="cpu")
        self.client = cpu_client()
        self.executable = self.client.compile(lowered.hlo_proto, "decode")
        drawn = RandomWeights(0)
        weights = self.module.weights
        self.weights = [self.client.copy(weights[name].materialize(drawn.stored)) for name, _ in lowered.weights]
        self.outputs = len(lowered.outputs)
        self.reset()

    def reset(self) -> None:
        self.caches = [self.client.zeros(cache.type) for cache in self.module.caches.values()]

    def __call__(self, token: int, position: int) -> list[Array]:
        """The outputs for one token."""
        inputs = [self.client.copy(np.array([[number]], np.int32)) for number in (token, position)]
        results = self.executable.execute([*inputs, *self.caches, *self.weights])
        self.caches = results[self.outputs :]
        return [array_of(result)[0, 0] for result in results[: self.outputs]]


@pytest.mark.slow
def test_tiny_e2b_chooses_the_same_tokens() -> None:
    """Greedy; then drawn with one seed, among 6 and what is as likely as the last of them. Bf16 logits tie."""
    options = TraceOptions(buckets=(), max_context=STEPS, dtype=DType.BF16)
    module = trace_programs(load_model_config("tiny-e2b"), options)
    host = Decode(module, f"{DEFAULT_PIPELINE},{CPU_PIPELINE}")
    device = Decode(module, f"{DEFAULT_PIPELINE.replace(CUT, f'split-logits{{k={K}}},{CUT}')},{CPU_PIPELINE}")
    for sampling in (GREEDY, Sampling(temperature=0.9, top_k=6, top_p=0.97, seed=3)):
        chosen = [run(host, sampling), run(device, sampling)]
        for (logits,), (tokens, logprobs) in zip(chosen[0][1], chosen[1][1], strict=True):
            wide = torch.from_numpy(logits.astype(np.float32))
            order = torch.sort(wide, descending=True, stable=True).indices[:K]
            np.testing.assert_array_equal(tokens, order.numpy())
            likely = torch.log_softmax(wide, dim=-1)[order].numpy()
            np.testing.assert_allclose(logprobs, likely, rtol=1e-6, atol=2e-6)
        assert chosen[0][0] == chosen[1][0]
        assert len(set(chosen[0][0])) > STEPS // 4


def run(program: Decode, sampling: Sampling) -> tuple[list[int], list[list[Array]]]:
    """Tokens and outputs of a generation from token 2 on."""
    program.reset()
    sampler, tokens, outputs = Sampler(sampling), [2], []
    for position in range(STEPS):
        outputs.append(program(tokens[-1], position))
        tokens.append(sampler(Candidates(*outputs[-1]) if program.outputs == 2 else outputs[-1][0]))
    return tokens[1:], outputs
