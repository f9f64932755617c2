"""Trace one decoder layer of each kind and say of the others only that they are like it.

In: a decoder and its `Program`. Out: inside `repeated_layers(...)`, exporting the program yields a graph in which the
first layer of each kind is traced as it is, between `g4c.layer_enter` and `g4c.layer_exit` (both identities), and
each further layer of the kind is one node `g4c.layer_repeat(state, layer, like)`. `import_aten` replays the traced
nodes for it, with its own weights. Invariant: the replayed graph is the graph that tracing every layer would have
given (a test compares them, full size included).

Two layers are of one kind if their modules are built alike: same classes, same plain attributes (the layer index
aside), same config objects, parameters and buffers of the same names, shapes and dtypes, and caches read and written
alike. Nothing is assumed about Gemma 4: a layer that differs in any attribute is traced for itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from g4c.frontend.hf_model import Decoder, ProgramCache

_BOOKKEEPING = frozenset(vars(nn.Module()))


def layer_kinds(decoder: Decoder) -> tuple[int, ...]:
    """For each layer the first layer that is built like it."""
    first: dict[tuple[object, ...], int] = {}
    kinds = []
    for index, layer in enumerate(decoder.layers):
        shares = decoder.donors[index] != index
        donor_shape = decoder.kv_shapes[decoder.donors[index]]
        kinds.append(first.setdefault((shares, donor_shape, *_fingerprint(layer)), index))
    return tuple(kinds)


def _fingerprint(layer: nn.Module) -> Iterator[object]:
    for path, module in layer.named_modules():
        yield path, type(module)
        for name, value in sorted(vars(module).items()):
            if name != "layer_idx" and name not in _BOOKKEEPING:
                yield name, _description(value)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            yield name, None if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _description(value: object) -> object:
    """Equal for attributes that mean the same. Unknown objects are equal only to themselves, which is safe: one trace
    more.
    """
    if isinstance(value, functools.partial):
        return id(value.func), repr(value.args), repr(value.keywords)
    return repr(value) if isinstance(value, str | int | float | bool | None) else id(value)


@contextmanager
def repeated_layers(decoder: Decoder) -> Iterator[None]:
    """Within this context the decoder's layers are traced once per kind. Not reentrant; the module tree is restored
    at the end.
    """
    kinds = layer_kinds(decoder)
    layers = decoder.layers
    originals = list(layers)
    hooks = []
    try:
        for index, like in enumerate(kinds):
            if like != index:
                layers[index] = _RepeatedLayer(decoder, index, like)
            elif kinds.count(index) > 1:
                boundary = _Boundary(decoder, index)
                hooks.append(originals[index].register_forward_pre_hook(boundary.enter, with_kwargs=True))
                hooks.append(originals[index].register_forward_hook(boundary.exit, with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for index, layer in enumerate(originals):
            layers[index] = layer


class _LayerState:
    """The tensors that a layer's call reads, as one list, and how to put a list back into the call.

    Order: hidden states, own K, own V (these three come back), cos, sin, positions, then the per-layer input and the
    donor's K and V where the layer has them.
    """

    def __init__(self, decoder: Decoder, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.cache: ProgramCache = kwargs["past_key_values"]
        self.layer, self.donor = layer, decoder.donors[layer]

    def tensors(self) -> list[Tensor]:
        cache, layer, donor = self.cache, self.layer, self.donor
        hidden, *per_layer = self.args
        state = [
            hidden,
            cache.keys[layer],
            cache.values[layer],
            *self.kwargs["position_embeddings"],
            self.kwargs["position_ids"],
        ]
        state += [tensor for tensor in per_layer if tensor is not None]
        return state if donor == layer else [*state, cache.keys[donor], cache.values[donor]]

    def put(self, state: list[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with `state` in place of its tensors. The cache's entries are replaced, too."""
        rest = iter(state)
        hidden, self.cache.keys[self.layer], self.cache.values[self.layer] = next(rest), next(rest), next(rest)
        changed = {"position_embeddings": (next(rest), next(rest)), "position_ids": next(rest)}
        per_layer = [None if tensor is None else next(rest) for tensor in self.args[1:]]
        if self.donor != self.layer:
            self.cache.keys[self.donor], self.cache.values[self.donor] = next(rest), next(rest)
        assert next(rest, None) is None
        return (hidden, *per_layer), {**self.kwargs, **changed}


class _Boundary:
    """Hooks around a layer that is traced for others, too: its tensors pass through `layer_enter` and `layer_exit`."""

    def __init__(self, decoder: Decoder, layer: int) -> None:
        self.decoder, self.layer = decoder, layer
        self.donor_state: tuple[Tensor, Tensor] | None = None

    def enter(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call = _LayerState(self.decoder, self.layer, args, kwargs)
        self.donor_state = call.cache.keys[call.donor], call.cache.values[call.donor]
        return call.put(torch.ops.g4c.layer_enter(call.tensors(), self.layer))

    def exit(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> Tensor:
        cache: ProgramCache = kwargs["past_key_values"]
        donor = self.decoder.donors[self.layer]
        if donor != self.layer:  # inside the layer the donor's state went by another name; outside it is unchanged
            assert self.donor_state is not None
            cache.keys[donor], cache.values[donor] = self.donor_state
        state = [hidden, cache.keys[self.layer], cache.values[self.layer]]
        hidden, cache.keys[self.layer], cache.values[self.layer] = torch.ops.g4c.layer_exit(state, self.layer)
        return hidden


class _RepeatedLayer(nn.Module):
    """Stands for layer `layer`, which is built like layer `like`."""

    def __init__(self, decoder: Decoder, layer: int, like: int) -> None:
        super().__init__()
        self.state: Callable[..., _LayerState] = lambda args, kwargs: _LayerState(decoder, layer, args, kwargs)
        self.layer, self.like = layer, like

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        call = self.state(args, kwargs)
        cache = call.cache
        result = torch.ops.g4c.layer_repeat(call.tensors(), self.layer, self.like)
        hidden, cache.keys[self.layer], cache.values[self.layer] = result
        return hidden
