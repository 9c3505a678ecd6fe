"""The deconvnet of Zeiler & Fergus: what in a picture the chosen activations of a layer come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.layers import LayerInfo
from fmx.prepare import PictureOptions
from fmx.project.inputs import Pictures, open_pictures
from fmx.project.network import DEFAULT_BATCH, Network, Pass, Seeds
from fmx.project.results import ZEILER_FERGUS, about, check_finite, check_size, joined, picture_coords
from fmx.project.rules import RULES, deconvnet
from fmx.project.signals import Amount, Maps, Signals, amount, check_channels, find_layer, ranked

__all__ = ["GROUPS", "Deconvnet", "deconv"]

GROUPS = ("each", "together", "growing")


class Deconvnet:
    """A model as a deconvnet, for many layers and samples.

    Parameters
    ----------
    pictures : Pictures
        The samples and the model, as `fmx.project.open_pictures` gives them.
    device : str
    batch_size : int
        Signals that are pulled back at once.
    precision : {"float32", "float64"}
        What is computed in.

    Raises
    ------
    ModelError
        The model can't be differentiated, or not in this precision.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        device: str = "cpu",
        batch_size: int = DEFAULT_BATCH,
        precision: str = "float32",
    ) -> None:
        self.pictures = pictures
        self.network = Network(pictures.model, deconvnet, device=device, batch_size=batch_size, precision=precision)
        self._begun: tuple[Maps, Pass] | None = None

    def maps(self, values: NDArray[Any], info: LayerInfo) -> Maps:
        """Give a layer's maps for one sample of model input."""
        done = self.network.begin(values, [info.name])
        found = Maps.of(done.values[info.name][0].numpy(force=True), info)
        self._begun = (found, done)
        return found

    def back(self, values: NDArray[Any], maps: Maps, count: int, seeds: Seeds) -> NDArray[np.float32]:
        """Pull signals at some maps back to the input, as (signal, colour, y, x), by the pass that gave these maps."""
        begun, self._begun = self._begun, None
        known = begun[1] if begun is not None and begun[0] is maps else None
        return self.pictures.colour_first(self.network.pull(values, maps.info.name, count, seeds, known))

    def pull(self, values: NDArray[Any], maps: Maps, groups: Sequence[Sequence[int]], activations: Amount) -> Any:
        """Project groups of maps, each together, as (group, colour, y, x)."""
        signals = Signals(maps, groups, activations)
        return self.back(values, maps, len(signals), signals)

    def project(
        self,
        index: int,
        layer: str,
        *,
        channels: Sequence[int] | None = None,
        maps: Amount | None = None,
        activations: Amount = 1.0,
        metric: str = "max",
        scores: NDArray[Any] | None = None,
        group: str = "each",
        steps: int | None = None,
    ) -> xr.Dataset:
        """Project maps of one sample; see `deconv`.

        Returns
        -------
        xarray.Dataset
            As `deconv` gives it, without the axis of samples.
        """
        info = find_layer(self.pictures.model, layer)
        picture = self.pictures.picture(index)
        values = self.pictures.values(index, picture)
        found = self.maps(values, info)
        # By their numbers, or in the order asked for, where nothing has to be ranked.
        fixed = maps is None and group == "each"
        order = _listed(info, channels) if fixed else _ranked(found, channels, maps, metric, scores)
        groups, labels = _grouped(order, group, steps)
        check_size(4 * len(groups) * math.prod(self.pictures.shape), f"{len(groups)} projections")
        sample = self.pictures.samples[index]
        check_finite(found.values[order], f"The value of {layer} for {sample}")
        pulled = self.pull(values, found, groups, activations)
        check_finite(pulled, f"What comes back from {layer} for {sample}")
        made = self._labelled(index, found, pulled, (order, labels, group, fixed), picture)
        by = {} if fixed else {"ranked_by": metric if scores is None else "scores that were given"}
        return made.assign_attrs(group=group, activations=activations, **by)

    def _labelled(
        self, index: int, maps: Maps, pulled: NDArray[Any], chosen: Any, picture: NDArray[np.uint8] | None
    ) -> xr.Dataset:
        order, labels, group, fixed = chosen
        dim = "channel" if fixed else "rank"
        listed = np.asarray(labels if fixed else order)
        value, position = maps.strongest()
        lead = {"each": (dim,), "together": (), "growing": ("step",)}[group]
        shown = pulled[0] if group == "together" else pulled
        variables: dict[str, Any] = {
            "projection": ((*lead, "colour", "y", "x"), shown, {"definition": _DEFINITION}),
            "value": (dim, value[listed], {"definition": "strongest activation of the map"}),
        }
        for name, places in maps.places(position[listed]).items():
            variables[f"at_{name}"] = (dim, places, {"definition": f"where along the layer's {name} axis it is"})
        if picture is not None:
            variables["picture"] = (("y", "x", "band"), picture, {"definition": "the picture as the model sees it"})
        coords = picture_coords(self.pictures, index)
        coords |= {"channel": listed} if fixed else {"rank": np.arange(1, len(listed) + 1), "channel": ("rank", listed)}
        if group == "growing":
            coords["step"] = ("step", labels, {"definition": "number of maps projected together"})
        how = {"rule": RULES[deconvnet], "precision": self.network.precision, "layer": maps.info.name}
        return xr.Dataset(variables, coords, about(self.pictures, "deconvnet", ZEILER_FERGUS, **how))


