"""What is counted in the traced programs of every variant is what the closed forms say, before and after each pass.

One trace per variant, with a prefill of 4096 tokens, so that windows of 512 and 1024 are long passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from closed_forms import ClosedForms, Layer

from g4c.estimate.estimator import count_parameters
from g4c.estimate.liveness import peak_activation_bytes
from g4c.estimate.result import Parameters
from g4c.estimate.walk import measure
from g4c.estimate.work import ProgramWork
from g4c.frontend.config import load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir.module import Module
from g4c.passes.manager import PassRun, PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import DEFAULT_PIPELINE

VARIANTS = ("e2b", "e4b", "12b", "26b-a4b", "31b")
TOKENS = 4096
PREFILL = f"prefill_{TOKENS}"


@dataclass(frozen=True)
class Stage:
    """A module's figures after the passes `done`."""

    done: tuple[str, ...]
    works: dict[str, ProgramWork]
    parameters: Parameters
    cache_bytes: int
    cost_flops: dict[str, int]
    peaks: dict[str, int]

    @staticmethod
    def of(module: Module, done: tuple[str, ...]) -> Stage:
        return Stage(
            done,
            measure(module),
            count_parameters(list(module.weights.values())),
            sum(cache.type.nbytes for cache in module.caches.values()),
            {program.name: module.cost(program).flops for program in module.programs},
            {program.name: peak_activation_bytes(module, program) for program in module.programs},
        )


@pytest.fixture(scope="module")
def stages() -> Callable[[str], list[Stage]]:
    """The stages of a variant's pipeline, the trace first; made once."""
    made: dict[str, list[Stage]] = {}

    def run(variant: str) -> list[Stage]:
        if variant not in made:
            module = trace_programs(load_model_config(variant), TraceOptions(max_context=TOKENS, buckets=(TOKENS,)))
            found = [Stage.of(module, ())]

            def observe(run: PassRun) -> None:
                done = (*found[-1].done, run.entry)
                found.append(Stage.of(module, done) if run.modified else replace(found[-1], done=done))

            watch = PipelineOptions(verify_each=False, repro_dir=None, after_pass=observe, sink=lambda _: None)
            run_pipeline(module, parse_pipeline(DEFAULT_PIPELINE), watch)
            made[variant] = found
        return made[variant]

    return run


