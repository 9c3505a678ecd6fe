"""What is recorded while a patch slides over pictures: of classes, and of feature maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.adapter import Capture
from fmx.errors import FmxError, ModelError
from fmx.layers import LayerInfo
from fmx.project.inputs import Pictures
from fmx.project.patches import Patches

__all__ = ["SCORES", "OcclusionMaps", "Target"]

Floats = NDArray[np.float64]

SCORES = {
    "auto": "the output as it is where it is probabilities already, else its softmax",
    "softmax": "softmax of the output",
    "raw": "the output as it is",
}
_GIVEN = "the output, which is probabilities already"
_KINDS = {
    "probability": "of a class",
    "strongest": "largest activation of a feature map",
    "total": "sum of the activations of a feature map",
}
_UNKNOWN = -1
_NEAR_ONE = 1e-3


@dataclass(frozen=True)
class Target:
    """A map to be made: of a class, or of a feature map of a layer; the number is None for what is found by itself."""

    kind: str
    layer: str = ""
    number: int | None = None

    @property
    def name(self) -> str:
        number = "auto" if self.number is None else str(self.number)
        return f"{self.layer} channel {number} {self.kind}" if self.layer else f"class {number}"


class OcclusionMaps:
    """What the passes gave, filled in as they come."""

    def __init__(
        self,
        pictures: Pictures,
        patches: Patches,
        wanted: Sequence[Target],
        layers: Mapping[str, LayerInfo],
        scores: str,
    ) -> None:
        self._pictures = pictures
        self._patches = patches
        self._wanted = list(wanted)
        self._layers = layers
        self._scores = scores
        self._classes = 0
        samples, places = len(pictures), len(patches.places)
        # The whole picture stands before the places, as it does among the passes.
        self._values = np.zeros((samples, len(wanted), places + 1), np.float32)
        self._best = np.zeros((samples, places + 1), np.int64)
        self._highest = np.zeros((samples, places + 1), np.float32)
        self._numbers = np.array([[_UNKNOWN if w.number is None else w.number for w in wanted]] * samples, np.int64)

    @property
    def wants_classes(self) -> bool:
        """Whether the model's output is looked at."""
        return any(w.kind == "probability" for w in self._wanted)

    def take(self, rows: Sequence[tuple[int, int]], capture: Capture) -> None:
        """Take the values of a batch."""
        shares = self._probabilities(capture.outputs) if self.wants_classes else None
        start = 0
        for sample, run in groupby(rows, key=lambda row: row[0]):
            places = [place + 1 for _, place in run]
            some = slice(start, start + len(places))
            self._take_sample(sample, places, some, capture, None if shares is None else shares[some])
            start += len(places)

    def _take_sample(
        self, sample: int, places: Sequence[int], some: slice, capture: Capture, shares: Floats | None
    ) -> None:
        if shares is not None:
            self._best[sample, places] = shares.argmax(axis=1)
            self._highest[sample, places] = shares.max(axis=1)
        for i, wanted in enumerate(self._wanted):
            if wanted.kind == "probability":
                assert shares is not None
                each = shares
            else:
                each = _maps(capture[wanted.layer][some], self._layers[wanted.layer])
            if wanted.number is None and places[0] == 0:
                self._numbers[sample, i] = _strongest(each[0])
            chosen = each[:, self._numbers[sample, i]]
            if wanted.kind != "probability":
                chosen = chosen.max(axis=1) if wanted.kind == "strongest" else chosen.sum(axis=1, dtype=np.float64)
            self._values[sample, i, places] = chosen

    def _probabilities(self, outputs: Mapping[str, NDArray[Any]]) -> Floats:
        """Find the output with a score for each class, and give probabilities (row, class)."""
        flat = [o.reshape(len(o), -1) for o in outputs.values() if o.ndim > 1 and math.prod(o.shape[2:]) == 1]
        found = next((o for o in flat if o.shape[1] > 1 and o.dtype.kind == "f"), None)
        source = self._pictures.model.source
        if found is None:
            shapes = ", ".join(f"{name} {'×'.join(map(str, o.shape[1:]))}" for name, o in outputs.items())
            raise ModelError(
                f"{source} gives no score for each class, only {shapes}: map a layer with --layer, and --class none."
            )
        self._classes = count = found.shape[1]
        beyond = [w.number for w in self._wanted if not w.layer and w.number is not None and w.number >= count]
        if beyond:
            raise FmxError(f"{source} has no class {beyond[0]}: it tells {count} apart, numbered from 0.")
        scores = found.astype(np.float64)
        if not np.isfinite(scores).all():
            raise ModelError(f"{source} gives scores that are not finite: look at its input, and at --engine eager.")
        if self._scores == "auto":
            shares = (scores >= 0).all() and (np.abs(scores.sum(axis=1) - 1) < _NEAR_ONE).all()
            self._scores = "given" if shares else "softmax"
        if self._scores in {"raw", "given"}:
            return scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def dataset(self, settings: Mapping[str, Any]) -> xr.Dataset:
        """Label everything."""
        ny, nx = self._patches.shape

        def spread(values: NDArray[Any]) -> NDArray[Any]:
            return values[..., 1:].reshape(*values.shape[:-1], ny, nx)

        where = ("sample", "target")
        kinds = {w.kind: _KINDS[w.kind] for w in self._wanted}
        variables: dict[str, Any] = {
            "value": ((*where, "y", "x"), spread(self._values), {"definition": "with the patch at (y, x)"} | kinds),
            "whole": (where, self._values[..., 0], {"definition": "without a patch"}),
            "number": (where, self._numbers, {"definition": "the class, or the channel of the layer"}),
        }
        if self.wants_classes:
            variables |= {
                "most_probable": (("sample", "y", "x"), spread(self._best)),
                "highest": (("sample", "y", "x"), spread(self._highest), {"definition": "probability of that class"}),
                "whole_class": (("sample",), self._best[:, 0]),
            }
        coords: dict[str, Any] = {
            "sample": self._pictures.samples,
            "target": [w.name for w in self._wanted],
            "kind": ("target", [w.kind for w in self._wanted]),
            "layer": ("target", [w.layer for w in self._wanted]),
        }
        for axis, dim in enumerate(("y", "x")):
            coords[dim] = (dim, self._patches.centres(axis), {"units": "pixel", "definition": "centre of the patch"})
        more = {"scores": SCORES.get(self._scores, _GIVEN), "classes": self._classes} if self.wants_classes else {}
        return xr.Dataset(variables, coords=coords, attrs={**settings, **more})


def _strongest(each: NDArray[Any]) -> int:
    """Find the most probable class, or the map with the largest activation; of several the one with the largest sum."""
    if each.ndim == 1:
        return int(each.argmax())
    highest = each.max(axis=1)
    return int(np.where(highest == highest.max(), each.sum(axis=1, dtype=np.float64), -np.inf).argmax())


def _maps(values: NDArray[Any], info: LayerInfo) -> NDArray[Any]:
    """Bring a layer's values into the order (row, channel, position)."""
    first = np.moveaxis(values, 1 + info.dims.index("channel"), 1)
    return first.reshape(len(first), first.shape[1], -1)
