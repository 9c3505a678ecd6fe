"""Class activation maps from gradients: a layer's maps weighed by what they say about a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Model
from fmx.errors import LayerError
from fmx.layers import LayerInfo
from fmx.project.network import Network
from fmx.project.signals import Maps, find_layer
from fmx.project.targets import Targets

__all__ = ["WEIGHINGS", "activation_maps", "cam_layer"]

Array = NDArray[Any]


def grad_cam(gradient: Array, value: Array) -> Array:
    """Weigh each map by the mean of its gradient, and keep what is positive (Selvaraju et al. 2017)."""
    weights = gradient.mean(axis=1, keepdims=True)
    return _positive(weights * value)


def grad_cam_plus_plus(gradient: Array, value: Array) -> Array:
    """Weigh each map by the sum of its positive gradients, each with a share of its own (Chattopadhay et al. 2018).

    The shares are those for the exponential of the target, whose higher derivatives are powers of the gradient.
    """
    square = gradient**2
    bottom = 2 * square + value.sum(axis=1, keepdims=True) * gradient**3
    share = np.divide(square, bottom, out=np.zeros_like(square), where=bottom != 0)
    weights = (share * np.maximum(gradient, 0)).sum(axis=1, keepdims=True)
    return _positive(weights * value)


def layer_cam(gradient: Array, value: Array) -> Array:
    """Weigh each position of each map by its positive gradient (Jiang et al. 2021)."""
    return _positive(np.maximum(gradient, 0) * value)


def _positive(weighed: Array) -> Array:
    total: Array = weighed.sum(axis=0)
    return total.clip(min=0)


WEIGHINGS: dict[str, Callable[[Array, Array], Array]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "layer-cam": layer_cam,
}


def cam_layer(model: Model, name: str | None) -> LayerInfo:
    """Find the layer whose maps are weighed: the last one with maps, where none is named.

    Raises
    ------
    LayerError
        It has no maps, or no layer has.
    """
    if name is not None:
        info = find_layer(model, name)
        if set(info.dims) != {"channel", "y", "x"}:
            raise LayerError(f"{name} has no maps, but ({', '.join(info.dims)}): choose a layer with maps to weigh.")
        return info
    found = [info for info in model.layers if set(info.dims) == {"channel", "y", "x"} and min(info.spatial) > 1]
    if not found:
        raise LayerError(f"{model.source} has no layer with maps to weigh.")
    return found[-1]


def activation_maps(
    network: Network, sample: Array, targets: Targets, info: LayerInfo, method: str
) -> NDArray[np.float32]:
    """Weigh a layer's maps for each target.

    Returns
    -------
    array (target, y, x)
        At the layer's own resolution.

    Raises
    ------
    LayerError
        The target does not depend on the layer.
    """
    count = len(targets.seeds)
    copies = -(-count // -(-count // network.batch_size))
    done = network.begin(sample, [info.name, targets.name], copies)
    copies = done.inputs.shape[0]
    value = Maps.of(done.values[info.name][0].numpy(force=True), info).values.astype(np.float64)
    found = np.empty((count, value.shape[1]), np.float32)
    for start in range(0, count, copies):
        stop = min(start + copies, count)
        seeds = targets.seeds[start:stop].to(network.device)
        seeds = seeds if stop - start == copies else seeds[[*range(stop - start), *[0] * (copies - stop + start)]]
        pulled = network.gradient(done, targets.name, seeds, last=stop == count, to=info.name).numpy(force=True)
        for i in range(start, stop):
            gradient = Maps.of(pulled[i - start], info).values.astype(np.float64)
            found[i] = WEIGHINGS[method](gradient, value)
    return found.reshape(count, *info.spatial)
