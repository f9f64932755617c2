"""From a model config to the GRAPH module: trace, import, raise.

In: a `ModelConfig` and `TraceOptions`. Out: a verified module with one function per program (`prefill_<bucket>`,
`decode`), weights as symbols, one K and one V cache per layer. No weight is read. Invariant: the module is what
Hugging Face's model code does for this config; nothing else is a source of its structure.

Tracing allocates many small objects that live until the end, so the cyclic garbage collector only costs time here and
is off meanwhile.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram

from g4c.errors import G4cError
from g4c.frontend.config import ModelConfig
from g4c.frontend.hf_model import Decoder, Program, build_decoder
from g4c.frontend.import_aten import Interface, import_program
from g4c.frontend.layer_repetition import repeated_layers
from g4c.frontend.raising import raise_module
from g4c.ir.module import Module
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache

_TORCH_DTYPES = {DType.F32: torch.float32, DType.BF16: torch.bfloat16}


@dataclass(frozen=True)
class TraceOptions:
    """What to trace. `buckets`: prompt lengths of the prefill programs; `logit_rows`: rows whose logits a prefill
    returns.

    `every_layer` traces all layers instead of one per kind: the same module, several times slower. `raised` False stops
    before raising, at elementary ops.
    """

    batch: int = 1
    max_context: int = 2048
    buckets: tuple[int, ...] = (128, 512)
    dtype: DType = DType.BF16
    logit_rows: int = 1
    every_layer: bool = False
    raised: bool = True

    def __post_init__(self) -> None:
        assert self.batch >= 1
        assert self.max_context >= 1
        assert self.dtype in _TORCH_DTYPES, self.dtype
        assert len(set(self.buckets)) == len(self.buckets), self.buckets
        assert all(1 <= self.logit_rows <= bucket <= self.max_context for bucket in self.buckets), self


@dataclass(frozen=True)
class ProgramShape:
    """One program: `length` positions per call, wherever they start.

    `rows`: how many rows of logits it returns, chosen at run time; 0: those of all positions.
    """

    name: str
    length: int
    rows: int


def program_shapes(options: TraceOptions) -> list[ProgramShape]:
    """The programs that `options` ask for."""
    prefill = [ProgramShape(f"prefill_{n}", n, options.logit_rows) for n in options.buckets]
    return [*prefill, ProgramShape("decode", 1, 0)]


def trace_programs(config: ModelConfig, options: TraceOptions) -> Module:
    """Trace every program of `options` into one module. Errors: G4C-F050 to F054."""
    with _without_garbage_collection():
        decoder = build_decoder(config, _TORCH_DTYPES[options.dtype])
        module = new_module(config, decoder, options)
        with nullcontext() if options.every_layer else repeated_layers(decoder):
            for shape in program_shapes(options):
                add_program(module, decoder, shape, options)
        if options.raised:
            raise_module(module)
    return module


def new_module(config: ModelConfig, decoder: Decoder, options: TraceOptions) -> Module:
    """A module without functions, with the caches "layers.<i>.k" and "layers.<i>.v"."""
    module = Module(config.variant or "model")
    module.attributes["batch"] = options.batch
    module.attributes["max_context"] = options.max_context
    for index, (kv_heads, head_dim) in enumerate(decoder.kv_shapes):
        type = TensorType((options.batch, options.max_context, kv_heads, head_dim), options.dtype)
        for part in "kv":
            module.add_cache(Cache(f"layers.{index}.{part}", type))
    return module


def add_program(module: Module, decoder: Decoder, shape: ProgramShape, options: TraceOptions) -> None:
    """Export one program and import it into `module`, unraised."""
    exported = _export(decoder, module, shape, options)
    inputs = ("token_ids", "positions", "rows") if shape.rows else ("token_ids", "positions")
    import_program(exported, module, shape.name, Interface(inputs, tuple(module.caches)), decoder)


def _export(decoder: Decoder, module: Module, shape: ProgramShape, options: TraceOptions) -> ExportedProgram:
    def meta(dims: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(dims, dtype=dtype, device="meta")

    inputs = [meta((options.batch, shape.length), torch.int32) for _ in range(2)]
    if shape.rows:
        inputs.append(meta((options.batch, shape.rows), torch.int32))
    caches = [meta(cache.type.shape, _TORCH_DTYPES[cache.type.dtype]) for cache in module.caches.values()]
    program = Program(decoder, select_rows=bool(shape.rows))
    try:
        with torch.no_grad():
            return torch.export.export(program, (inputs, caches), strict=False)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError, AssertionError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise G4cError("G4C-F052", f"{type(error).__name__}: {first_line}", where=shape.name) from error


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
