"""Attribution: how much each part of a picture has to do with a class, a channel or a neuron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.prepare import PictureOptions
from fmx.project.cam import WEIGHINGS, activation_maps, cam_layer
from fmx.project.gradients import Cloud, Path, gradients, integrated, smooth
from fmx.project.inputs import Pictures, open_pictures
from fmx.project.network import DEFAULT_BATCH, OUTPUT, Network
from fmx.project.results import ZEILER_FERGUS, about, check_finite, check_size, joined, picture_coords
from fmx.project.rules import RULES, Rule, deconvnet, guided
from fmx.project.targets import Targets, Wanted

__all__ = ["ATTRIBUTIONS", "Attribution", "attribute"]


@dataclass(frozen=True)
class Method:
    """An attribution method: the rule of its ReLUs, what it gives, and who defined it."""

    definition: str
    source: str
    rule: Rule | None = None


ATTRIBUTIONS = {
    "gradient": Method(
        "derivative of the target with respect to each number of the input",
        "Simonyan et al. 2013, Deep Inside Convolutional Networks",
    ),
    "gradient-x-input": Method(
        "derivative of the target times the input", "Shrikumar et al. 2016, Not Just a Black Box"
    ),
    "smoothgrad": Method(
        "derivative of the target, averaged over noisy copies of the input", "Smilkov et al. 2017, SmoothGrad"
    ),
    "integrated-gradients": Method(
        "derivative of the target, averaged on the straight way from a baseline, times the way",
        "Sundararajan et al. 2017, Axiomatic Attribution for Deep Networks",
    ),
    "guided": Method(
        "derivative of the target with the signal and the mask rectified at each ReLU",
        "Springenberg et al. 2015, Striving for Simplicity: The All Convolutional Net",
        guided,
    ),
    "deconvnet": Method(
        "the target pulled back with the signal rectified at each ReLU",
        ZEILER_FERGUS,
        deconvnet,
    ),
    "grad-cam": Method(
        "positive part of the layer's maps weighed by the means of their gradients",
        "Selvaraju et al. 2017, Grad-CAM",
    ),
    "grad-cam++": Method(
        "positive part of the layer's maps weighed by sums of their positive gradients",
        "Chattopadhay et al. 2018, Grad-CAM++",
    ),
    "layer-cam": Method(
        "positive part of the layer's maps, each position weighed by its positive gradient",
        "Jiang et al. 2021, LayerCAM",
    ),
}


class Attribution:
    """A model and a method, for many samples.

    Parameters
    ----------
    pictures : Pictures
        The samples and the model, as `fmx.project.open_pictures` gives them.
    method : str
        One of `ATTRIBUTIONS`.
    wanted : Wanted
        The targets.
    maps_of : str, optional
        The layer whose maps are weighed, for grad-cam, grad-cam++ and layer-cam; the last one with maps unless told.
    cloud, path
        Settings of smoothgrad and integrated-gradients.
    device : str
    batch_size : int
    precision : {"float32", "float64"}
        What is computed in.

    Raises
    ------
    FmxError
        No such method, layer, channel or neuron; a model that can't be differentiated.
    """

    def __init__(
        self,
        pictures: Pictures,
        method: str,
        wanted: Wanted,
        *,
        maps_of: str | None = None,
        cloud: Cloud | None = None,
        path: Path | None = None,
        device: str = "cpu",
        batch_size: int = DEFAULT_BATCH,
        precision: str = "float32",
    ) -> None:
        if method not in ATTRIBUTIONS:
            raise FmxError(f"No attribution is called {method}: {near_matches(method, ATTRIBUTIONS)}")
        self.pictures = pictures
        self.name = method
        self.method = ATTRIBUTIONS[method]
        self.weighs = method in WEIGHINGS
        if self.weighs and maps_of is None and wanted.layer is not None:
            if wanted.channels is not None or wanted.neuron is not None:
                raise FmxError(
                    f"{method} of a channel weighs the maps of an earlier layer: name that with --maps-of LAYER."
                )
            # A layer alone is the one whose maps are weighed.
            maps_of, wanted = wanted.layer, Wanted(classes=wanted.classes)
        wanted.check(pictures.model)
        self.wanted = wanted
        self.maps_of = cam_layer(pictures.model, maps_of) if self.weighs else None
        self.cloud, self.path = cloud or Cloud(), path or Path()
        self.network = Network(
            pictures.model, self.method.rule, device=device, batch_size=batch_size, precision=precision
        )

    def attribute(self, index: int) -> xr.Dataset:
        """Attribute the targets in one sample, as `attribute` gives it, without the axis of samples."""
        picture = self.pictures.picture(index)
        sample = self.pictures.values(index, picture)
        targets = Targets.settle(self.wanted, self.network, sample)
        count = len(targets.seeds)
        check_finite(targets.values, f"The value of {targets.name or 'the output'} for {self.pictures.samples[index]}")
        check_size(8 * count * math.prod(sample.shape), f"{count} attributions")
        found, more = self._computed(index, sample, targets)
        check_finite(found, f"The attribution of {targets.name or 'the output'} for {self.pictures.samples[index]}")
        dims = (targets.dim, "y", "x") if self.weighs else (targets.dim, "colour", "y", "x")
        variables: dict[str, Any] = {
            "attribution": (dims, found, {"definition": self.method.definition}),
            "value": (targets.dim, targets.values, {"definition": "the target's value"}),
            **targets.variables,
            **{key: (targets.dim, *value) for key, value in more.items()},
        }
        if picture is not None:
            # Weighed maps have the layer's resolution, and the picture axes of its own.
            axes = ("input_y", "input_x") if self.weighs else ("y", "x")
            variables["picture"] = ((*axes, "band"), picture, {"definition": "the picture as the model sees it"})
        coords = picture_coords(self.pictures, index) | targets.coords
        return xr.Dataset(variables, coords, about(self.pictures, self.name, self.method.source, **self._about()))

    def _computed(self, index: int, sample: NDArray[Any], targets: Targets) -> tuple[NDArray[Any], dict[str, Any]]:
        """Give the attributions, and variables that the method has besides."""
        if self.maps_of is not None:
            return activation_maps(self.network, sample, targets, self.maps_of, self.name), {}
        more: dict[str, Any] = {}
        if self.name == "smoothgrad":
            found = smooth(self.network, sample, targets, self.cloud, self.pictures.samples[index])
        elif self.name == "integrated-gradients":
            found, gap = integrated(self.network, sample, targets, self.path)
            definition = "sum of the attributions less the change of the target on the way: 0 but for its steps"
            more["completeness_gap"] = (gap, {"definition": definition})
        else:
            found = gradients(self.network, sample, targets)
            found = found * sample if self.name == "gradient-x-input" else found
        return self.pictures.colour_first(found), more

    def _about(self) -> dict[str, Any]:
        target = "class" if self.wanted.name == OUTPUT else f"channel of {self.wanted.layer}"
        more: dict[str, Any] = {"target": target, "rule": RULES[self.method.rule], "precision": self.network.precision}
        if self.wanted.name != OUTPUT:
            more["over"] = "neuron" if self.wanted.neuron is not None else self.wanted.over
        if self.maps_of is not None:
            more["maps_of"] = self.maps_of.name
        if self.name == "smoothgrad":
            more |= {"copies": self.cloud.count, "noise": self.cloud.level, "seed": self.cloud.seed}
        if self.name == "integrated-gradients":
            more |= {"steps": self.path.steps, "baseline": self.path.baseline}
        return more


def attribute(
    model: Any,
    data: Any,
    *,
    method: str = "gradient-x-input",
    layer: str | None = None,
    channels: Sequence[int] | None = None,
    neuron: Sequence[int] | None = None,
    over: str = "mean",
    classes: str | Sequence[int] = "auto",
    maps_of: str | None = None,
    copies: int = 32,
    noise: float = 0.15,
    seed: int = 0,
    steps: int = 64,
    baseline: float = 0.0,
    pictures: PictureOptions | None = None,
    device: str = "cpu",
    batch_size: int = DEFAULT_BATCH,
    precision: str = "float32",
) -> xr.Dataset:
    """Attribute classes, channels or neurons to the input.

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    data : anything that `fmx.extract` takes
    method : str
        gradient, gradient-x-input, smoothgrad, integrated-gradients, guided, deconvnet, grad-cam, grad-cam++ or
        layer-cam.
    layer : str, optional
        Its channels are the targets. Left out, classes are. With grad-cam and the like, and no channels: the layer
        whose maps are weighed for a class.
    channels : sequence of int, optional
        All where left out.
    neuron : sequence of int, optional
        (y, x): one neuron of each channel.
    over : {"mean", "max", "sum"}
        What of a channel is the target: the mean or the sum of its map, or the neuron that is its strongest in the
        sample (and stays the same one for noisy copies and along paths).
    classes : "auto" or sequence of int
        The class that the model finds most probable, or outputs by number.
    maps_of : str, optional
        The layer whose maps grad-cam, grad-cam++ and layer-cam weigh; the last one with maps unless told.
    copies, noise, seed
        Of smoothgrad: noisy copies, their noise as a share of the input's range, and its seed.
    steps, baseline
        Of integrated-gradients: points on the way, and the value of the model's input where it begins.
    pictures : PictureOptions, optional
        How pictures are prepared, where not as the model says.
    device : str
    batch_size : int
        Signals that are pulled back, and copies that go forward, at once.
    precision : {"float32", "float64"}
        What is computed in; the attribution is float32. float64 seldom mistakes on which side of 0 a ReLU's input lies,
        or which value of a pool is the largest.

    Returns
    -------
    xarray.Dataset
        attribution (sample, channel, colour, y, x), for classes (sample, target, …); of grad-cam and the like without
        colour, at the layer's own resolution. value (sample, channel), class (sample, target), at_y and at_x of
        neurons, completeness_gap of integrated-gradients, and picture.

    Raises
    ------
    FmxError
        A method, layer, channel, neuron or class that isn't there; a model that can't be differentiated.
    """
    opened = open_pictures(model, data, pictures=pictures)
    wanted = Wanted(layer, channels, neuron, over, classes)
    network = Attribution(
        opened,
        method,
        wanted,
        maps_of=maps_of,
        cloud=Cloud(copies, noise, seed),
        path=Path(steps, baseline),
        device=device,
        batch_size=batch_size,
        precision=precision,
    )
    return joined(network.attribute, len(opened))
