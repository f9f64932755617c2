"""The bundle: the directory that `g4c compile` writes and everything else reads.

In, to write: files, then the manifest. In, to read: a directory. Out: `BundleWriter`, `open_bundle -> Bundle`.
Invariant: a directory with a `manifest.json` is a whole bundle. It is built beside its place and renamed into it, the
manifest written last; an interrupted or failed write leaves what was there before, and nothing else.

Order of a program's HLO parameters: inputs, caches, weights. Order of its results: outputs, caches.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g4c.errors import G4cError
from g4c.ir.op import Dense, InvalidOpError
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache, Source, Weight, parse_transform

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_DIGEST = "manifest_sha256"
_BLOCK = 1 << 22
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Tensor:
    """A named input or output of a program."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Kernel:
    """A generated kernel: Python source whose function `name` takes `inputs` and gives `outputs`, in order.

    `aliases` are pairs (input, output) of indices: an input that the kernel writes and returns. `cores`: 2 where two
    programs of a logical core share its work.
    """

    name: str
    file: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    aliases: tuple[tuple[int, int], ...]
    cores: int


@dataclass(frozen=True)
class Program:
    """One program of a bundle. `file` is the HLO for neuronx-cc, `cpu_file` the one that the CPU runs.

    `kernels`: SHA-256 of the sources of the kernels that `file` calls; `cpu_file` calls none. `linked_file`: `file`
    with the kernels compiled, once the bundle is linked.
    """

    name: str
    file: Path
    cpu_file: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    caches: tuple[str, ...]
    weights: tuple[str, ...]
    flops: int
    bytes: int
    kernels: tuple[str, ...] = ()
    linked_file: Path | None = None


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `manifest` is the whole JSON; the other fields are its parts that have a type of their own."""

    path: Path
    manifest: Mapping[str, Any]
    programs: Mapping[str, Program]
    caches: Mapping[str, Cache]
    weights: Mapping[str, Weight]
    kernels: Mapping[str, Kernel] = field(default_factory=dict)

    def program(self, name: str) -> Program:
        """The program called `name`; a coded error names what there is."""
        if name not in self.programs:
            known = ", ".join(self.programs)
            raise G4cError(
                "G4C-R107", f"the bundle has no program {name!r}", where=str(self.path), help=f"it has {known}"
            )
        return self.programs[name]

    @property
    def prefill_buckets(self) -> tuple[int, ...]:
        """Lengths of the prefill programs, ascending."""
        return tuple(
            sorted(int(name.removeprefix("prefill_")) for name in self.programs if name.startswith("prefill_"))
        )

    @property
    def batch(self) -> int:
        return int(self.manifest["batch"])

    @property
    def max_context(self) -> int:
        return int(self.manifest["max_context"])

    @property
    def dtype(self) -> DType:
        """The model's element type: weights, activations, caches and logits."""
        return DType(self.manifest["dtype"])

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.manifest["vocabulary"])

    @property
    def candidates(self) -> int:
        """How many of the best tokens, with their log-probabilities, the programs return per row; 0: logits."""
        first = self.program("decode").outputs[0]
        return first.type.shape[-1] if first.name == "tokens" else 0

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Token ids that end a sequence."""
        return tuple(self.manifest["eos_token_ids"])

    @property
    def packed_weights(self) -> tuple[Path, ...]:
        """The files of packed weights, empty where the bundle was compiled without a checkpoint."""
        return tuple(self.path / name for name in self.manifest["files"] if name.startswith("weights/"))


# -- JSON of the typed parts -------------------------------------------------------------------------------------------


def tensor_json(name: str, type: TensorType) -> dict[str, Any]:
    return {"name": name, **type_json(type)}


def type_json(type: TensorType) -> dict[str, Any]:
    return {"shape": list(type.shape), "dtype": type.dtype.mlir}


def weight_json(weight: Weight) -> dict[str, Any]:
    """Sources or constant, transforms, and the resulting type."""
    entry: dict[str, Any] = type_json(weight.type)
    if weight.value is not None:
        entry["value"] = {**type_json(weight.value.type), "base64": base64.b64encode(weight.value.data).decode("ascii")}
    else:
        entry["sources"] = [{"key": source.key, **type_json(source.type)} for source in weight.sources]
    if weight.transforms:
        entry["transforms"] = [str(transform) for transform in weight.transforms]
    return entry


def _type(entry: Mapping[str, Any]) -> TensorType:
    return TensorType(tuple(entry["shape"]), DType(entry["dtype"]))


def _weight(name: str, entry: Mapping[str, Any]) -> Weight:
    transforms = tuple(parse_transform(text) for text in entry.get("transforms", ()))
    if "value" in entry:
        value = Dense(_type(entry["value"]), base64.b64decode(entry["value"]["base64"], validate=True))
        return Weight(name, value=value, transforms=transforms)
    return Weight(name, tuple(Source(item["key"], _type(item)) for item in entry["sources"]), transforms=transforms)


def _program(path: Path, name: str, entry: Mapping[str, Any]) -> Program:
    return Program(
        name=name,
        file=path / entry["file"],
        cpu_file=path / entry.get("cpu_file", entry["file"]),
        inputs=tuple(Tensor(item["name"], _type(item)) for item in entry["inputs"]),
        outputs=tuple(Tensor(item["name"], _type(item)) for item in entry["outputs"]),
        caches=tuple(entry["caches"]),
        weights=tuple(entry["weights"]),
        flops=int(entry["flops"]),
        bytes=int(entry["bytes"]),
        kernels=tuple(entry.get("kernels", ())),
        linked_file=path / entry["linked_file"] if "linked_file" in entry else None,
    )


def _kernel(path: Path, entry: Mapping[str, Any]) -> Kernel:
    return Kernel(
        name=entry["name"],
        file=path / entry["file"],
        inputs=tuple(Tensor(item["name"], _type(item)) for item in entry["inputs"]),
        outputs=tuple(Tensor(item["name"], _type(item)) for item in entry["outputs"]),
        aliases=tuple((int(operand), int(result)) for operand, result in entry["aliases"]),
        cores=int(entry.get("cores", 1)),
    )


# -- reading -----------------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the bundle at `path`, schema checked. Coded errors R100, R101, R102."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        state = f"has no {MANIFEST}" if path.is_dir() else "is not a directory" if path.exists() else "does not exist"
        raise G4cError("G4C-R100", f"not a bundle: {path} {state}", help="make one with: g4c compile") from error
    except (OSError, UnicodeDecodeError) as error:
        raise G4cError("G4C-R101", f"cannot read the manifest: {error}", where=str(path / MANIFEST)) from error
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise G4cError("G4C-R101", f"the manifest is not JSON: {error}", where=str(path / MANIFEST)) from error
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        raise G4cError("G4C-R101", "the manifest has no schema_version", where=str(path / MANIFEST))
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise G4cError(
            "G4C-R102",
            f"the bundle has schema version {manifest['schema_version']!r}, this g4c reads {SCHEMA_VERSION}",
            where=str(path / MANIFEST),
            help="compile it again with this g4c",
        )
    if manifest.get(_DIGEST) != _manifest_digest(manifest):
        raise G4cError(
            "G4C-R101",
            "the manifest is not as it was written",
            where=str(path / MANIFEST),
            help="compile the bundle again",
        )
    return manifest


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of everything else that the manifest says, however it is laid out."""
    rest = {key: value for key, value in manifest.items() if key != _DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def open_bundle(path: Path | str, *, full: bool = False) -> Bundle:
    """Open and check the bundle at `path`.

    Every listed file must be there with its size; all but packed weights must have their SHA-256, packed weights only
    with `full`. Coded errors R100 to R103.
    """
    path = Path(path)
    manifest = read_manifest(path)
    try:
        bundle = Bundle(
            path=path,
            manifest=manifest,
            programs={name: _program(path, name, entry) for name, entry in manifest["programs"].items()},
            caches={name: Cache(name, _type(entry)) for name, entry in manifest["caches"].items()},
            weights={name: _weight(name, entry) for name, entry in manifest["weights"].items()},
            kernels={sha: _kernel(path, entry) for sha, entry in manifest.get("kernels", {}).items()},
        )
        missing = {sha for program in bundle.programs.values() for sha in program.kernels} - bundle.kernels.keys()
        assert not missing, f"no kernel {min(missing)}"
        files = {name: (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, InvalidOpError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise G4cError("G4C-R101", f"the manifest is damaged ({detail})", where=str(path / MANIFEST)) from error
    for name, (digest, size) in files.items():
        _check_file(path / name, digest, size, hashed=full or not name.startswith("weights/"))
    return bundle


def _check_file(path: Path, digest: str, size: int, *, hashed: bool) -> None:
    problem = None
    try:
        if path.stat().st_size != size:
            problem = f"has {path.stat().st_size} bytes, the manifest says {size}"
        elif hashed and file_digest(path) != digest:
            problem = "does not have the SHA-256 of the manifest"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    if problem:
        raise G4cError("G4C-R103", f"{path.name} {problem}", where=str(path), help="compile the bundle again")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


# -- writing -----------------------------------------------------------------------------------------------------------


class BundleWriter:
    """Builds a bundle beside its place and moves it there in one step.

    with BundleWriter(Path("build/e2b")) as writer:
        writer.write("programs/decode.hlo.pb", data)
        writer.commit(manifest)

    Leaving the block without `commit` (an error, Ctrl-C) removes all that was written. One writer per place at a time:
    the staging directory is locked, and what a killed writer left is cleared by the next. Coded errors R104 to R109.
    """

    def __init__(self, target: Path) -> None:
        check_target(target)
        self.target = target.resolve()
        self.directory = self.target.parent / f".{self.target.name}.partial"
        self._old = self.target.parent / f".{self.target.name}.replaced"
        self._files: dict[str, dict[str, Any]] = {}
        self._made: list[Path] = []
        self._lock = -1
        self._committed = False

    def __enter__(self) -> BundleWriter:
        try:
            self._make_parents()
            self._lock = _lock(self.directory)
            self._clear_leftovers()
        except BlockingIOError as error:
            raise G4cError(
                "G4C-R106", f"another g4c is writing {self.target}", help="wait for it, or name another -o"
            ) from error
        except OSError as error:
            self._abandon()
            raise writing_error(error, self.target) from error
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._committed:
            os.close(self._lock)
        else:
            self._abandon()
        if isinstance(error, OSError) and self._is_ours(error):
            raise writing_error(error, self.target) from error

    def write(self, name: str, data: bytes | str) -> Path:
        """Write one file, `name` relative to the bundle."""
        raw = data.encode("utf-8") if isinstance(data, str) else data
        path = self.place(name)
        with path.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
        return path

    def place(self, name: str) -> Path:
        """Where the caller itself may write the file `name`; `add` enters it afterwards."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, name: str, digest: str | None = None) -> None:
        """Enter a file that was written through `place`; `digest` is its SHA-256 where the caller has it already."""
        path = self.directory / name
        _sync(path)
        self._files[name] = {"sha256": digest or file_digest(path), "bytes": path.stat().st_size}

    def sha256(self, name: str) -> str:
        """SHA-256 of a file that was entered."""
        return str(self._files[name]["sha256"])

    @property
    def size(self) -> int:
        """Bytes of all files that were entered."""
        return sum(int(entry["bytes"]) for entry in self._files.values())

    def commit(self, manifest: Mapping[str, Any]) -> Path:
        """Write the manifest, then put the bundle into its place. Returns the place."""
        self._write_manifest({"schema_version": SCHEMA_VERSION, **manifest}, self._files)
        for directory in sorted({path.parent for path in self.directory.rglob("*")}):
            _sync(directory)
        with _uninterrupted():
            self._replace()
        _sync(self.target.parent)
        return self.target

    def amend(self, manifest: Mapping[str, Any]) -> None:
        """Give the bundle that is in the place the files that were written, and then in one step `manifest`, which
        lists them besides those of its own. They have names of which the bundle's manifest says nothing so far."""
        names = list(self._files)
        self._write_manifest(manifest, {**manifest["files"], **self._files})
        with _uninterrupted():
            for name in names:
                (self.directory / name).replace(self.target / name)
                _sync((self.target / name).parent)
            (self.directory / MANIFEST).replace(self.target / MANIFEST)
            _sync(self.target)
        self._files.clear()

    def _write_manifest(self, manifest: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        whole = {**manifest, "files": dict(sorted(files.items()))}
        whole[_DIGEST] = _manifest_digest(whole)
        self.write(MANIFEST, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")

    def _replace(self) -> None:
        check_target(self.target)
        replaced = self.target.is_dir() and any(self.target.iterdir())
        if replaced:
            self.target.rename(self._old)
        try:
            self.directory.rename(self.target)
        except BaseException:
            if replaced:
                self._old.rename(self.target)
            raise
        self._committed = True
        if replaced:
            _remove(self._old)

    def _is_ours(self, error: OSError) -> bool:
        """Whether `error` is about a file of the bundle; errors of descriptors name no file."""
        return error.filename is None or Path(str(error.filename)).is_relative_to(self.directory)

    def _make_parents(self) -> None:
        missing = [parent for parent in self.target.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
            self._made.append(parent)

    def _clear_leftovers(self) -> None:
        for entry in self.directory.iterdir():
            _remove(entry)
        if self._old.exists():
            if self.target.exists():
                _remove(self._old)
            else:
                self._old.rename(self.target)

    def _abandon(self) -> None:
        with _uninterrupted():
            if self._lock >= 0:
                _remove(self.directory)
                os.close(self._lock)
                self._lock = -1
            for parent in reversed(self._made):
                try:
                    parent.rmdir()
                except OSError:
                    break  # somebody else has put something there since


def check_target(target: Path) -> None:
    """Refuse a place that a bundle must not replace: a file (R104), a directory with other things in it (R105).

    R109 where the path leads nowhere.
    """
    try:
        target.resolve()
    except (OSError, RuntimeError) as error:
        raise G4cError("G4C-R109", f"cannot write {target}: {error}") from error
    if target.is_dir():
        if any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise G4cError(
                "G4C-R105",
                f"the output directory {target} holds something that is not a bundle",
                help="name a new or empty directory, or an earlier bundle",
            )
    elif target.exists():
        raise G4cError("G4C-R104", f"the output {target} is a file", help="-o names a directory")


def writing_error(error: OSError, target: Path) -> G4cError:
    """The coded error for an OSError while writing `target`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return G4cError(
            "G4C-R108", f"no space left on the disk of {target}", help="nothing was left behind; free some space"
        )
    return G4cError("G4C-R109", f"cannot write {target}: {error.strerror or error}", where=error.filename)


def _lock(directory: Path) -> int:
    """Create `directory` and lock it; returns the descriptor with the lock. BlockingIOError where another has it."""
    while True:
        directory.mkdir(exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(directory)):
                return descriptor
        except FileNotFoundError:
            pass  # the holder renamed or removed it between mkdir and here
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the end of the block: what it does must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: held.append(number)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if held:
        signal.raise_signal(held[0])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
