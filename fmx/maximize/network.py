"""The network as the ascent needs it: pixels in, values of the wanted layers out, and nothing else computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fmx.adapter import Model
from fmx.data import Preprocess
from fmx.errors import DataError, LayerError, ModelError, near_matches
from fmx.maximize.objectives import OUTPUT

__all__ = ["Network", "picture_preprocess"]


def picture_preprocess(model: Model) -> Preprocess:
    """Say how pixels between 0 and 1 become the model's input: its own way, the usual one, or as they are.

    Raises
    ------
    ModelError
        The model takes no single pictures.
    """
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 3:
        taken = " and ".join("×".join(map(str, info.shape)) for info in model.inputs)
        raise ModelError(f"{model.source} takes {taken}: only models that take single pictures can be maximized.")
    if model.preprocessing is not None:
        return Preprocess.from_settings(model.preprocessing)
    info = model.inputs[0]
    layout = info.layout or "CHW"
    try:
        return Preprocess.for_input(info.shape, layout)
    except DataError:
        # Other numbers of channels than pictures have: values between 0 and 1 are what is known to be reasonable.
        sizes = dict(zip(layout, info.shape, strict=True))
        return Preprocess(crop=(sizes["H"], sizes["W"]), channels=sizes["C"], layout=layout, source="assumed")


_LEAK = 0.1
_STILL_WORKS = "what needs no gradients still works, such as fmx top-samples"


@dataclass(frozen=True)
class _Way:
    """How pictures of a size are given to a model: resized or not, all at once or one by one."""

    resize: tuple[int, int] | None = None
    single: bool = False


class Network:
    """A model that gives values of layers for pictures, differentiably.

    Parameters
    ----------
    model : Model
    layers : sequence of str
    output : bool
        Give the model's output too.
    preprocess : Preprocess
        How pixels become its input: range, mean, std and layout.
    device : str

    Raises
    ------
    LayerError
        No such layer.
    ModelError
        The model can't be made a torch module, or does not run there.
    """

    def __init__(
        self, model: Model, layers: Sequence[str], *, output: bool, preprocess: Preprocess, device: str = "cpu"
    ) -> None:
        known = {info.name: info for info in model.layers}
        for name in layers:
            if name not in known:
                raise LayerError(f"No layer is called {name}: {near_matches(name, known)}")
        self.source = model.source
        self.layers = list(layers)
        self.output = output
        self._infos = known
        self.device = _device(device)
        self._model = model
        # Convolutions are fastest in this order of memory.
        self._order = torch.channels_last
        try:
            self.module = self._ready(model.torch_module(layers=self.layers))
        except ModelError as error:
            raise ModelError(
                f"{str(error).rstrip('.')}; what needs no gradients still works, such as fmx top-samples."
            ) from None
        self._dtype = getattr(torch, model.inputs[0].dtype)
        self._scale, self._shift = _scaling(preprocess, self.device)
        self._last = preprocess.layout == "HWC"
        shape = model.inputs[0].shape
        self.bands = preprocess.channels
        self.own_size = (shape[0], shape[1]) if self._last else (shape[1], shape[2])
        self._ways: dict[tuple[int, int], _Way] = {}

    def _ready(self, module: Any) -> Any:
        # Weights are constants here: their gradients would cost as much as those of the picture.
        return module.requires_grad_(False).to(self.device, memory_format=self._order)

    @cached_property
    def _leaky(self) -> Any:
        """The network with the gradients of leaky ReLUs, so that a channel that noise does not excite has one."""
        return self._ready(self._model.torch_module(relu=_leaky_gradient, layers=self.layers))

    def values(self, pictures: Tensor, *, leaky: bool = False) -> dict[str, Tensor]:
        """Give values of layers, (picture, channel, …position), and of the output if it is wanted.

        Parameters
        ----------
        pictures : tensor (picture, band, y, x)
            Pixels from 0 to 1.
        leaky : bool
            Let a tenth of gradients through ReLUs that are off; the values stay what they are.
        """
        size = (pictures.shape[2], pictures.shape[3])
        if size not in self._ways:
            self.fit(*size)
        return self._values(pictures, self._ways[size], self._leaky if leaky else self.module)

    def _values(self, pictures: Tensor, way: _Way, module: Any) -> dict[str, Tensor]:
        x = self._input(pictures, way)
        if not way.single:
            return self._run(module, x)
        runs = [self._run(module, one[None]) for one in x]
        return {name: torch.cat([run[name] for run in runs]) for name in runs[0]}

    def _input(self, pictures: Tensor, way: _Way) -> Tensor:
        x = pictures.to(self.device)
        if way.resize is not None and way.resize != tuple(x.shape[2:]):
            x = torch.nn.functional.interpolate(x, way.resize, mode="bilinear", align_corners=False)
        x = (x * self._scale + self._shift).to(self._dtype)
        return x.permute(0, 2, 3, 1) if self._last else x.contiguous(memory_format=self._order)

    def _run(self, module: Any, x: Tensor) -> dict[str, Tensor]:
        if self.output:
            output, found = module.forward_with(x, self.layers)
            found[OUTPUT] = _first_tensor(output)
        else:
            found = module.capture(x, self.layers)
        return {name: self._channels_first(name, value).float() for name, value in found.items()}

    def _channels_first(self, name: str, value: Tensor) -> Tensor:
        dims = self._infos[name].dims if name != OUTPUT else ()
        at = dims.index("channel") + 1 if "channel" in dims else 1
        return value.movedim(at, 1) if at != 1 else value

    @torch.enable_grad()
    def fit(self, height: int, width: int) -> bool:
        """Find out how pictures of a size are taken: as they are or resized to the model's own, at once or one by one.

        Returns
        -------
        bool
            Whether as they are.

        Raises
        ------
        ModelError
            In no way, or it is not differentiable there.
        """
        said = self._find_way(height, width)
        if said is not None and self._order is torch.channels_last:
            # Code that sees values as one long row, such as x.view(len(x), -1), wants them in the usual order.
            self._order = torch.contiguous_format
            self.module = self._ready(self._model.torch_module(layers=self.layers))
            self.__dict__.pop("_leaky", None)
            said = self._find_way(height, width)
        if said is not None:
            raise ModelError(f"{self.source} does not run on pictures of {height}×{width}: {said}.")
        return self._ways[height, width].resize is None

    def _find_way(self, height: int, width: int) -> str | None:
        """Find a way, or say why there is none."""
        said = ""
        for way in (_Way(), _Way(self.own_size), _Way(single=True), _Way(self.own_size, single=True)):
            try:
                found = self._values(self._trial(height, width), way, self.module)
            except Exception as error:  # whatever the model's own code does on an input that it does not take
                lines = str(error).strip().splitlines()
                said = said or (lines[0].rstrip(".") if lines else type(error).__name__)
                continue
            if all(len(value) == 2 for value in found.values()):
                self._check_gradients(found, height, width, way)
                self._ways[height, width] = way
                return None
        return said or "its values lose the batch"

    def _trial(self, height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(2, self.bands, height, width, generator=generator).requires_grad_()

    def _check_gradients(self, found: dict[str, Tensor], height: int, width: int, way: _Way) -> None:
        lost = [name for name, value in found.items() if not value.requires_grad]
        if lost:
            what = "The output" if lost[0] == OUTPUT else lost[0]
            barrier, passed = self._barrier(height, width, way)
            works = "layers before it can" if passed else _STILL_WORKS
            raise ModelError(
                f"{what} of {self.source} can't be maximized: no gradient gets through {barrier}; {works}."
            )

    def _barrier(self, height: int, width: int, way: _Way) -> tuple[str, bool]:
        """Name the first layer through which no gradient gets, and say whether one gets through any before it."""
        passed = False
        module = self._ready(self._model.torch_module())
        for name in module.layer_names:
            x = self._input(self._trial(height, width), way)
            value = module.capture(x[:1] if way.single else x, [name])[name]
            if not value.requires_grad:
                return (f"{name} ({self._infos[name].kind})" if name in self._infos else name), passed
            passed = True
        return "its last operations", passed


def _leaky_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Give the gradient of a leaky ReLU."""
    return torch.where(x > 0, gradient, _LEAK * gradient)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ModelError(f"There is no device {name} here: leave --device out for the CPU.") from None
    return device


def _scaling(preprocess: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    """Merge range, mean and std into a factor and a summand, each (1, band, 1, 1)."""
    low, high = preprocess.range
    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
    return tuple(v.float().to(device) for v in ((high - low) / std, (low - mean) / std))  # type: ignore[return-value]


def _first_tensor(output: Any) -> Tensor:
    """Take the first tensor out of what a model returns."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output
