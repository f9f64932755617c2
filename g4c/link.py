"""Linking: the kernels of a bundle compiled by the Neuron SDK, and put where its programs have placeholders.

In: a bundle that calls kernels, on a machine with the Neuron SDK (nki 0.4 to 0.6). Out: in that bundle,
`programs/<name>.linked.hlo.pb`, `kernels/<sha>/artifacts/`, and `linked` in the manifest: by what, where and of what.
Invariants: a linked program differs from its program in the `backend_config` of its kernel calls and in nothing else;
a bundle is linked whole or not at all; nki runs in a process of its own per kernel.

Compiled kernels name their artifacts by absolute path, so a bundle that was moved is linked again. Linking again, for
whatever reason, starts with taking the old link away. Written from the SDK's documentation; it has not met the SDK.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import g4c
from g4c.errors import G4cError
from g4c.lowering.neuron.neuronx_cc import TARGETS
from g4c.runtime.bundle import Bundle, BundleWriter, Kernel, Tensor, file_digest, open_bundle, read_manifest

if TYPE_CHECKING:
    from g4c.compiler import Reporter

_RELEASES = {(0, 4): (2, 25), (0, 5): (2, 26), (0, 6): (2, 27)}  # nki -> neuronx-cc, in SDK 2.30, 2.31, 2.32
_NKI_TARGETS = {"inf2": "trn1"}  # the same NeuronCore
_LOG_LINES = 12  # of a failed compile, that its error shows


def link_bundle(path: Path, reporter: Reporter) -> None:
    """Link the bundle at `path`. Nothing is done where it is linked already, or calls no kernels.

    G4C-N002 to N007 say why it cannot be; the bundle is as it was then, except that an outdated link is gone.
    """
    path = path.resolve()
    bundle = open_bundle(path)
    called = _called(bundle)
    if not called:
        reporter.note(f"no program of {path} calls a kernel: there is nothing to link")
        return
    reporter.plan(len(called) + 2)
    with reporter.phase("check the SDK") as phase:
        if TARGETS[bundle.manifest["target"]].family is None:
            message = "the bundle is for the CPU backend, which takes no compiled kernels"
            raise G4cError("G4C-N002", message, where=str(path), help="compile it with a --target such as trn2")
        made_with = _versions(_spec(kernel) for kernel in called.values())
        phase.result = f"nki {made_with['nki']}, neuronx-cc {made_with['neuronx_cc']}"
    with BundleWriter(path) as writer:  # beside the bundle, and one at a time
        bundle = open_bundle(path)
        if _is_current(bundle, made_with):
            reporter.note(f"{path} is linked already: same place and versions, artifacts as they were")
            return
        manifest = _unlinked(bundle, writer)
        try:
            _link(bundle, manifest, writer, made_with, reporter)
        except BaseException:
            if "linked" not in read_manifest(path):  # else all was done when an interrupt came
                _remove_artifacts(bundle)
            raise


def _called(bundle: Bundle) -> dict[str, Kernel]:
    """The distinct kernels that programs call, by SHA-256 of their sources."""
    return {sha: bundle.kernels[sha] for program in bundle.programs.values() for sha in program.kernels}


def _link(
    bundle: Bundle, manifest: dict[str, Any], writer: BundleWriter, made_with: Mapping[str, str], reporter: Reporter
) -> None:
    from g4c.lowering.neuron.kernel_calls import with_compiled

    configs = {}
    for sha, kernel in _called(bundle).items():
        with reporter.phase("compile kernel") as phase:
            configs[sha] = _compiled(kernel, _spec(kernel))
            phase.result = kernel.name
    with reporter.phase("write programs") as phase:
        for name, program in bundle.programs.items():
            if program.kernels:
                file = f"programs/{name}.linked.hlo.pb"
                writer.write(file, with_compiled(program.file.read_bytes(), configs))
                manifest["programs"][name]["linked_file"] = file
        artifacts = [file for kernel in _called(bundle).values() for file in _artifacts(kernel).rglob("*")]
        digests = {str(file.relative_to(bundle.path)): file_digest(file) for file in artifacts if file.is_file()}
        manifest["linked"] = {**made_with, "path": str(bundle.path), "artifacts": dict(sorted(digests.items()))}
        writer.amend(manifest)
        phase.result = f"{sum(bool(p.kernels) for p in bundle.programs.values())} programs, {len(configs)} kernels"


def _is_current(bundle: Bundle, made_with: Mapping[str, str]) -> bool:
    linked = bundle.manifest.get("linked", {})
    if not {**made_with, "path": str(bundle.path)}.items() <= linked.items():
        return False
    files = {bundle.path / name: digest for name, digest in linked["artifacts"].items()}
    return all(file.is_file() and file_digest(file) == digest for file, digest in files.items())


def _unlinked(bundle: Bundle, writer: BundleWriter) -> dict[str, Any]:
    """The manifest of the bundle without its link, which is taken out of the bundle, too."""
    manifest: dict[str, Any] = json.loads(json.dumps(bundle.manifest))
    old = [entry.pop("linked_file") for entry in manifest["programs"].values() if "linked_file" in entry]
    if manifest.pop("linked", None):
        manifest["files"] = {name: entry for name, entry in manifest["files"].items() if name not in old}
        writer.amend(manifest)
    for name in old:
        (bundle.path / name).unlink()
    _remove_artifacts(bundle)
    return manifest


def _remove_artifacts(bundle: Bundle) -> None:
    for kernel in bundle.kernels.values():
        shutil.rmtree(_artifacts(kernel), ignore_errors=True)


def _artifacts(kernel: Kernel) -> Path:
    return kernel.file.with_name("artifacts")


def _spec(kernel: Kernel) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(kernel.file.with_name("spec.json").read_text(encoding="utf-8"))
    return spec


# -- the SDK -----------------------------------------------------------------------------------------------------------


def _versions(specs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The versions of nki and neuronx-cc. G4C-N003 to N005 where one is missing, or they do not fit."""
    with tempfile.TemporaryDirectory() as folder:
        found = str(_ask({}, Path(folder), "nki")["nki"])
    nki = _release(found)
    for spec in specs:
        oldest, newest = spec["min_nki"], spec.get("max_nki")
        if nki < _release(oldest) or (newest and nki > _release(newest)):
            wanted = f"{oldest} to {newest}" if newest else f"{oldest} or later"
            message = f"nki {found} is installed, the kernels are for {wanted}"
            raise G4cError("G4C-N004", message, help="install the Neuron SDK 2.32, 2.31 or 2.30 (nki 0.6, 0.5, 0.4)")
    compiler = _neuronx_cc()
    wanted_release = _RELEASES.get(nki)
    if wanted_release is not None and _release(compiler) != wanted_release:
        wanted = ".".join(map(str, wanted_release))
        message = f"nki {found} and neuronx-cc {compiler} are of different releases of the SDK"
        raise G4cError("G4C-N005", message, help=f"install neuronx-cc {wanted}, the one released with this nki")
    return {"nki": found, "neuronx_cc": compiler}


