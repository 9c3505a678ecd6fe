"""Every adapter passes the conformance suite, one from outside included."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import fmx
from fmx.adapter import Model, adapters
from fmx.testing import AdapterTests, ReferenceNetwork
from fmx_adapters.onnx.graph import cut_graph


def count_convolutions(model: Model, layers: list[str]) -> int:
    """Count what torch ran."""
    with model.session(layers) as session:
        session.run(ReferenceNetwork().batch())
        with profile(activities=[ProfilerActivity.CPU]) as record:
            session.run(ReferenceNetwork().batch())
    return sum(event.count for event in record.key_averages() if event.key == "aten::_convolution")


class TestPyTorch(AdapterTests):
    def open(self, folder: Path) -> Model:
        return fmx.load(self.reference.module(), input_shape=self.reference.shape)

    def convolutions_run(self, model: Model, layers: list[str]) -> int:
        return count_convolutions(model, layers)


class TestTraced(AdapterTests):
    def open(self, folder: Path) -> Model:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script = torch.jit.trace(self.reference.module(), torch.from_numpy(self.reference.batch(2)))
            torch.jit.save(script, folder / "net.pt")
        return fmx.load(folder / "net.pt", input_shape=self.reference.shape)

    def convolutions_run(self, model: Model, layers: list[str]) -> int:
        return count_convolutions(model, layers)


class TestScripted(TestTraced):
    def open(self, folder: Path) -> Model:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(self.reference.module()), folder / "net.pt")
        return fmx.load(folder / "net.pt", input_shape=self.reference.shape)


class TestDynamoOnnx(AdapterTests):
    # The exporter drops dropout and merges each convolution with the batch norm behind it.
    absent = frozenset({"dropout", "stem.0", "block.conv1", "block.conv2"})
    free_batch = True

    def open(self, folder: Path) -> Model:
        file = folder / "net.onnx"
        batch = torch.from_numpy(self.reference.batch(2 if self.free_batch else 1))
        shapes = ({0: torch.export.Dim("n")},) if self.free_batch else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.reference.module(), (batch,), file, dynamo=True, dynamic_shapes=shapes, verbose=False
            )
        return fmx.load(file)

    def convolutions_run(self, model: Model, layers: list[str]) -> int:
        with model.session(layers) as session:
            session.run(self.reference.batch())
        values = [model._probed.values[name] for name in layers]
        return sum(node.op_type == "Conv" for node in cut_graph(model.proto, values).graph.node)


class TestDynamoOnnxOfFixedBatch(TestDynamoOnnx):
    free_batch = False


class TestLegacyOnnx(TestDynamoOnnx):
    def open(self, folder: Path) -> Model:
        file = folder / "net.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.reference.module(),
                (torch.from_numpy(self.reference.batch(2)),),
                file,
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {0: "n"}},
            )
        return fmx.load(file)


class TestOnnxObject(TestLegacyOnnx):
    def open(self, folder: Path) -> Model:
        super().open(folder)
        return fmx.load(onnx.load(folder / "net.onnx"))


# -- an adapter from outside -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install a distribution that registers the adapter of third_party.py through the entry point."""
    site = tmp_path_factory.mktemp("site")
    info = site / "numpy_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fmx.adapters]\nnumpy_nets = third_party:NumpyNetAdapter\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield


class TestThirdParty(AdapterTests):
    differentiable = False

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def installed(cls, outside: None) -> None:
        """Run every test with the adapter installed."""

    def open(self, folder: Path) -> Model:
        np.savez(folder / "net.npz", **self.reference.weights)
        return fmx.load(folder / "net.npz")

    def convolutions_run(self, model: Model, layers: list[str]) -> int:
        with model.session(layers) as session:
            session.run(self.reference.batch())
            return session.convolutions


def test_adapter_from_outside_is_found_by_content(outside: None, tmp_path: Path) -> None:
    assert "numpy_nets" in [adapter.name for adapter in adapters()]
    np.savez(tmp_path / "renamed", **ReferenceNetwork().weights)
    assert fmx.load(tmp_path / "renamed.npz").adapter == "numpy_nets"


def test_adapter_from_outside_extracts_like_any_other(outside: None, tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", **ReferenceNetwork().weights)
    data = ReferenceNetwork().batch(6)
    store = fmx.extract(str(tmp_path / "net.npz"), data, to=tmp_path / "a.zarr", layers="block,fc", batch_size=4)
    np.testing.assert_allclose(store.activation("fc").values[:, 0, 0], ReferenceNetwork().run(data)["fc"], rtol=1e-6)
    assert store.attributes["adapter"] == "numpy_nets"


def test_two_references_are_one_network() -> None:
    reference: Any = ReferenceNetwork()
    with torch.no_grad():
        output = reference.module()(torch.from_numpy(reference.batch())).numpy()
    np.testing.assert_allclose(output, reference.run(reference.batch())["fc"], rtol=1e-4, atol=1e-5)
