"""What is imported when: nothing heavy before it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FRAMEWORKS = {"torch", "torchvision", "onnx", "onnxruntime"}
HEAVY = FRAMEWORKS | {"matplotlib", "xarray", "zarr", "dask", "pandas", "imageio", "PIL"}


def imported_by(code: str, *, folder: Path | None = None) -> set[str]:
    """Run code in a fresh interpreter and give the top-level modules that it has imported in the end."""
    script = (
        f"import json, sys\n{code}\nprint('\\n' + json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_fmx_is_light() -> None:
    assert not imported_by("import fmx\nassert fmx.__version__\ndir(fmx)") & (HEAVY | {"numpy"})


def test_names_of_the_package_come_when_they_are_used() -> None:
    code = "import fmx\nfor name in fmx.__all__: assert getattr(fmx, name) is not None, name"
    found = imported_by(code)
    assert "xarray" in found
    assert not found & (FRAMEWORKS | {"matplotlib"})


def test_unknown_name_of_the_package() -> None:
    import fmx

    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = fmx.nope


COMMANDS = (
    "",
    "layers",
    "extract",
    "info",
    "stats",
    "render",
    "render grid",
    "render frames",
    "render overlay",
    "render plots",
    "render video",
    "deconv",
    "attribute",
    "occlude",
    "maximize",
    "report",
    "demo",
)


def test_help_imports_nothing_heavy() -> None:
    runs = "\n".join(
        f"sys.argv = ['fmx', *{command.split()!r}, '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code"
        for command in COMMANDS
    )
    assert not imported_by(f"from fmx.cli import main\n{runs}") & (HEAVY | {"numpy"})


def test_version_imports_nothing_heavy() -> None:
    code = "from fmx.cli import main\nsys.argv = ['fmx', '--version']\ntry: main()\nexcept SystemExit: pass"
    assert not imported_by(code) & (HEAVY | {"numpy"})


def test_adapters_recognise_sources_without_a_framework(kit: Path) -> None:
    wanted = {
        "traced.pt": "torchscript",
        "legacy.onnx": "onnx",
        "dynamo.onnx": "onnx",
        "weights.pth": "pytorch",
        "torchvision:resnet18": "pytorch",
        "package.module:factory": "pytorch",
        "pictures": None,
        "inputs.npy": None,
        "nowhere.pt": None,
    }
    code = (
        "from fmx.adapter import ModelSource, adapters\n"
        f"wanted = {wanted!r}\n"
        "for spec, name in wanted.items():\n"
        "    found = [a.name for a in adapters() if a.can_open(ModelSource(spec))]\n"
        "    assert found == ([] if name is None else [name]), (spec, found)\n"
    )
    assert not imported_by(code, folder=kit) & FRAMEWORKS


def test_format_is_told_by_content_and_not_by_name(kit: Path, tmp_path: Path) -> None:
    swapped = {"traced.pt": "a.onnx", "legacy.onnx": "b.pt", "weights.pth": "c"}
    for source, target in swapped.items():
        (tmp_path / target).write_bytes((kit / source).read_bytes())
    code = (
        "from fmx.adapter import ModelSource, adapters\n"
        "for spec, name in {'a.onnx': 'torchscript', 'b.pt': 'onnx', 'c': 'pytorch'}.items():\n"
        "    assert [a.name for a in adapters() if a.can_open(ModelSource(spec))] == [name], spec\n"
    )
    assert not imported_by(code, folder=tmp_path) & FRAMEWORKS


def test_onnx_models_run_without_torch(kit: Path) -> None:
    code = (
        "import numpy as np, fmx\n"
        "model = fmx.load('legacy.onnx')\n"
        "with model.session(['stem', 'fc']) as session:\n"
        "    found = session.run(np.load('inputs.npy'))\n"
        "assert list(found) == ['stem', 'fc'] and found['fc'].shape == (5, 5)\n"
    )
    assert not imported_by(code, folder=kit) & {"torch", "torchvision"}
