"""The conformance suite that every adapter passes; subclass it for a format of your own.

    class TestMyFormat(AdapterTests):
        def open(self, folder):
            my_exporter(self.reference.module(), folder / "net.my")
            return fmx.load(folder / "net.my")

        def convolutions_run(self, model, layers):
            ...

pytest has to be installed; everything else is fmx's own.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from fmx.adapter import Model
from fmx.errors import FmxError, LayerError, ModelError
from fmx.testing.reference import ReferenceNetwork

__all__ = ["AdapterTests"]

TOLERANCE = 1e-4


class AdapterTests:
    """What an adapter promises, tested on the reference network in its format.

    Attributes
    ----------
    reference : ReferenceNetwork
    absent : frozenset of str
        Layers that the format has no values for, because an exporter left them out.
    differentiable : bool
        Whether the format can be turned into a torch module; if not, asking for one is a ModelError.
    """

    reference: ClassVar[ReferenceNetwork] = ReferenceNetwork()
    absent: ClassVar[frozenset[str]] = frozenset()
    differentiable: ClassVar[bool] = True

    @abstractmethod
    def open(self, folder: Path) -> Model:
        """Write the reference network in the format under test, and open it."""

    @abstractmethod
    def convolutions_run(self, model: Model, layers: list[str]) -> int:
        """Count the convolutions that a session for these layers runs for one batch."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Model:
        """The reference network in the format under test, opened once: what sessions do must not change it."""
        return cls().open(tmp_path_factory.mktemp("conformance"))

    def expected(self, count: int = 4) -> dict[str, NDArray[Any]]:
        """Give the values that a batch has to have."""
        values = self.reference.run(self.reference.batch(count))
        return {name: value for name, value in values.items() if name not in self.absent}

    def captured(self, model: Model, layers: list[str], count: int = 4, **how: Any) -> dict[str, NDArray[Any]]:
        """Capture layers of one batch."""
        with model.session(layers, **how) as session:
            return dict(session.run(self.reference.batch(count)))

    @staticmethod
    def close(got: NDArray[Any], wanted: NDArray[Any], tolerance: float, name: str) -> None:
        """Compare within a tolerance relative to the layer's largest value."""
        assert got.shape == wanted.shape, name
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max(), err_msg=name)

    def test_names_in_the_order_of_computation(self, model: Model) -> None:
        assert [layer.name for layer in model.layers] == list(self.expected())

    def test_shapes_and_dims(self, model: Model) -> None:
        values = self.expected()
        for layer in model.layers:
            assert layer.shape == values[layer.name].shape[1:]
            assert layer.dims == (("channel", "y", "x") if len(layer.shape) == 3 else ("channel",))
            assert layer.dtype == "float32"
            assert layer.kind

    def test_input_is_described(self, model: Model) -> None:
        (info,) = model.inputs
        assert info.shape == self.reference.shape
        assert info.dtype == "float32"
        assert info.layout == "CHW"

    def test_values_of_all_layers_at_once(self, model: Model) -> None:
        expected = self.expected()
        got = self.captured(model, list(expected))
        assert list(got) == list(expected)
        for name, values in got.items():
            self.close(values, expected[name], TOLERANCE, name)

    @pytest.mark.parametrize("name", list(ReferenceNetwork().run(ReferenceNetwork().batch(1))))
    def test_values_of_each_layer_alone(self, model: Model, name: str) -> None:
        """Values that are overwritten in place later are right too, whatever else is captured."""
        if name not in self.absent:
            self.close(self.captured(model, [name])[name], self.expected()[name], TOLERANCE, name)

    def test_second_call_of_a_module_is_another_layer(self, model: Model) -> None:
        got = self.captured(model, ["block.relu", "block.relu:2"])
        assert not np.allclose(got["block.relu"], got["block.relu:2"])

    def test_nothing_past_the_last_wanted_layer_runs(self, model: Model) -> None:
        assert self.convolutions_run(model, ["stem"]) == 1
        assert self.convolutions_run(model, ["stem", "block.relu"]) == 2
        assert self.convolutions_run(model, ["block.add"]) == 3

    def test_outputs_on_request(self, model: Model) -> None:
        with model.session(["stem"], outputs=True) as session:
            capture = session.run(self.reference.batch())
        (output,) = capture.outputs.values()
        self.close(output, self.expected()["fc"], TOLERANCE, "output")
        with model.session(["stem"]) as session:
            assert not session.run(self.reference.batch()).outputs

    def test_model_is_the_same_afterwards(self, model: Model) -> None:
        before, layers = model.fingerprint, list(model.layers)
        first = self.captured(model, ["block.bn1", "fc"], outputs=True)
        second = self.captured(model, ["block.bn1", "fc"], outputs=True)
        assert model.fingerprint == before
        assert list(model.layers) == layers
        assert all(np.array_equal(first[name], second[name]) for name in first)

    def test_same_file_has_the_same_fingerprint(self, model: Model, tmp_path: Path) -> None:
        (tmp_path / "again").mkdir()
        assert self.open(tmp_path / "again").fingerprint == model.fingerprint
        assert len(model.fingerprint) == 64

    def test_same_batch_gives_the_same_bits(self, model: Model) -> None:
        names = list(self.expected())
        with model.session(names) as session:
            one, two = (session.run(self.reference.batch()) for _ in range(2))
        assert all(np.array_equal(one[name], two[name]) for name in names)

    def test_batches_do_not_matter(self, model: Model) -> None:
        names = list(self.expected())
        whole = self.captured(model, names, 7)
        batch = self.reference.batch(7)
        for size in (1, 3):
            with model.session(names) as session:
                parts = [session.run(batch[i : i + size]) for i in range(0, 7, size)]
            for name in names:
                joined = np.concatenate([part[name] for part in parts])
                self.close(joined, whole[name], 1e-5, name)

    def test_values_belong_to_the_caller(self, model: Model) -> None:
        names = ["stem.1", "block.add"]
        with model.session(names) as session:
            first = session.run(self.reference.batch())
            kept = {name: values.copy() for name, values in first.items()}
            session.run(np.zeros_like(self.reference.batch()))
        assert all(np.array_equal(first[name], kept[name]) for name in names)

    def test_batch_is_not_changed_and_may_lie_in_any_order(self, model: Model) -> None:
        batch = np.asfortranarray(self.reference.batch())
        batch.flags.writeable = False
        with model.session(["fc"]) as session:
            got = session.run(batch)["fc"]
        self.close(got, self.expected()["fc"], TOLERANCE, "fc")
        assert np.array_equal(batch, self.reference.batch())

    def test_auto_engine_agrees_and_says_what_it_is(self, model: Model) -> None:
        names = ["stem", "block", "fc"]
        with model.session(names, engine="auto") as session:
            session.run(self.reference.batch())
            got = session.run(self.reference.batch())
            assert session.engine
        for name in names:
            self.close(got[name], self.expected()[name], TOLERANCE, name)

    def test_differentiable_module_has_the_same_layers_and_gradients(self, model: Model) -> None:
        """Or it says why the format has none."""
        if not self.differentiable:
            with pytest.raises(ModelError):
                model.torch_module()
            return
        torch = pytest.importorskip("torch")
        module = model.torch_module()
        batch = torch.from_numpy(self.reference.batch()).requires_grad_()
        expected = self.expected()
        assert module.layer_names == list(expected)
        for name, value in module.capture(batch, list(expected)).items():
            self.close(value.detach().numpy(), expected[name], TOLERANCE, name)
        (got,) = torch.autograd.grad(module(batch)[:, 1].sum(), batch)
        own = torch.from_numpy(self.reference.batch()).requires_grad_()
        (wanted,) = torch.autograd.grad(self.reference.module()(own)[:, 1].sum(), own)
        self.close(got.numpy(), wanted.numpy(), TOLERANCE, "gradient at the input")

    @pytest.mark.parametrize("name", ["stem.1", "block.bn2", "block.add", "block"])
    def test_gradients_reach_layers(self, model: Model, name: str) -> None:
        """The gradient at a layer is what a small step of the layer's value changes in the output."""
        if not self.differentiable:
            return
        torch = pytest.importorskip("torch")
        module = model.torch_module()
        batch = torch.from_numpy(self.reference.batch(2))
        output, values = module.forward_with(batch, [name])
        (gradient,) = torch.autograd.grad(output[:, 1].sum(), values[name])
        assert gradient.shape == values[name].shape
        own = self.reference.module()
        inner: dict[str, Any] = {}
        for path in ("stem.1", "block.bn2", "block"):
            own.get_submodule(path).register_forward_hook(
                lambda _module, _inputs, out, path=path: (inner.setdefault(path, out), out.clone())[1]
            )
        result = own(batch)
        # The sum is the batch norm's value plus the stem's: its gradient is that of either summand.
        source = inner["block.bn2" if name == "block.add" else name]
        (wanted,) = torch.autograd.grad(result[:, 1].sum(), source)
        self.close(gradient.numpy(), wanted.numpy(), TOLERANCE, name)

    def test_unknown_layer_is_named(self, model: Model) -> None:
        with pytest.raises(LayerError, match=r"block\.conv3"):
            model.session(["block.conv3"])

    def test_unknown_engine_is_named(self, model: Model) -> None:
        with pytest.raises(ModelError, match="warp"):
            model.session(["stem"], engine="warp")

    def test_unknown_device_is_named(self, model: Model) -> None:
        with pytest.raises(ModelError, match="abacus"), model.session(["stem"], device="abacus"):
            pass

    @pytest.mark.parametrize("shape", [(2, 1, 8, 10), (2, 3, 8), (3, 8, 10)])
    def test_wrong_shape_is_an_error(self, model: Model, shape: tuple[int, ...]) -> None:
        with model.session(["stem"]) as session, pytest.raises(FmxError, match="3×8×10"):
            session.run(np.zeros(shape, np.float32))
