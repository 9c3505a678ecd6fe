"""Operators of libraries: only with trust, and named where they are missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import fmx
from fmx.errors import ModelError

# TorchScript is deprecated upstream; its files are there all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")

SHAPE = (4,)


def data() -> np.ndarray:
    return np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)


def onnx_file(path: Path, op: str, domain: str, *, subgraph: bool = False) -> Path:
    """A graph x → op(x) → relu, the operator perhaps in a branch."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node(op, ["x"], ["y"], domain=domain, name="odd")]
    extra = []
    if subgraph:
        inner = helper.make_graph(nodes, "branch", [], [value("y", TensorProto.FLOAT, None)])
        nodes = [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "zero"], ["yes"]),
            helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner),
        ]
        extra = [helper.make_tensor("zero", TensorProto.FLOAT, (), [0.0])]
    last = "z" if subgraph else "y"
    nodes.append(helper.make_node("Relu", [last], ["relu"]))
    nodes.append(helper.make_node("Neg", ["relu"], ["end"]))
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 4])], [value("end", TensorProto.FLOAT, None)], extra
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def marking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A library that says when it is loaded: the library, and the file that it makes then."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform == "win32":
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("library")
    mark = folder / "ran"
    code = f"""
    #include <stdio.h>
    __attribute__((constructor)) static void run(void) {{ fclose(fopen("{mark}", "w")); }}
    """
    (folder / "mark.c").write_text(code)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "mark.so", folder / "mark.c"], check=True)
    return folder / "mark.so", mark


# -- what may be given -----------------------------------------------------------------------------


def test_a_library_takes_trust(marking: tuple[Path, Path]) -> None:
    library, mark = marking
    with pytest.raises(ModelError, match=r"runs when it is loaded: add --trust"):
        fmx.load(nn.ReLU(), input_shape=SHAPE, operators=[library])
    assert not mark.exists()
    fmx.load(nn.ReLU(), input_shape=SHAPE, operators=[library], trust=True)
    assert mark.exists()


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "mine.so").touch()
    with pytest.raises(ModelError, match=r"no library .*mime\.so.*mine\.so"):
        fmx.load(nn.ReLU(), operators=[tmp_path / "mime.so"], trust=True)


def test_a_library_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "mine.so").write_text("no library")
    with pytest.raises(ModelError, match="can't be loaded as a library of operators"):
        fmx.load(nn.ReLU(), input_shape=SHAPE, operators=[tmp_path / "mine.so"], trust=True)
    file = onnx_file(tmp_path / "m.onnx", "Odd", "mine")
    with pytest.raises(ModelError, match="holds no operators for ONNX Runtime"):
        _ = fmx.load(file, operators=[tmp_path / "mine.so"], trust=True).layers


# -- ONNX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subgraph", [False, True])
def test_onnx_names_the_operator_that_is_missing(subgraph: bool, tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "m.onnx", "Odd", "mine.own", subgraph=subgraph)
    with pytest.raises(ModelError, match=r"needs the operator mine\.own::Odd of a library.*--operators FILE") as error:
        _ = fmx.load(file).layers
    assert "\n" not in str(error.value)


def test_onnx_with_a_library() -> None:
    extensions = pytest.importorskip("onnxruntime_extensions")
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("NegPos", ["x"], ["neg", "pos"], domain="ai.onnx.contrib"),
        helper.make_node("Exp", ["pos"], ["exp"]),
        helper.make_node("Relu", ["exp"], ["end"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 4])], [value("end", TensorProto.FLOAT, None)]
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.contrib", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
    with pytest.raises(ModelError, match=r"ai\.onnx\.contrib::NegPos"):
        _ = fmx.load(proto).layers
    model = fmx.load(proto, operators=[extensions.get_library_path()], trust=True)
    batch = data() - 0.5
    for engine in ("eager", "auto"):
        with model.session(["pos", "exp"], engine=engine) as session:
            values = session.run(batch)
        np.testing.assert_array_equal(values["pos"], np.maximum(batch, 0))
        np.testing.assert_allclose(values["exp"], np.exp(np.maximum(batch, 0)), rtol=1e-6)
    with pytest.raises(ModelError, match=r"ai\.onnx\.contrib\.NegPos"):
        model.torch_module()


# -- torch -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twice() -> Iterator[object]:
    """An operator that doubles, as a library would bring it."""
    library = torch.library.Library("fmxtest", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
    library.impl("twice", torch.empty_like, "Meta")
    yield torch.ops.fmxtest.twice
    library._destroy()


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.ops.fmxtest.twice(self.fc(x)))


@pytest.mark.parametrize("form", ["exported", "traced"])
def test_torch_files_with_an_operator_of_a_library(form: str, twice: object, tmp_path: Path) -> None:
    net = Doubling().eval()
    batch = data()
    if form == "exported":
        file = tmp_path / "m.pt2"
        free = ({0: torch.export.Dim("n")},)
        torch.export.save(torch.export.export(net, (torch.from_numpy(batch),), dynamic_shapes=free), file)
    else:
        file = tmp_path / "m.pt"
        torch.jit.save(torch.jit.trace(net, torch.from_numpy(batch)), str(file))
    with pytest.raises(ModelError, match=r"needs the operator fmxtest::twice of a library.*--trust") as error:
        fmx.load(file)
    assert "\n" not in str(error.value)
    model = fmx.load(file, input_shape=SHAPE, trust=True)
    with model.session(["relu", "fc"]) as session:
        values = session.run(batch)
    expected = 2 * net.fc(torch.from_numpy(batch)).detach().numpy()
    np.testing.assert_allclose(values["relu"], np.maximum(expected, 0), rtol=1e-5)
    np.testing.assert_allclose(values["fc"], expected / 2, rtol=1e-5)


MISSING = """
import sys, fmx
try:
    fmx.load(sys.argv[1], input_shape=(4,), trust=True)
except fmx.errors.ModelError as error:
    print(error)
"""


@pytest.mark.parametrize("form", ["exported", "traced"])
def test_torch_files_whose_operator_nobody_has(form: str, twice: object, tmp_path: Path) -> None:
    """In a process of its own, in which nobody has registered it."""
    file = tmp_path / ("m.pt2" if form == "exported" else "m.pt")
    if form == "exported":
        torch.export.save(torch.export.export(Doubling(), (torch.rand(2, 4),)), file)
    else:
        torch.jit.save(torch.jit.trace(Doubling().eval(), torch.rand(2, 4)), str(file))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MISSING, file], capture_output=True, text=True, timeout=120, check=True
    )
    assert "needs the operator fmxtest::twice, which nothing here has" in ran.stdout


class Saving(nn.Module):
    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.file)
        return torch.relu(x)


def test_torchscript_that_writes_files_takes_trust(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.jit.save(torch.jit.script(Saving(str(mark))), str(tmp_path / "m.pt"))
    with pytest.raises(ModelError, match=r"aten::save.*only with --trust"):
        fmx.load(tmp_path / "m.pt")
    assert not mark.exists()
    with fmx.load(tmp_path / "m.pt", input_shape=SHAPE, trust=True).session(["relu"]) as session:
        assert list(session.run(data())) == ["relu"]