@dataclass(frozen=True)
class Expected:
    """What a program costs after the passes `done`, in closed form."""

    forms: ClosedForms
    tokens: int
    done: tuple[str, ...]

    def rows(self, layer: Layer) -> int:
        """Rows that a layer computes, but for K and V."""
        pruned = "prune-prefill" in self.done and (layer.shared or layer is self.forms.owners[-1])
        return 1 if pruned else self.tokens

    def keys(self, layer: Layer) -> int:
        """Keys that attention computes: the whole cache, or a ring, beside the chunk where the ring is too short."""
        if "window-kv-cache" not in self.done or not layer.window:
            return TOKENS
        return layer.window + (self.tokens if self.tokens > 1 else 0)

    @property
    def ple_projection(self) -> int:
        """FLOPs; precompute-ple cuts it by the rows that the layers ask for."""
        cut = "precompute-ple" in self.done
        rows = (self.rows(layer) if cut else self.tokens for layer in self.forms.layers)
        return 2 * sum(rows) * self.forms.ple * self.forms.h

    @property
    def matmul_flops(self) -> int:
        total = self.ple_projection + 2 * self.forms.head
        for layer in self.forms.layers:
            n = 2 if layer.shared and "eliminate-shared-kv" not in self.done else layer.n
            kv_rows = self.rows(layer) if layer.shared else self.tokens
            total += 2 * self.rows(layer) * self.forms.row_weights(layer)
            total += 2 * kv_rows * self.forms.kv_weights(layer, n)
        return total

    @property
    def dense_attention(self) -> int:
        return sum(self.forms.attention(layer, self.rows(layer) * self.keys(layer)) for layer in self.forms.layers)

    @property
    def seen_attention(self) -> int:
        """At the end of a context of TOKENS."""
        layers = [(layer, self.rows(layer)) for layer in self.forms.layers]
        return sum(self.forms.attention(x, self.forms.pairs(x, rows, TOKENS - rows)) for x, rows in layers)


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops(stages: Callable[[str], list[Stage]], variant: str) -> None:
    forms = ClosedForms(variant)
    for stage in stages(variant):
        for name, tokens in ((PREFILL, TOKENS), ("decode", 1)):
            work, expected = stage.works[name], Expected(forms, tokens, stage.done)
            assert work.tokens == tokens
            assert work.flops == stage.cost_flops[name]
            assert work.flops - work.attention_flops == expected.matmul_flops, stage.done
            assert work.attention_flops == expected.dense_attention, stage.done
            assert work.seen_flops(tokens, TOKENS - tokens) == expected.seen_attention, stage.done
            assert sum(work.components.values()) == work.flops
            assert work.components["head"] == 2 * forms.head
            assert work.components.get("ple_projection", 0) == expected.ple_projection
            assert "other" not in work.components
            assert sum(section.work.flops for section in work.sections()) == work.flops


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompt_without_pruning(stages: Callable[[str], list[Stage]], variant: str) -> None:
    """A prompt of 4096 tokens in one execution: 16.79, 34.07, 93.90, 28.14 and 251.4 TF."""
    for stage in stages(variant):
        if stage.done and "eliminate-shared-kv" in stage.done and "prune-prefill" not in stage.done:
            work = stage.works[PREFILL]
            total = work.flops - work.attention_flops + work.seen_flops(TOKENS, 0)
            assert total == ClosedForms(variant).prefill(TOKENS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_and_active_weights(stages: Callable[[str], list[Stage]], variant: str) -> None:
    forms = ClosedForms(variant)
    dead = sum(forms.kv_weights(layer, 2) for layer in forms.layers if layer.shared)
    norms = sum(layer.d for layer in forms.layers if layer.shared)
    for stage in stages(variant):
        stored = "eliminate-shared-kv" not in stage.done
        found = stage.parameters
        assert found.decoder == forms.decoder_parameters + (dead + norms if stored else 0)
        assert (found.ple_table, found.embedding, found.buffers) == (forms.ple_table, forms.head, len(forms.layers))
        assert found.experts == len(forms.layers) * forms.experts * 3 * forms.h * forms.expert_width
        assert stage.works["decode"].matmul_weights == forms.active_weights + (dead if stored else 0)
        whole = sum(map(forms.matmul_weights, forms.layers)) + forms.ple_projection + forms.head
        if forms.experts and "prune-prefill" in stage.done:  # the last layer chooses experts for one row
            whole -= forms.matmul_weights(forms.layers[-1])
            whole += forms.row_weights(forms.layers[-1]) + forms.kv_weights(forms.layers[-1])
        assert stage.works[PREFILL].matmul_weights == whole + (dead if stored else 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weight_bytes_of_a_trace(stages: Callable[[str], list[Stage]], variant: str) -> None:
    """Every weight once, of tables the rows alone: the embedding counts as head, per-expert scales are looked up."""
    forms = ClosedForms(variant)
    work = stages(variant)[0].works["decode"]
    dead = sum(forms.kv_weights(layer, 2) + layer.d for layer in forms.layers if layer.shared)
    norms = sum(forms.norm_weights(layer) for layer in forms.layers) + forms.h + forms.ple
    scales = len(forms.layers) * (forms.experts - forms.top_k)
    row = len(forms.layers) * forms.ple
    elements = forms.active_weights + dead + norms - scales + len(forms.layers) + row
    frequencies = 4 * sum(d // 2 for d in {layer.d for layer in forms.layers})
    assert work.weight_bytes == 2 * elements + frequencies
    assert work.looked_up == 2 * row + 2 * len(forms.layers) * forms.top_k


@pytest.mark.parametrize("variant", VARIANTS)
def test_kv_bytes(stages: Callable[[str], list[Stage]], variant: str) -> None:
    forms = ClosedForms(variant)
    for stage in stages(variant):
        owned, windowed = "eliminate-shared-kv" in stage.done, "window-kv-cache" in stage.done
        assert stage.cache_bytes == forms.cache_bytes(TOKENS, owned=owned, windowed=windowed)
        written = sum(map(forms.kv_bytes, forms.owners if owned else forms.layers))
        read = sum(forms.kv_bytes(x) * (x.window if windowed and x.window else TOKENS) for x in forms.layers)
        assert stage.works["decode"].kv_written == written
        assert stage.works["decode"].kv_read == read  # every layer reads what it attends to, its donor's, too
        assert stage.works[PREFILL].kv_written == TOKENS * written
        assert stage.works[PREFILL].kv_read == read


def shared_matmuls(work: ProgramWork) -> int:
    """FLOPs without attention of the layers that share K/V."""
    sections = [section.work for section in work.sections() if "shared" in section.name]
    return sum(section.flops - section.attention_flops for section in sections)


@pytest.mark.parametrize(("variant", "percent"), [("e2b", 69.2), ("e4b", 41.8)])
def test_what_prune_prefill_saves_in_shared_layers(
    stages: Callable[[str], list[Stage]], variant: str, percent: float
) -> None:
    """Of the matmul FLOPs of all layers, head aside; what it saves in the last owner comes on top."""
    found = stages(variant)
    before, after = next((a, b) for a, b in pairwise(found) if b.done[-1] == "prune-prefill")
    works = [stage.works[PREFILL] for stage in (before, after)]
    matmuls = [work.flops - work.attention_flops - work.components["head"] for work in works]
    saved = shared_matmuls(works[0]) - shared_matmuls(works[1])
    assert 100 * saved / matmuls[0] == pytest.approx(percent, abs=0.1)
    assert 100 * (matmuls[0] - matmuls[1]) / matmuls[0] > percent
    assert works[1].weight_bytes == works[0].weight_bytes  # all weights are read anyway


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_functions_change_no_figure(stages: Callable[[str], list[Stage]], variant: str) -> None:
    flat, cut = stages(variant)[-2:]
    assert cut.done[-1] == "specialize-layers"
    for name, work in cut.works.items():
        for figure in ("flops", "weight_bytes", "kv_read", "kv_written", "activation_traffic", "components"):
            assert getattr(work, figure) == getattr(flat.works[name], figure), (name, figure)
        assert cut.peaks[name] == flat.peaks[name]
        kinds = {s.name: s.layers for s in work.sections() if s.layers}
        assert sum(kinds.values()) == len(ClosedForms(variant).layers)
        for layer_kind in ("sliding", "full"):
            count = sum(layers for kind, layers in kinds.items() if kind.startswith(layer_kind))
            assert count == sum(x.full == (layer_kind == "full") for x in ClosedForms(variant).layers)
