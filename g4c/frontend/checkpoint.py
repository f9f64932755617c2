"""Checkpoints: which tensor of which safetensors file is which decoder weight, without reading any data.

In: a checkpoint directory, single file or sharded, multimodal or text-only. Out: a `CheckpointIndex` from
decoder-relative names ("layers.0.self_attn.q_proj.weight") to extents and mapped arrays.
Invariant: after `check(config)` every decoder tensor is there with the shape that the config gives it, and every other
tensor of the files is on the drop list, with the reason why it is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from g4c.errors import G4cError
from g4c.formats.safetensors import SafetensorsError, SafetensorsFile
from g4c.frontend.config import ModelConfig, decoder_tensors, stored_kv_is_dead

if TYPE_CHECKING:
    from g4c.ir.types import Array
    from g4c.ir.weights import Source

# Published and re-saved multimodal files, text-only files, older exports, bare decoders.
PREFIXES = ("model.language_model.", "language_model.model.", "model.", "language_model.", "")
_DECODER = re.compile(r"(layers\.\d+|embed_tokens|embed_tokens_per_layer|norm|per_layer_\w+)\.")
_TOWERS = {
    "vision_tower": "vision tower",
    "vision_embedder": "vision embedder",
    "embed_vision": "vision embedder",
    "audio_tower": "audio tower",
    "embed_audio": "audio embedder",
}
_DTYPES = ("BF16", "F16", "F32")
_CODES = {"header": "G4C-F023", "truncated": "G4C-F024", "unreadable": "G4C-F031"}


@dataclass(frozen=True)
class TensorEntry:
    """One stored tensor: `dtype` by its safetensors name (BF16), `offsets` in bytes from the start of `file`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]


@dataclass(frozen=True)
class CheckpointReport:
    """The decoder tensors that are used, and every stored name that is not, with the reason."""

    used: tuple[str, ...]
    dropped: Mapping[str, str]


class CheckpointIndex:
    """The tensors of one directory: `tensors` are the decoder's, `others` the rest under their stored names."""

    def __init__(self, directory: Path, prefix: str, entries: Mapping[str, TensorEntry]) -> None:
        self.directory = directory
        self.prefix = prefix
        self.tensors: dict[str, TensorEntry] = {}
        self.others: dict[str, TensorEntry] = {}
        self._files: dict[Path, SafetensorsFile] = {}
        self._dead: Mapping[str, tuple[int, ...]] = {}
        for name, entry in entries.items():
            relative = name.removeprefix(prefix)
            if name.startswith(prefix) and _DECODER.match(relative):
                self.tensors[relative] = entry
            else:
                self.others[name] = entry

    @staticmethod
    def open(directory: Path) -> CheckpointIndex:
        """Read all headers of `directory`. Errors: F002, F020 to F024, F031 files; F029 prefix; F030 duplicates."""
        if not directory.is_dir():
            raise G4cError("G4C-F002", "no such directory", where=str(directory))
        listed = _weight_map(directory)
        files = sorted(set(listed.values())) if listed is not None else _weight_files(directory)
        entries: dict[str, TensorEntry] = {}
        opened: dict[Path, SafetensorsFile] = {}
        for path in files:
            opened[path] = _open_file(path)
            for name, extent in opened[path].tensors.items():
                if listed is not None and listed.get(name, path) != path:
                    continue
                if name in entries:
                    raise G4cError("G4C-F030", f"{name} is stored in {entries[name].file.name} too", where=str(path))
                entries[name] = TensorEntry(path, name, extent.dtype, extent.shape, (extent.begin, extent.end))
        for name, path in (listed or {}).items():
            if name not in entries:
                raise G4cError(
                    "G4C-F030", f"the index promises {name} here, the file has no such tensor", where=str(path)
                )
        index = CheckpointIndex(directory, _find_prefix(directory, entries), entries)
        index._files = opened
        return index

    def array(self, name: str) -> Array:
        """The decoder tensor `name` as stored, read-only and mapped. F025 where it is missing, F027 for its dtype."""
        entry = self.tensors.get(name)
        if entry is None:
            raise self._missing([name])
        if entry.dtype not in _DTYPES:
            raise G4cError("G4C-F027", f"{entry.name} is stored as {entry.dtype}", where=str(entry.file))
        try:
            return self._files[entry.file].array(entry.name)
        except SafetensorsError as error:
            raise G4cError(_CODES[error.kind], str(error), where=str(entry.file)) from error

    def stored(self, source: Source) -> Array:
        """The array of a weight's source, in the dtype of the file.

        K/V tensors of KV-shared layers that the file lacks are zeros: nothing reads what is computed from them.
        """
        if source.key not in self.tensors and source.key in self._dead:
            import numpy as np

            return np.broadcast_to(np.zeros((), source.type.dtype.numpy), source.type.shape)
        return self.array(source.key)

    def check(self, config: ModelConfig) -> CheckpointReport:
        """Compare with `config`. Errors: F025 missing, F026 shape, F027 dtype, F028 neither used nor dropped."""
        expected = decoder_tensors(config)
        self._dead = {name: shape for name, shape in expected.items() if stored_kv_is_dead(config, name)}
        missing = [name for name in expected if name not in self.tensors and name not in self._dead]
        if missing:
            raise self._missing(missing)
        for name, entry in self.tensors.items():
            if name in expected and entry.shape != expected[name]:
                raise G4cError(
                    "G4C-F026",
                    f"{entry.name} has shape {list(entry.shape)}, the config needs {list(expected[name])}",
                    where=str(entry.file),
                )
            if name in expected and entry.dtype not in _DTYPES:
                raise G4cError("G4C-F027", f"{entry.name} is stored as {entry.dtype}", where=str(entry.file))
        dropped = {self.tensors[name].name: "K/V of a KV-shared layer" for name in self._dead if name in self.tensors}
        unexpected: list[TensorEntry] = [entry for name, entry in self.tensors.items() if name not in expected]
        for name, entry in self.others.items():
            reason = _drop_reason(name)
            if reason is None:
                unexpected.append(entry)
            else:
                dropped[name] = reason
        if unexpected:
            raise G4cError(
                "G4C-F028",
                f"{unexpected[0].name} is not a tensor of this model{_and_more(len(unexpected) - 1)}",
                where=str(unexpected[0].file),
                help="does the config.json belong to these weights?",
            )
        return CheckpointReport(tuple(name for name in expected if name not in self._dead), dropped)

    def _missing(self, names: list[str]) -> G4cError:
        return G4cError(
            "G4C-F025",
            f"no tensor {self.prefix}{names[0]}{_and_more(len(names) - 1)}",
            where=str(self.directory),
            help="is the download complete, and does the config.json belong to these weights?",
        )


