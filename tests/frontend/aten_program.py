"""A torch function as an IR function: exported, imported, not raised."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch

from g4c.frontend.import_aten import Interface, import_program
from g4c.ir.interpreter import interpret
from g4c.ir.module import Module
from g4c.ir.types import Array, DType

TORCH = {DType.F32: torch.float32, DType.BF16: torch.bfloat16}


class _Model(torch.nn.Module):
    """What the importer expects: the model under `decoder`, logits and caches as results."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return self.decoder(*inputs), []


class Function(torch.nn.Module):
    """A module whose forward is `function`; `parameters` by name, also of the importer's weights."""

    def __init__(self, function: Callable[..., torch.Tensor], **parameters: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        self.model = torch.nn.Module()
        for name, tensor in parameters.items():
            self.model.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs, **dict(self.model.named_parameters()))


def imported(function: Callable[..., torch.Tensor], *inputs: torch.Tensor, **parameters: torch.Tensor) -> Module:
    """The module with the one program "f", parameters x0, x1, ..., result "logits"."""
    names = tuple(f"x{i}" for i in range(len(inputs)))
    with torch.no_grad():
        exported = torch.export.export(_Model(Function(function, **parameters)), inputs, strict=False)
    module = Module("test")
    decoder = SimpleNamespace(constants={}, tied={})
    import_program(exported, module, "f", Interface(names, ()), decoder)  # type: ignore[arg-type]
    return module


def run(module: Module, *inputs: torch.Tensor, **parameters: torch.Tensor) -> Array:
    arrays = {f"x{i}": as_array(tensor) for i, tensor in enumerate(inputs)}
    weights = {name: as_array(tensor) for name, tensor in parameters.items()}
    return interpret(module, "f", arrays, weights)["logits"]


def as_array(tensor: torch.Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy().astype(DType.BF16.numpy)
    return tensor.numpy()


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    numbers = np.random.default_rng((seed, *shape)).standard_normal(shape)
    return torch.from_numpy(numbers.astype(np.float32)).to(dtype)