def _neuronx_cc() -> str:
    """The version of the neuronx-cc on PATH."""
    try:
        done = subprocess.run(["neuronx-cc", "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        message = f"neuronx-cc cannot be started: {error.strerror}"
        raise G4cError("G4C-N005", message, help="put the neuronx-cc of the Neuron SDK on PATH") from error
    said = (done.stdout + done.stderr).strip()
    found = re.search(r"\d+\.\d+\.\d+[\w.]*", said.partition("\n")[0])  # the next lines are of other packages
    if found is None:
        help = "g4c looks for it in the first line"
        raise G4cError("G4C-N005", "neuronx-cc --version names no version", excerpt=said, help=help)
    return found[0]


def _release(version: str) -> tuple[int, int]:
    """Major and minor number."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise G4cError("G4C-N004", f"{version!r} is no version", help="install nki as the Neuron SDK has it")
    return int(found[1]), int(found[2])


def _compiled(kernel: Kernel, spec: Mapping[str, Any]) -> bytes:
    """The `backend_config` of the compiled kernel. G4C-N006 where nki fails, N007 where it made something else."""
    from g4c.lowering.neuron.kernel_calls import decoded

    folder = _artifacts(kernel)
    folder.mkdir()
    request = {
        "source": str(kernel.file),
        "entrypoint": spec["entrypoint"],
        "artifacts": str(folder),
        "target": _NKI_TARGETS.get(spec["target"], spec["target"]),
        "lnc": spec["lnc"],
        "cores": kernel.cores,
        "inputs": [{"name": item.name, **_array(item)} for item in kernel.inputs],
        "outputs": [_array(item) for item in kernel.outputs],
    }
    response = _ask(request, folder, kernel.name)
    wanted = {
        "outputs": [[item["shape"], item["dtype"]] for item in request["outputs"]],
        "aliases": sorted(map(list, kernel.aliases)),
        "tuple": len(kernel.outputs) > 1,
        "has_collectives": spec["has_collectives"],
    }
    for what, value in wanted.items():
        if response[what] != value:
            message = f"{kernel.name}: {what}: nki compiled {response[what]}, programs call {value}"
            raise G4cError("G4C-N007", message, where=str(kernel.file), help="this is a bug in g4c, or nki has changed")
    config = str(response["backend_config"]).encode()
    if decoded(config) is None:
        message = f"{kernel.name}: what nki gave as backend_config is not base64 of JSON"
        raise G4cError("G4C-N007", message, where=str(kernel.file), help="this is a bug in g4c, or nki has changed")
    return config


def _array(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.type.shape), "dtype": tensor.type.dtype.numpy.name}


def _ask(request: Mapping[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """What g4c.link_kernel answers, run in `folder`, which keeps request, response and output. G4C-N003, N006."""
    files = [folder / "request.json", folder / "response.json"]
    files[0].write_text(json.dumps(request, indent=1), encoding="utf-8")
    log = folder / "compile.log"
    roots = (os.environ.get("PYTHONPATH"), str(Path(g4c.__file__).parents[1]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots))}
    command = [sys.executable, "-P", "-B", "-m", "g4c.link_kernel", *map(str, files)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:  # with all that nki has started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    response = json.loads(files[1].read_text(encoding="utf-8")) if status == 0 else {"error": _ending(status)}
    if "missing" in response:
        message = f"the nki package cannot be imported: {response['missing']}"
        help = "link where the Neuron SDK is installed: nki 0.4 to 0.6 in this Python environment, neuronx-cc on PATH"
        raise G4cError("G4C-N003", message, help=help)
    if "error" in response:
        excerpt = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
        help = "what nki said is above; g4c run --cpu-kernels simulate checks the kernel without it"
        where = request.get("source")
        raise G4cError("G4C-N006", f"{name}: {response['error']}", where=where, excerpt=excerpt, help=help)
    return dict(response)


def _ending(status: int) -> str:
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
    return f"the process that ran nki {how}"