def _and_more(count: int) -> str:
    return f" (and {count} more)" if count else ""


def _drop_reason(name: str) -> str | None:
    """Why the stored tensor `name`, which is not the decoder's, may be left out; None where it may not."""
    if name.endswith("lm_head.weight"):
        return "tied to embed_tokens.weight"
    return next((_TOWERS[part] for part in name.split(".")[:3] if part in _TOWERS), None)


def _open_file(path: Path) -> SafetensorsFile:
    try:
        return SafetensorsFile(path)
    except SafetensorsError as error:
        raise G4cError(_CODES[error.kind], str(error), where=str(path)) from error


def _weight_files(directory: Path) -> list[Path]:
    """Without an index: model.safetensors, else every safetensors file."""
    single = directory / "model.safetensors"
    files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if not files:
        raise G4cError("G4C-F020", "no safetensors files in this directory", where=str(directory))
    return files


def _weight_map(directory: Path) -> dict[str, Path] | None:
    """Tensor name -> file by the index, None without one. model.safetensors goes first, as in transformers."""
    indices = sorted(directory.glob("*.safetensors.index.json"))
    if (directory / "model.safetensors").exists() or not indices:
        return None
    path = indices[0]
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except OSError as error:
        raise G4cError("G4C-F031", f"cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise G4cError("G4C-F021", "not a JSON object with a weight_map", where=str(path)) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise G4cError("G4C-F021", "weight_map is not an object with entries", where=str(path))
    files: dict[str, Path] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise G4cError(
                "G4C-F021", f"weight_map gives {name} the file {file!r}, not a plain file name", where=str(path)
            )
        files[name] = directory / file
    for file in sorted(set(files.values())):
        if not file.exists():
            raise G4cError("G4C-F022", f"{path.name} names {file.name}, which is not here", where=str(directory))
    return files


def _find_prefix(directory: Path, names: Mapping[str, TensorEntry]) -> str:
    found = [
        prefix
        for prefix in PREFIXES
        if any(name.startswith(prefix) and _DECODER.match(name, len(prefix)) for name in names)
    ]
    if len(found) != 1:
        seen = f"several: {', '.join(found)}" if found else f"none among {len(names)} tensors"
        raise G4cError("G4C-F029", f"one prefix of decoder tensors is expected, there are {seen}", where=str(directory))
    return found[0]
