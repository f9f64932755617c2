"""The custom torch ops that stay whole in an exported graph.

In: calls made by the attention function, the experts function and the cache object of `hf_model`, by its hook on the
head, and by its layer hooks. Out: nodes `g4c.*` in the graph, one per attention, mixture of experts, cache update and
row selection, which `import_aten` turns into IR ops one to one. Invariant: every op is functional, knows its result's
shape on the meta device, and (except for the layer markers, which exist only while tracing) computes the true result
on the CPU, so that the rewired model can also be run eagerly and compared with the original.

This is the only place where the semantics of attention are written down in torch; the IR's reference interpreter
states them again in numpy, and a test compares both with Hugging Face's eager attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

_library = torch.library.Library("g4c", "DEF")

_library.define("kv_update(Tensor cache, Tensor x, Tensor positions) -> Tensor")
_library.define("held_positions(Tensor positions, int slots) -> Tensor")
_library.define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor positions, Tensor key_positions, float scale, int window) -> Tensor"
)
_library.define("select_rows(Tensor x, Tensor rows) -> Tensor")
_library.define("experts(Tensor x, Tensor indices, Tensor weights, Tensor gate_up, Tensor down) -> Tensor")
_library.define("layer_enter(Tensor[] state, int layer) -> Tensor[]")
_library.define("layer_exit(Tensor[] state, int layer) -> Tensor[]")
_library.define("layer_repeat(Tensor[] state, int layer, int like) -> Tensor[]")


def _kv_update(cache: Tensor, x: Tensor, positions: Tensor) -> Tensor:
    """cache[b,C,K,d] with slot positions[b,i] mod C replaced by x[b,i] where that is not negative.

    x is [b,s,K,d], positions is [b,s] integer.
    """
    updated = cache.clone()
    for row in range(cache.shape[0]):
        for i in range(x.shape[1]):
            if positions[row, i] >= 0:
                updated[row, int(positions[row, i]) % cache.shape[1]] = x[row, i]
    return updated


def _held_positions(positions: Tensor, slots: int) -> Tensor:
    """[b, slots]: the largest p <= max(positions[b]) with p mod slots = slot, -1 where there is none."""
    last = positions.max(dim=1, keepdim=True).values
    held = last - torch.remainder(last - torch.arange(slots), slots)
    return held.clamp(min=-1).masked_fill(last < 0, -1).to(torch.int32)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, key_positions: Tensor, scale: float, window: int
) -> Tensor:
    """softmax(scale * q k^T + mask) v over cache slots; q[b,H,s,d], k and v [b,C,K,d], result [b,s,H,d].

    The key at position j is visible to the query at position p iff 0 <= j <= p and (window == 0 or j > p - window).
    Scores and softmax in f32. A query that sees no key gives NaN.
    """
    groups = q.shape[1] // k.shape[2]
    keys = k.float().transpose(1, 2).repeat_interleave(groups, dim=1)
    values = v.float().transpose(1, 2).repeat_interleave(groups, dim=1)
    held = key_positions[:, None, None, :].long()
    position = positions[:, None, :, None].long()
    visible = (held >= 0) & (held <= position)
    if window:
        visible = visible & (held > position - window)
    scores = (q.float() @ keys.transpose(2, 3) * scale).masked_fill(~visible, float("-inf"))
    weights = scores.softmax(-1).to(q.dtype).float()
    return (weights @ values).to(q.dtype).transpose(1, 2).contiguous()


def _select_rows(x: Tensor, rows: Tensor) -> Tensor:
    """y[b,i] = x[b, rows[b,i]]: x[b,s,h], rows[b,r] -> [b,r,h]."""
    return torch.stack([x[row, rows[row].long()] for row in range(x.shape[0])])


def _experts(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """sum_j weights[r,j] * down[e] (gelu(gate) * up), (gate, up) = halves of gate_up[e] x[r], e = indices[r,j].

    x [r,h], indices and weights [r,k], gate_up [E,2I,h], down [E,h,I]. The choices are added up in f32, in the order
    of the experts.
    """
    total = torch.zeros_like(x, dtype=torch.float32)
    for expert in indices.unique().tolist():
        rows, choices = torch.where(indices == expert)
        gate, up = torch.nn.functional.linear(x[rows], gate_up[expert]).chunk(2, dim=-1)
        gated = torch.nn.functional.gelu(gate, approximate="tanh") * up
        out = torch.nn.functional.linear(gated, down[expert]).float()
        total.index_add_(0, rows, out * weights[rows, choices, None].float())
    return total.to(x.dtype)


def _attention_shape(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, key_positions: Tensor, scale: float, window: int
) -> Tensor:
    batch, heads, length, head_dim = q.shape
    return q.new_empty((batch, length, heads, head_dim))


def _layer_exit_shape(state: list[Tensor], layer: int) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in state]


def _layer_repeat_shape(state: list[Tensor], layer: int, like: int) -> list[Tensor]:
    return [torch.empty_like(state[i]) for i in REPEAT_RESULTS]


# What a repeated layer returns, as indices into its state: hidden states, its own k cache, its own v cache.
REPEAT_RESULTS = (0, 1, 2)

_library.impl("kv_update", _kv_update, "CPU")
_library.impl("held_positions", _held_positions, "CPU")
_library.impl("attention", _attention, "CPU")
_library.impl("select_rows", _select_rows, "CPU")
_library.impl("experts", _experts, "CPU")
_library.impl("kv_update", lambda cache, x, positions: torch.empty_like(cache), "Meta")
_library.impl("held_positions", lambda x, slots: x.new_empty((x.shape[0], slots), dtype=torch.int32), "Meta")
_library.impl("attention", _attention_shape, "Meta")
_library.impl("select_rows", lambda x, rows: x.new_empty((x.shape[0], rows.shape[1], x.shape[2])), "Meta")
_library.impl("experts", lambda x, indices, weights, gate_up, down: torch.empty_like(x), "Meta")
_library.impl("layer_enter", _layer_exit_shape, "Meta")
_library.impl("layer_exit", _layer_exit_shape, "Meta")
_library.impl("layer_repeat", _layer_repeat_shape, "Meta")
