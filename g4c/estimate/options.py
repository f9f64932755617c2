"""What to estimate, checked against a model.

In: what the user chose. Out: `EstimateOptions`, the pipeline it means. Invariant: what passes `check` can be traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from g4c.errors import G4cError
from g4c.errors.suggest import unknown_value
from g4c.ir.types import DType
from g4c.passes.pipeline import Pipeline, check_order, parse_pipeline
from g4c.passes.pipelines import DEFAULT_PIPELINE

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig

DTYPES = {"bfloat16": DType.BF16, "float32": DType.F32}


@dataclass(frozen=True)
class EstimateOptions:
    """What to estimate. `prompt`: tokens of the prompt that TTFT is modelled for; None: the longest bucket's."""

    model: str
    tp: int = 1
    instance: str = "trn2.3xlarge"
    batch: int = 1
    prompt: int | None = None
    context: int = 2048
    buckets: tuple[int, ...] = (128, 512)
    dtype: str = "bfloat16"
    pipeline: str | None = None
    passes_off: tuple[str, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        return max(self.buckets) if self.prompt is None else self.prompt

    def check(self, config: ModelConfig) -> None:
        """Refuse shapes that `config` or each other rule out: G4C-C005, C006, C021."""
        for name in ("batch", "context"):
            if getattr(self, name) < 1:
                raise G4cError("G4C-C005", f"--{name} must be at least 1, got {getattr(self, name)}")
        listed = ",".join(map(str, self.buckets))
        if not self.buckets or min(self.buckets) < 1:
            raise G4cError("G4C-C005", f"--buckets must name lengths of at least 1, got {listed}")
        if len(set(self.buckets)) < len(self.buckets):
            raise G4cError("G4C-C005", f"--buckets names a length twice: {listed}")
        if max(self.buckets) > self.context:
            message = f"the bucket {max(self.buckets)} is longer than the context, --context {self.context}"
            raise G4cError("G4C-C005", message)
        if self.context > config.max_positions:
            message = f"--context {self.context} exceeds the model's {config.max_positions} positions"
            raise G4cError("G4C-C006", message, where=config.source)
        if not 1 <= self.prompt_tokens <= self.context:
            message = f"--prompt {self.prompt_tokens} is not within the context, 1 to {self.context} tokens"
            raise G4cError("G4C-C021", message, help="give a larger --context")

    def passes(self) -> Pipeline:
        """The pipeline to run. G4C-P001 to P006 for a malformed one, C002 and C022 for --passes-off."""
        if self.pipeline is not None and self.passes_off:
            raise G4cError("G4C-C022", "--pipeline and --passes-off are both given")
        pipeline = parse_pipeline(DEFAULT_PIPELINE if self.pipeline is None else self.pipeline)
        for name in self.passes_off:
            if name not in pipeline.names:
                raise unknown_value("pass of the default pipeline", name, dict.fromkeys(pipeline.names))
        kept = Pipeline(tuple(entry for entry in pipeline.entries if entry.step.name not in self.passes_off))
        check_order(kept)
        return kept
