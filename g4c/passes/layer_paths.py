"""Layers in module paths: "model.layers.3.mlp.gate_proj" lies in "model.layers.3"; any layer is "model.layers.*".

In and out: the dotted paths of op locations and the dotted names of weights.
"""

from __future__ import annotations

import re

from g4c.ir.op import Loc

_LAYER = re.compile(r"(?:.*?\.)?layers\.\d+(?=\.|$)")
_INDEX = re.compile(r"\d+$")


def layer_of(path: str) -> str | None:
    """The layer that `path` lies in ("model.layers.3"), or None."""
    match = _LAYER.match(path)
    return match[0] if match else None


def any_layer(layer: str) -> str:
    """ "model.layers.3" -> "model.layers.*"."""
    return _INDEX.sub("*", layer)


def to_any_layer(loc: Loc, layer: str) -> Loc:
    """`loc` with the index of `layer` replaced by *; locations outside the layer stay."""
    return Loc(_moved(loc.path, layer, any_layer(layer)), loc.file, loc.line)


def to_layer(loc: Loc, layer: str) -> Loc:
    """The inverse of `to_any_layer`."""
    return Loc(_moved(loc.path, any_layer(layer), layer), loc.file, loc.line)


def _moved(path: str, old: str, new: str) -> str:
    return new + path[len(old) :] if path == old or path.startswith(old + ".") else path


def relative_name(weight: str) -> str:
    """Name of a weight within its layer: "layers.3.mlp.up_proj.weight" -> "mlp.up_proj.weight"; others stay."""
    layer = layer_of(weight)
    return weight[len(layer) + 1 :] if layer else weight
