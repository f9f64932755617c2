"""torch-mlir's own path from Hugging Face's model to StableHLO, as a process that announces its phases.

The peer of compile.py. In: a model as g4c takes it, and programs. Out: JSON events around the phases, one per line;
the StableHLO is not kept. The path is `torch_mlir.fx.export_and_import(module, ..., output_type="stablehlo")`, taken
apart at the seams that its own arguments offer (an exported program, a decomposition table), so that each part has
its time. The model is Hugging Face's `Gemma4ForCausalLM` on the meta device, with eager attention. Parameters and
buffers are arguments of the exported function: as attributes they would be imported as literals, which needs their
values. A prefill is a forward over token ids and positions without a cache; a decode step gets `context - 1` past
positions of every layer that owns a cache, and returns the new cache.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Announce the block as a phase."""
    print(json.dumps({"event": "begin", "phase": name}), flush=True)
    yield
    print(json.dumps({"event": "end", "phase": name}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("programs", nargs="+", metavar="PROGRAM", help="prefill_<tokens> or decode")
    options = parser.parse_args()
    lower(options.model, options.context, options.programs)


def lower(spec: str, context: int, programs: list[str]) -> None:
    """Take `programs` of the model `spec` to StableHLO."""
    with phase("import"):
        import torch
        import torch_mlir.fx
        from torch_mlir.extras.fx_decomp_util import get_decomposition_table
        from transformers.models.gemma4 import modeling_gemma4  # noqa: F401
    with phase("build on meta"):
        model = build(spec)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # The mask's `where(mask, 0, finfo.min)` has a scalar that torch-mlir imports as f64 and then cannot lower.
    table = {**get_decomposition_table(), torch.ops.aten.where.ScalarOther: where_scalar_other}
    for program in programs:
        with phase(f"{program}: export"), torch.no_grad():
            arguments = (state, *inputs(model, program, context))
            exported = torch.export.export(function(model), arguments, strict=False)
        with phase(f"{program}: decompose"):
            exported = exported.run_decompositions(table)
        with phase(f"{program}: to StableHLO"):
            torch_mlir.fx.export_and_import(exported, output_type="stablehlo", decomposition_table={})
        del exported


def build(spec: str) -> Any:
    """Hugging Face's causal LM of `spec` on the meta device, in bf16, without weights."""
    import torch
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4ForCausalLM

    from g4c.frontend.config import load_model_config

    config = Gemma4TextConfig(**copy.deepcopy(load_model_config(spec).text_config_json))
    config._attn_implementation = "eager"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = Gemma4ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(False)


def inputs(model: Any, program: str, context: int) -> tuple[Any, ...]:
    """Token ids and positions [1, s] int64; for decode also the past.

    That is K and V [1, kv_heads, context - 1, head_dim] bf16 of every layer that owns a cache.
    """
    import torch

    tokens = 1 if program == "decode" else int(program.removeprefix("prefill_"))
    ids, positions = (torch.zeros(1, tokens, dtype=torch.int64, device="meta") for _ in range(2))
    if program != "decode":
        return ids, positions
    owners = [layer.self_attn for layer in model.model.layers if not layer.self_attn.is_kv_shared_layer]
    shapes = [(1, owner.k_proj.out_features // owner.head_dim, context - 1, owner.head_dim) for owner in owners]
    past = [tuple(torch.zeros(shape, dtype=torch.bfloat16, device="meta") for _ in "kv") for shape in shapes]
    return ids, positions, past


def function(model: Any) -> torch.nn.Module:
    """`model` without state: forward(state, ids, positions[, past]) -> logits, or logits and the new cache."""
    import torch

    class Stateless(torch.nn.Module):
        def forward(self, state: Any, ids: Any, positions: Any, past: Any = None) -> Any:
            cache = None if past is None else filled_cache(past)
            keywords = {"input_ids": ids, "position_ids": positions, "past_key_values": cache}
            keywords["use_cache"] = cache is not None
            output = torch.func.functional_call(model, state, (), keywords, strict=False)
            return output.logits if cache is None else (output.logits, [(k, v) for k, v, _ in cache])

    return Stateless()


def filled_cache(past: Any) -> Any:
    """A DynamicCache that holds `past`.

    Filled by hand: `update` would first append to an empty literal, which torch-mlir refuses.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for keys, values in past:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def where_scalar_other(condition: Any, value: Any, other: float) -> Any:
    """`aten.where.ScalarOther` with the scalar as a tensor of the other operand's dtype."""
    import torch

    return torch.where(condition, value, torch.full((), other, dtype=value.dtype, device=value.device))


if __name__ == "__main__":
    main()
