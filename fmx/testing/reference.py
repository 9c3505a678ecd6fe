"""A small residual network in plain NumPy: what every adapter has to reproduce.

It has what capturing gets wrong easily: a ReLU that works in place behind a batch norm, a sum that works in place, one
ReLU module that is called twice, a module of several modules, dropout, and a head behind everything.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = ["ReferenceNetwork"]

Array = NDArray[np.float32]


class ReferenceNetwork:
    """The network, its weights, and its values computed the slow and obvious way.

    Attributes
    ----------
    shape : tuple of int
        Shape of one sample (channel, y, x).
    weights : dict of str to array
        By the names that a PyTorch state dict gives them.
    """

    shape = (3, 8, 10)
    classes = 5

    @cached_property
    def weights(self) -> dict[str, Array]:
        """Weights from a fixed seed, with batch norms that do something."""
        rng = np.random.default_rng(11)
        made: dict[str, Array] = {"stem.0.weight": rng.normal(0, 0.4, (4, 3, 3, 3)).astype(np.float32)}
        for name in ("stem.1", "block.bn1", "block.bn2"):
            made[f"{name}.weight"] = rng.uniform(0.5, 1.5, 4).astype(np.float32)
            for part in ("bias", "running_mean"):
                made[f"{name}.{part}"] = rng.normal(0, 0.5, 4).astype(np.float32)
            made[f"{name}.running_var"] = rng.uniform(0.5, 2, 4).astype(np.float32)
        for name in ("block.conv1", "block.conv2"):
            made[f"{name}.weight"] = rng.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)
        made["fc.weight"] = rng.normal(0, 0.5, (self.classes, 4)).astype(np.float32)
        made["fc.bias"] = rng.normal(0, 0.5, self.classes).astype(np.float32)
        return made

    def batch(self, count: int = 4) -> Array:
        """Make a batch (sample, channel, y, x), the same every time."""
        return np.random.default_rng(5).normal(size=(count, *self.shape)).astype(np.float32)

    def run(self, batch: Array, into: dict[str, Array] | None = None) -> dict[str, Array]:
        """Compute every layer's value (sample, …native) by its canonical name, in the order of completion.

        `into` holds what was computed so far even if a convolution raises.
        """
        v: dict[str, Array] = {} if into is None else into
        v["stem.0"] = self._convolve("stem.0", batch)
        v["stem.1"] = self._normalise("stem.1", v["stem.0"])
        v["stem.2"] = np.maximum(v["stem.1"], 0)
        v["stem"] = v["stem.2"]
        v["block.conv1"] = self._convolve("block.conv1", v["stem"])
        v["block.bn1"] = self._normalise("block.bn1", v["block.conv1"])
        v["block.relu"] = np.maximum(v["block.bn1"], 0)
        v["block.conv2"] = self._convolve("block.conv2", v["block.relu"])
        v["block.bn2"] = self._normalise("block.bn2", v["block.conv2"])
        v["block.add"] = v["block.bn2"] + v["stem"]
        v["block.relu:2"] = np.maximum(v["block.add"], 0)
        v["block"] = v["block.relu:2"]
        v["pool"] = v["block"].reshape(*batch.shape[:1], 4, 4, 2, 5, 2).max(axis=(3, 5))
        v["mean"] = v["pool"].mean(axis=(2, 3))
        v["dropout"] = v["mean"]
        v["fc"] = v["dropout"] @ self.weights["fc.weight"].T + self.weights["fc.bias"]
        return v

    def _convolve(self, name: str, x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = sliding_window_view(padded, (3, 3), axis=(2, 3))
        summed = np.einsum("ncyxij,ocij->noyx", windows, self.weights[f"{name}.weight"])
        return np.asarray(summed, np.float32)

    def _normalise(self, name: str, x: Array) -> Array:
        scale, bias, mean, var = (
            self.weights[f"{name}.{part}"].reshape(1, -1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return np.asarray((x - mean) / np.sqrt(var + 1e-5) * scale + bias, np.float32)

    def module(self) -> Any:
        """Build the network as a torch module, in evaluation mode, to be exported to the format under test."""
        import torch

        from fmx.testing.torch_reference import build

        network = build(self.classes)
        state = {name: torch.from_numpy(value.copy()) for name, value in self.weights.items()}
        missing, unexpected = network.load_state_dict(state, strict=False)
        if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
            raise AssertionError(f"the two references differ: {missing} {unexpected}")
        return network.eval()