_DEFINITION = (
    "the chosen activations pulled back to the model's input, signed: transposed convolutions, unpooling by switches, "
    "and the signal rectified at each ReLU"
)


def deconv(
    model: Any,
    data: Any,
    layer: str,
    *,
    channels: Sequence[int] | None = None,
    maps: Amount | None = None,
    activations: Amount = 1.0,
    metric: str = "max",
    scores: NDArray[Any] | None = None,
    group: str = "each",
    steps: int | None = None,
    pictures: PictureOptions | None = None,
    device: str = "cpu",
    batch_size: int = DEFAULT_BATCH,
    precision: str = "float32",
) -> xr.Dataset:
    """Project maps of a layer back to the input with a deconvnet.

    The chosen activations of the chosen maps go back through the network with everything else set to 0: through
    convolutions transposed, through max-pooling by the switches of the pass, and through ReLUs by rectifying the signal
    itself (`fmx.project.rules` says what happens elsewhere).

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    data : anything that `fmx.extract` takes
    layer : str
    channels : sequence of int, optional
        Maps to project, in this order; all where neither these nor `maps` are given.
    maps : int or float, optional
        How many maps (int) or which share of them (float, up to 1) to project, the highest first, for each sample anew.
        With `channels`, so many of those.
    activations : int or float
        How many of a map's strongest activations start a signal, or which share of its positions. Only those above 0.
    metric : {"max", "mean", "sum", "variance"}
        What maps are ranked by.
    scores : array (channel), optional
        Rank by these instead, such as the selectivity that a store gives.
    group : {"each", "together", "growing"}
        Project each map alone, all chosen ones together, or together from the highest one to all of them.
    steps : int, optional
        With ``group="growing"``: at most so many numbers of maps, from one to all in equal ratios.
    pictures : PictureOptions, optional
        How pictures are prepared, where not as the model says.
    device : str
    batch_size : int
        Signals that are pulled back at once.
    precision : {"float32", "float64"}
        What is computed in; the projection is float32. float64 seldom mistakes which value of a pool is the largest.

    Returns
    -------
    xarray.Dataset
        projection (sample, channel, colour, y, x) in the model's input, value (sample, channel): the strongest
        activation, at_y and at_x (sample, channel): where it is, picture (sample, y, x, band). With `maps` the axis is
        rank, and channel (sample, rank) says which map it is. ``together`` has no such axis in projection; ``growing``
        has step, the number of maps.

    Raises
    ------
    FmxError
        A layer, channel, metric or size that isn't there; a model that can't be differentiated; none of the channels
        asked for has an activation above 0.
    """
    opened = open_pictures(model, data, pictures=pictures)
    network = Deconvnet(opened, device=device, batch_size=batch_size, precision=precision)

    def one(index: int) -> xr.Dataset:
        return network.project(
            index,
            layer,
            channels=channels,
            maps=maps,
            activations=activations,
            metric=metric,
            scores=scores,
            group=group,
            steps=steps,
        )

    result = joined(one, len(opened))
    check_alive(result, layer)
    return result


def check_alive(found: xr.Dataset, layer: str) -> None:
    """Make sure that there is something in a projection.

    Raises
    ------
    FmxError
        None of its maps has an activation above 0.
    """
    if (found["value"].values > 0).any():
        return
    channels = sorted({int(c) for c in np.ravel(found["channel"].values)})
    few = ", ".join(map(str, channels[:6])) + (", …" if len(channels) > 6 else "")
    what = f"Channel {few} of {layer} has" if len(channels) == 1 else f"The channels {few} of {layer} have"
    raise FmxError(f"{what} no activation above 0 for these pictures: choose other channels or other pictures.")


def _listed(info: LayerInfo, channels: Sequence[int] | None) -> NDArray[np.int64]:
    count = info.shape[info.dims.index("channel")]
    return np.arange(count) if channels is None else np.asarray(check_channels(channels, info))


def _ranked(
    maps: Maps, channels: Sequence[int] | None, most: Amount | None, metric: str, scores: NDArray[Any] | None
) -> NDArray[np.int64]:
    """Choose maps, the highest first."""
    count = len(maps.values)
    if scores is not None and np.shape(scores) != (count,):
        raise FmxError(f"{maps.info.name} has {count} channels, and scores for {np.size(scores)}: give one for each.")
    order = ranked(maps.scores(metric) if scores is None else np.asarray(scores, np.float64))
    if channels is not None:
        order = order[np.isin(order, check_channels(channels, maps.info))]
    return order if most is None else order[: amount(most, len(order), "maps")]


def _grouped(order: NDArray[np.int64], group: str, steps: int | None) -> tuple[list[list[int]], list[int]]:
    """Give the maps of each signal, and what labels it: the channel, or how many maps there are."""
    listed = [int(channel) for channel in order]
    if group == "each":
        return [[channel] for channel in listed], listed
    if group == "together":
        return [listed], [len(listed)]
    if group == "growing":
        counts = _counts(len(listed), steps)
        return [listed[:n] for n in counts], counts
    raise FmxError(f"Maps are projected each, together or growing, not '{group}'.")


def _counts(most: int, steps: int | None) -> list[int]:
    """List numbers of maps from 1 to all: every one, or at most `steps` in equal ratios."""
    if steps is None or steps >= most:
        return list(range(1, most + 1))
    if steps < 1:
        raise FmxError(f"At least one step is needed, not {steps}.")
    spread = np.geomspace(1, most, steps).round().astype(int)
    return sorted({int(n) for n in spread} | {most})[-steps:]
