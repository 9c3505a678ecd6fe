"""What is attributed: classes, channels or neurons, as linear functions of a layer's values or of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmx.adapter import Model
from fmx.errors import FmxError
from fmx.project.network import OUTPUT, Network
from fmx.project.signals import Maps, check_channels, find_layer

__all__ = ["OVER", "Targets", "Wanted"]

OVER = ("mean", "max", "sum")


@dataclass(frozen=True)
class Wanted:
    """What a user asked to attribute.

    Attributes
    ----------
    layer : str or None
        Its channels are the targets; None for classes, which are the model's outputs.
    channels : sequence of int or None
        All where left out.
    neuron : sequence of int or None
        Position of one neuron in each channel, along the layer's other axes: (y, x) in maps.
    over : {"mean", "max", "sum"}
        What of a channel: the mean or sum of its map, or its strongest neuron in the sample at hand.
    classes : "auto" or sequence of int
        The class that the model finds most probable, or given ones.
    """

    layer: str | None = None
    channels: Sequence[int] | None = None
    neuron: Sequence[int] | None = None
    over: str = "mean"
    classes: str | Sequence[int] = "auto"

    @property
    def name(self) -> str:
        """What is differentiated: the layer, or `OUTPUT`."""
        return OUTPUT if self.layer is None else self.layer

    def check(self, model: Model) -> None:
        """Find what is wrong before anything runs.

        Raises
        ------
        FmxError
            No such layer, channel, neuron or way to sum a channel up.
        """
        if self.layer is None:
            if self.channels is not None or self.neuron is not None:
                raise FmxError("Channels and neurons belong to a layer: give it with --layer.")
            if isinstance(self.classes, str) and self.classes != "auto":
                raise FmxError(f"A class is a number or auto, not '{self.classes}'.")
            return
        info = find_layer(model, self.layer)
        if self.channels is not None:
            check_channels(self.channels, info)
        if self.over not in OVER:
            raise FmxError(f"A channel is attributed by its {', '.join(OVER[:-1])} or {OVER[-1]}, not '{self.over}'.")
        others = [(d, n) for d, n in zip(info.dims, info.shape, strict=True) if d != "channel"]
        if self.neuron is not None:
            inside = len(self.neuron) == len(others) and all(
                0 <= place < n for place, (_, n) in zip(self.neuron, others, strict=True)
            )
            if not inside:
                lengths = ", ".join(f"{d} 0 to {n - 1}" for d, n in others) or "no axes besides the channel"
                raise FmxError(f"{info.name} has no neuron at {tuple(self.neuron)}: there is {lengths}.")


@dataclass(frozen=True)
class Targets:
    """The targets for one sample.

    Attributes
    ----------
    name : str
        The layer, or `OUTPUT`.
    dim : str
        What the axis of targets is called: channel, or target for classes.
    seeds : tensor (target, …native)
        Weights of the layer's values in each target; they stay the same for neighbouring inputs.
    values : array (target)
        The targets' values for this sample.
    coords, variables : dict
        Labels along the axis of targets, and more that is known of each.
    """

    name: str
    dim: str
    seeds: torch.Tensor
    values: NDArray[np.float64]
    coords: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def settle(cls, wanted: Wanted, network: Network, sample: NDArray[Any]) -> Targets:
        """Settle the targets for a sample of model input.

        Raises
        ------
        FmxError
            The output holds no classes, or not so many.
        """
        # Two copies, which tell whether the model takes batches.
        done = network.begin(sample, [wanted.name], min(2, network.batch_size))
        value = done.values[wanted.name][:1].detach().cpu()
        if wanted.layer is None:
            return cls._of_classes(wanted, value, network.model.source)
        info = find_layer(network.model, wanted.layer)
        maps = Maps.of(value[0].numpy(), info)
        channels = list(range(len(maps.values))) if wanted.channels is None else [int(c) for c in wanted.channels]
        count, positions = len(channels), maps.values.shape[1]
        weights = np.zeros((count, *maps.values.shape), np.float32)
        place = maps.strongest()[1][channels]
        if wanted.neuron is not None:
            lengths = [n for d, n in zip(info.dims, info.shape, strict=True) if d != "channel"]
            place = np.full(count, np.ravel_multi_index(tuple(wanted.neuron), lengths) if lengths else 0)
        one = wanted.neuron is not None or wanted.over == "max"
        if one:
            weights[np.arange(count), channels, place] = 1
        else:
            weights[np.arange(count), channels] = 1 / positions if wanted.over == "mean" else 1
        seeds = torch.from_numpy(np.ascontiguousarray(maps.native(weights)))
        places = maps.places(place) if one else {}
        variables = {f"at_{name}": ("channel", where) for name, where in places.items()}
        return cls(info.name, "channel", seeds, _sums(seeds, value), {"channel": channels}, variables)

    @classmethod
    def _of_classes(cls, wanted: Wanted, value: torch.Tensor, source: str) -> Targets:
        if value.ndim != 2:
            shape = "×".join(map(str, value.shape[1:])) or "one number"
            raise FmxError(
                f"{source} puts out {shape} for a sample, and no classes: give a layer with --layer and --channels."
            )
        count = value.shape[1]
        chosen = [int(value[0].argmax())] if isinstance(wanted.classes, str) else [int(k) for k in wanted.classes]
        missing = [k for k in chosen if not 0 <= k < count]
        if missing or not chosen:
            what = f"no class {missing[0]}" if missing else "classes, of which none was asked for"
            raise FmxError(f"{source} has {what}: there are 0 to {count - 1}.")
        seeds = torch.zeros(len(chosen), count)
        seeds[range(len(chosen)), chosen] = 1
        coords = {"target": np.arange(1, len(chosen) + 1)}
        variables = {"class": ("target", np.asarray(chosen), {"definition": "number of the model's output"})}
        return cls(OUTPUT, "target", seeds, _sums(seeds, value), coords, variables)


def _sums(seeds: torch.Tensor, value: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (seeds.flatten(1).double() @ value[0].flatten().double()).numpy()
    return found
