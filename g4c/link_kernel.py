"""One kernel compiled by the nki package of the Neuron SDK: the process that `g4c link` starts for each kernel.

python -m g4c.link_kernel REQUEST RESPONSE

In: a JSON file with `source` (a path), `entrypoint`, `artifacts` (a directory), `target`, `lnc`, `cores` (how many of
them share the work), `inputs` and `outputs`, each a shape and numpy's name of a dtype; an empty object asks for nki's
version alone. Out: a JSON file with
`nki`, its version, and `backend_config`, `outputs`, `aliases`, `tuple`, `has_collectives` as nki gives them; `missing`,
why nki cannot be imported; or `error`, with the traceback on stderr.
Invariant: nki shares this process with numpy alone. Written from nki's documentation; it has not met the package.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main(request: Path, response: Path) -> None:
    response.write_text(json.dumps(answer(json.loads(request.read_text(encoding="utf-8")))), encoding="utf-8")


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The response to one request."""
    try:
        import nki
    except ImportError as error:
        return {"missing": str(error)}
    version = {"nki": str(nki.__version__)}
    try:
        return {**version, **(_compiled(request) if request else {})}
    except Exception as error:
        traceback.print_exc()
        return {**version, "error": f"{type(error).__name__}: {error}"}


def _compiled(request: Mapping[str, Any]) -> dict[str, Any]:
    import ml_dtypes  # noqa: F401  (teaches numpy the names of the extended types)
    import numpy as np
    from nki.compiler.driver import compile_to_bir
    from nki.compiler.frontend import ParserFrontend
    from nki.compiler.ncc_driver import CompilationMode, CompileOptions

    options = {
        "target": request["target"],
        "artifacts_dir": request["artifacts"],
        "output_path": str(Path(request["artifacts"]) / "unused.neff"),  # required, and not written in this mode
        "mode": CompilationMode.INTEGRATION,
    }
    if "lnc" in {field.name for field in dataclasses.fields(CompileOptions)}:  # from nki 0.5 on
        options["lnc"] = request["lnc"]
    elif request["cores"] > 1:
        raise ValueError(f"this nki takes no lnc, and {request['cores']} cores share the work of the kernel")
    result = compile_to_bir(
        _function(request["source"], request["entrypoint"]),
        frontend=ParserFrontend(),
        inputs={item["name"]: np.zeros(item["shape"], np.dtype(item["dtype"])) for item in request["inputs"]},
        compile_opts=CompileOptions(**options).disable_backend_optimizations(),
        output_names=[f"output{index}" for index, _ in enumerate(request["outputs"])],
    )
    if isinstance(result, tuple):
        raise TypeError("compile_to_bir returned a pair, as that of nki 0.3 does")
    config = result.build_config()
    text = config.backend_config_b64
    return {
        "backend_config": text.decode("ascii") if isinstance(text, bytes) else text,
        "outputs": [[list(spec.shape), _dtype_name(spec.dtype)] for spec in config.output_specs],
        "aliases": sorted([int(pair[0]), int(pair[1])] for pair in config.operand_output_aliases.items()),
        "tuple": bool(result.is_tuple_return),
        "has_collectives": bool(config.has_collectives),
    }


def _function(source: str, name: str) -> Any:
    """The kernel, from a module that is registered and has a file: nki reads the source again."""
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def _dtype_name(dtype: Any) -> str:
    """numpy's name, of whatever names a dtype: a numpy dtype, a name, an object that prints as one."""
    import numpy as np

    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype).rpartition(".")[2]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
