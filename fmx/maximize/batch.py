"""One batch from noise to finished pictures: all scales, and a new beginning where nothing moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmx.maximize.ascent import ASCENDED, FLAT, Ascent, Group, measured
from fmx.maximize.images import Fourier, Image, Phases, Pixels
from fmx.maximize.methods import Settings
from fmx.maximize.network import Network

__all__ = ["Maximized", "maximize_batch"]

# Pixels that go through the network at once; what is left over goes in another pass, with the same result. On one
# thread torch gives 1×1 convolutions to oneDNN, which needs half the time, from 16 pictures on.
PASS_PIXELS = {"cpu": 16 * 128 * 128}
_MANY_PIXELS = 64 * 160 * 160
# A picture that does not move starts from stronger noise each time.
_STRONGER = 4.0


@dataclass
class Maximized:
    """Finished pictures of a batch, in the order of its groups.

    Attributes
    ----------
    pictures : ndarray of uint8, (picture, y, x, band)
    activation : ndarray of float32, (picture,)
        The objective of the finished picture as it is here, in 8 bits and without transforms.
    start : ndarray of float32, (picture,)
        The same of the noise it began with.
    status : list of str
    restarts : list of int
        How often each was begun anew.
    curve : ndarray of float32, (picture, step)
        The objective in each step, of the transformed pictures.
    alpha : ndarray of float32, (picture, y, x), or None
        Sum over the steps of the absolute gradient on the pixels.
    """

    pictures: NDArray[np.uint8]
    activation: NDArray[np.float32]
    start: NDArray[np.float32]
    status: list[str]
    restarts: list[int]
    curve: NDArray[np.float32]
    alpha: NDArray[np.float32] | None = None

    def put(self, rows: Sequence[int], other: Maximized) -> None:
        """Replace some pictures."""
        for name in ("pictures", "activation", "start", "curve", "alpha"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None:
                mine[rows] = theirs
        for row, status in zip(rows, other.status, strict=True):
            self.status[row] = status


def maximize_batch(
    network: Network,
    groups: Sequence[Group],
    settings: Settings,
    *,
    magnitude: Tensor | None = None,
    every: int | None = None,
    frames: dict[int, NDArray[np.uint8]] | None = None,
    tell: Callable[[int], None] | None = None,
) -> Maximized:
    """Maximize the objectives of groups.

    Parameters
    ----------
    network : Network
    groups : sequence of Group
    settings : Settings
    magnitude : tensor (axis, fy, fx), optional
        The spectrum, for MACO.
    every : int, optional
        Keep the pictures after every so many steps, and the last ones.
    frames : dict, optional
        Where they are put, by the steps taken, as uint8 (picture, y, x, band) of the size of the last ones.
    tell : callable, optional
        Given the steps taken so far.
    """
    taken: dict[int, NDArray[np.uint8]] = {} if frames is None else frames
    made = _attempt(network, groups, settings, magnitude, every, taken, tell)
    rows = np.cumsum([0, *(len(group.draws) for group in groups)])
    for attempt in range(1, settings.restarts + 1):
        stuck = [g for g in range(len(groups)) if FLAT in made.status[rows[g] : rows[g + 1]]]
        if not stuck:
            break
        again = [_begun_anew(groups[g], attempt) for g in stuck]
        where = [i for g in stuck for i in range(rows[g], rows[g + 1])]
        retaken: dict[int, NDArray[np.uint8]] = {}
        made.put(where, _attempt(network, again, settings, magnitude, every, retaken, None))
        for step, pictures in retaken.items():
            taken[step][where] = pictures
        for row in where:
            made.restarts[row] = attempt
    return made


def _begun_anew(group: Group, attempt: int) -> Group:
    return Group(group.objective, tuple(replace(draw, attempt=attempt) for draw in group.draws))


def _image(settings: Settings, bands: int, size: tuple[int, int], attempt: int, magnitude: Tensor | None) -> Image:
    stronger = _STRONGER**attempt
    if settings.method == "maco":
        assert magnitude is not None
        contrast = settings.contrast * 2**attempt
        return Phases(magnitude, size[1], contrast=contrast, decorrelate=settings.decorrelate)
    if settings.method == "fourier":
        spread = 0.01 * stronger
        return Fourier(bands, *size, decay=settings.decay, spread=spread, decorrelate=settings.decorrelate)
    return Pixels(bands, *size, spread=min((0.1 if settings.method == "multi-scale" else 0.01) * stronger, 10))


def _attempt(
    network: Network,
    groups: Sequence[Group],
    settings: Settings,
    magnitude: Tensor | None,
    every: int | None,
    frames: dict[int, NDArray[np.uint8]],
    tell: Callable[[int], None] | None,
) -> Maximized:
    draws = [draw for group in groups for draw in group.draws]
    sizes = settings.sizes()
    image = _image(settings, network.bands, sizes[0], draws[0].attempt, magnitude)
    ascent = Ascent(
        network,
        image,
        groups,
        settings.transforms,
        settings.penalties,
        settings.rate,
        image.begin(draws),
        PASS_PIXELS.get(network.device.type, _MANY_PIXELS),
        keep_alpha=settings.method == "maco",
    )
    start = _measured(network, groups, _pixels(image, ascent.numbers))
    for k, size in enumerate(sizes):
        if k:
            ascent.image = _image(settings, network.bands, size, 0, None)
            ascent.numbers = torch.nn.functional.interpolate(ascent.numbers, size, mode="bilinear", align_corners=False)

        def after(step: int, ascent: Ascent, begun: int = k * settings.steps) -> None:
            if tell is not None:
                tell(begun + step)
            if every and ((begun + step) % every == 0 or begun + step == settings.total_steps):
                frames[begun + step] = _enlarged(_pixels(ascent.image, ascent.numbers), sizes[-1])

        ascent.run(settings.steps, after)
    pictures = _pixels(ascent.image, ascent.numbers)
    reached = _measured(network, groups, pictures)
    # What wakes up under some transforms only, and sleeps again, has not moved either.
    moved = [FLAT if a == b else ASCENDED for a, b in zip(reached, start, strict=True)]
    status = [m if s == ASCENDED else s for m, s in zip(moved, ascent.status, strict=True)]
    return Maximized(
        pictures,
        reached,
        start,
        status,
        [0] * len(draws),
        torch.stack(ascent.curve, 1).numpy(),
        None if ascent.alpha is None else ascent.alpha.cpu().numpy(),
    )


def _pixels(image: Image, numbers: Tensor) -> NDArray[np.uint8]:
    """Round to 8 bits, (picture, y, x, band)."""
    with torch.no_grad():
        pictures = torch.cat([image.picture(some) for some in torch.split(numbers, 16)])
        return (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy().copy()


def _enlarged(pictures: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Repeat pixels so that pictures of all scales have one size."""
    rows, columns = (np.arange(now) * was // now for now, was in zip(size, pictures.shape[1:3], strict=True))
    return pictures if pictures.shape[1:3] == size else pictures[:, rows[:, None], columns]


def _measured(network: Network, groups: Sequence[Group], pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure 8-bit pictures as they are."""
    found, start = [], 0
    with torch.no_grad():
        for group in groups:
            own = pictures[start : start + len(group.draws)]
            start += len(own)
            values = torch.from_numpy(own).to(network.device).permute(0, 3, 1, 2).float() / 255
            found.append(measured(network, [group], values))
    return torch.cat(found).cpu().numpy()
