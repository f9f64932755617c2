"""What to compile and how, and the key that tells whether that has been done.

In: what the user chose. Out: `CompileOptions`, checked against a model; `compile_key`. Invariant: two compiles with the
same key make the same bundle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from g4c.errors import G4cError
from g4c.errors.suggest import unknown_value
from g4c.ir.types import DType
from g4c.lowering.neuron.neuronx_cc import TARGETS

if TYPE_CHECKING:
    from g4c.frontend.config import ModelConfig

# Options that change how g4c works, not what it makes.
_NOT_IN_KEY = frozenset({"output", "dump_dir", "verify_each", "force", "model"})
DTYPES = {"bfloat16": DType.BF16, "float32": DType.F32}
_SAMPLES = {"host": 0, "on-device": 1}
KV_KINDS = ("full", "v-only", "auto")
KERNELS = ("none", "attention", "all")
MAX_CANDIDATES = 256  # what top_k is lowered for
_VERSIONED = ("torch", "transformers", "torch-mlir", "jaxlib", "numpy", "ml_dtypes", "protobuf")


@dataclass(frozen=True)
class CompileOptions:
    """What to compile and how. `model`: variant name, config.json or checkpoint directory. `sample`: host (programs
    return logits) or on-device[:K] (they return the K best tokens, 1 by default). `kv`: full (K and V are cached),
    v-only (where K can be rebuilt from V, V alone is), or auto (v-only where only that fits). `kernels`: which parts of
    the programs become calls of generated kernels; none is plain HLO."""

    model: str
    output: Path
    tp: int = 1
    buckets: tuple[int, ...] = (128, 512)
    batch: int = 1
    max_context: int = 2048
    dtype: str = "bfloat16"
    logit_rows: int = 1
    sample: str = "host"
    kv: str = "auto"
    kernels: str = "none"
    target: str = "trn2"
    pipeline: str | None = None
    dump_dir: Path | None = None
    verify_each: bool = True
    pack_weights: bool = True
    force: bool = False

    @property
    def name(self) -> str:
        """What the bundle is called: the variant, or the file or directory without its suffix."""
        return Path(self.model).resolve().stem if Path(self.model).exists() else self.model

    @property
    def candidates(self) -> int:
        """How many of the best tokens a program returns in place of logits; 0: logits. G4C-C002, C040."""
        where, _, count = self.sample.partition(":")
        if where not in _SAMPLES:
            raise unknown_value("--sample", where, _SAMPLES)
        if self.sample in _SAMPLES:
            return _SAMPLES[self.sample]
        if where == "host" or not count.isdecimal() or not 1 <= int(count) <= MAX_CANDIDATES:
            wanted = f"host, on-device or on-device:K with K from 1 to {MAX_CANDIDATES}"
            raise G4cError("G4C-C040", f"--sample takes {wanted}, got {self.sample}")
        return int(count)

    def check(self, config: ModelConfig) -> None:
        """Refuse what cannot be compiled for `config`: coded errors C002 to C006, C014, C030, C031, C040 to C042.

        P001 to P006 where the pipeline is not one.
        """
        from g4c.passes.pipeline import parse_pipeline

        if self.target not in TARGETS:
            raise unknown_value("target", self.target, TARGETS)
        parse_pipeline(self.pipeline or "")
        if self.tp != 1:
            message = f"--tp {self.tp} is not supported"
            raise G4cError("G4C-C004", message, help="supported: --tp 1, one logical NeuronCore")
        if self.dump_dir is not None and self.dump_dir.absolute().is_relative_to(self.output.absolute()):
            raise G4cError("G4C-C014", f"--dump-dir {self.dump_dir} is inside the output {self.output}")
        problem = self._shape_problem()
        if problem:
            raise G4cError("G4C-C005", problem)
        if self.max_context > config.max_positions:
            message = f"--max-context {self.max_context} exceeds the model's {config.max_positions} positions"
            raise G4cError("G4C-C006", message, where=config.source)
        self._check_kv(config)
        if self.kernels not in KERNELS:
            raise unknown_value("--kernels", self.kernels, KERNELS)
        if self.kernels != "none" and "outline-kernels" in (self.pipeline or ""):
            message = f"--kernels {self.kernels} appends outline-kernels, --pipeline has it already"
            raise G4cError("G4C-C042", message, help="give --kernels, or outline-kernels in --pipeline")
        if self.candidates > config.vocab_size:
            message = f"--sample {self.sample} asks for more candidates than the model has tokens, {config.vocab_size}"
            raise G4cError("G4C-C040", message, where=config.source)
        if self.candidates and "split-logits" in (self.pipeline or ""):
            message = f"--sample {self.sample} appends split-logits, --pipeline has it already"
            raise G4cError("G4C-C041", message, help="give --sample, or split-logits{k=K} in --pipeline")

    def _check_kv(self, config: ModelConfig) -> None:
        if self.kv not in KV_KINDS:
            raise unknown_value("--kv", self.kv, KV_KINDS)
        if self.kv == "v-only" and not any(layer.k_eq_v for layer in config.layers):
            message = "--kv v-only, but in no layer of this model K can be rebuilt from V"
            raise G4cError("G4C-C030", message, where=config.source, help="leave --kv out, or give --kv full")
        if self.kv != "auto" and "rebuild-keys" in (self.pipeline or ""):
            message = f"--kv {self.kv} says whether rebuild-keys runs, --pipeline has it already"
            raise G4cError("G4C-C031", message, help="give --kv, or rebuild-keys in --pipeline")

    def _shape_problem(self) -> str | None:
        for name in ("batch", "max_context", "logit_rows"):
            if getattr(self, name) < 1:
                return f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}"
        if not self.buckets or min(self.buckets) < 1:
            return f"--buckets must name lengths of at least 1, got {','.join(map(str, self.buckets))}"
        if len(set(self.buckets)) < len(self.buckets):
            return f"--buckets names a length twice: {','.join(map(str, self.buckets))}"
        if max(self.buckets) > self.max_context:
            return f"the bucket {max(self.buckets)} is longer than the context, --max-context {self.max_context}"
        if self.logit_rows > min(self.buckets):
            return f"--logit-rows {self.logit_rows} exceeds the smallest bucket, {min(self.buckets)}"
        return None


def versions() -> dict[str, str]:
    """Versions of everything that takes part in a compile."""
    import importlib.metadata
    import platform

    import g4c

    found = {package.replace("-", "_"): importlib.metadata.version(package) for package in _VERSIONED}
    return {"g4c": g4c.__version__, "python": platform.python_version(), **found}


def compile_key(options: CompileOptions, config: ModelConfig) -> str:
    """SHA-256 over what decides the bundle: options, config, checkpoint files, versions, and g4c's own source."""
    fields = {field.name: plain(getattr(options, field.name)) for field in dataclasses.fields(options)}
    weights: list[object] = []
    if config.checkpoint is not None and options.pack_weights:
        for path in sorted(config.checkpoint.iterdir()):
            status = path.stat()
            weights.append((path.name, status.st_size, status.st_mtime_ns))
    source = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        source.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    parts = {
        "options": {name: value for name, value in fields.items() if name not in _NOT_IN_KEY},
        "name": options.name,
        "config": config.config_json,
        "checkpoint": weights,
        "versions": versions(),
        "source": source.hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def plain(value: object) -> object:
    """`value` as JSON has it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
