"""An adapter as somebody else would write it: networks of one architecture as ``.npz`` files, run by NumPy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np

from fmx.adapter import Batch, Capture, InputInfo, ModelSource, OpenOptions, check_inputs, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo, native_dims
from fmx.testing import ReferenceNetwork


class NumpyNetAdapter:
    name = "numpy_nets"
    formats = "a network of NumPy arrays (.npz)"

    def can_open(self, source: ModelSource) -> bool:
        return "stem.0.weight.npy" in source.members

    def open(self, source: ModelSource, options: OpenOptions) -> NumpyNet:
        with np.load(source.path, allow_pickle=False) as arrays:
            network = ReferenceNetwork()
            network.weights = dict(arrays)
        return NumpyNet(network, source.text)


class NumpyNet:
    adapter = "numpy_nets"
    preprocessing = None
    notes = ""

    def __init__(self, network: ReferenceNetwork, source: str) -> None:
        self.network = network
        self.source = source
        values = network.run(network.batch(1))
        self.layers = [
            LayerInfo(name, "numpy", native_dims(value.shape[1:]), value.shape[1:], str(value.dtype))
            for name, value in values.items()
        ]
        self.inputs = [InputInfo("input", network.shape, layout="CHW")]

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, value in self.network.weights.items():
            digest.update(name.encode() + value.tobytes())
        return digest.hexdigest()

    def with_input(self, shape: Sequence[int]) -> NumpyNet:
        raise ModelError(f"{self.source} takes samples of shape 3×8×10 only: prepare the data for it.")

    def torch_module(self, relu: Any = None, *, layers: Sequence[str] | None = None) -> Any:
        raise ModelError(f"{self.source} is run by NumPy, which has no gradients.")

    def session(
        self,
        layers: Iterable[LayerInfo | str],
        *,
        device: str = "cpu",
        engine: str = "eager",
        outputs: bool = False,
        precision: str | None = None,
        expected_batches: int | None = None,
    ) -> NumpySession:
        if precision not in {None, "float32"}:
            raise ModelError(f"NumPy networks compute in float32: leave --precision {precision} out.")
        if device != "cpu":
            raise ModelError(f"NumPy does not run on {device}: use cpu.")
        if engine not in {"eager", "auto"}:
            raise ModelError(f"There is no engine {engine} for NumPy: use eager.")
        return NumpySession(self, [layer.name for layer in resolve(self.layers, layers)], outputs)


class NumpySession:
    engine = "numpy"
    engine_notes = ()

    def __init__(self, model: NumpyNet, names: list[str], outputs: bool) -> None:
        self.model, self.names, self.outputs = model, names, outputs
        self.convolutions = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def run(self, batch: Batch) -> Capture:
        (array,) = check_inputs(batch, self.model.inputs, self.model.source).values()
        network = ReferenceNetwork()
        network.weights = self.model.network.weights
        network._convolve = self._counted(network._convolve)
        values = self._until_last(network, array)
        return Capture(
            {name: values[name].copy() for name in self.names}, {"output": values["fc"]} if self.outputs else {}
        )

    def _counted(self, convolve: Any) -> Any:
        self.convolutions, last = 0, self._last()

        def counted(name: str, x: Any) -> Any:
            if list(self._order()).index(name) > last:
                raise _Enough
            self.convolutions += 1
            return convolve(name, x)

        return counted

    def _order(self) -> list[str]:
        return [layer.name for layer in self.model.layers]

    def _last(self) -> int:
        return len(self._order()) if self.outputs else max(map(self._order().index, self.names))

    def _until_last(self, network: ReferenceNetwork, array: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        with suppress(_Enough):
            network.run(array, values)
        return values


class _Enough(Exception):
    pass
