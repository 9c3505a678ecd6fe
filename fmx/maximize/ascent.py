"""Gradient ascent on a batch of pictures, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fmx.maximize.draw import Draw
from fmx.maximize.images import Image
from fmx.maximize.network import Network
from fmx.maximize.objectives import Objective
from fmx.maximize.penalties import Penalties
from fmx.maximize.transforms import Transforms

__all__ = ["ASCENDED", "FLAT", "NOT_FINITE", "Ascent", "Group"]

ASCENDED, FLAT, NOT_FINITE = "ok", "flat", "not finite"

# Steps without any change of the objective after which a picture counts as stuck.
PATIENCE = 32
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
# Devices on which torch has Adam in one pass over the numbers.
_FUSED = {"cpu", "cuda"}


@dataclass(frozen=True)
class Group:
    """Pictures of one objective, which may look at each other (diversity).

    Attributes
    ----------
    objective : Objective
    draws : tuple of Draw
        One a picture.
    """

    objective: Objective
    draws: tuple[Draw, ...]


@dataclass
class Ascent:
    """Pictures on their way up.

    Attributes
    ----------
    network : Network
    image : Image
    groups : sequence of Group
    transforms : Transforms
    penalties : Penalties
    rate : float
        Learning rate.
    numbers : tensor (picture, …)
        What is optimised.
    status : list of str
        ``ok``, ``flat`` (the objective never changed) or ``not finite``, of each picture.
    curve : list of tensor (picture,)
        The objectives in each step, on the transformed pictures; NaN once a picture has stopped.
    """

    network: Network
    image: Image
    groups: Sequence[Group]
    transforms: Transforms
    penalties: Penalties
    rate: float
    numbers: Tensor
    pass_pixels: int
    keep_alpha: bool = False
    status: list[str] = field(init=False)
    curve: list[Tensor] = field(init=False, default_factory=list)
    alpha: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.draws = [draw for group in self.groups for draw in group.draws]
        self.numbers = self.numbers.to(self.network.device)
        self.status = [ASCENDED] * len(self.draws)
        self._pushed = torch.zeros(len(self.draws), dtype=torch.bool)
        self._moving = torch.ones(len(self.draws), dtype=torch.bool)
        self._generators = [draw.generator("transforms") for draw in self.draws]

    def run(self, steps: int, watch: Callable[[int, Ascent], None] | None = None) -> None:
        """Take some steps; `watch` is told after each how many were taken.

        Adam's moments begin anew with each call.
        """
        self.numbers = self.numbers.contiguous()
        adam = _Adam(self.numbers, self.rate)
        before = self.numbers.clone()
        for step in range(1, steps + 1):
            if not self._moving.any():
                self.curve.append(torch.full((len(self.draws),), torch.nan))
                self._told(watch, step)
                continue
            reached, gradient = self._gradient()
            steepest = _steepest(gradient)
            sound = reached.isfinite() & steepest.isfinite()
            self._stop(self._moving & ~sound, NOT_FINITE, before)
            reached[~self._moving] = torch.nan
            self.curve.append(reached)
            before.copy_(self.numbers)
            self._push(gradient, steepest == 0, adam)
            adam.step(gradient, self._moving)
            if len(self.curve) == PATIENCE:
                known = torch.stack(self.curve)
                # Pictures of the same size are compared: what never moves may still differ between sizes.
                first = known[torch.arange(PATIENCE) % max(len(self.transforms.views or ()), 1)]
                self._stop(self._moving & (known == first).all(0), FLAT, self.numbers)
            self._told(watch, step)

    def _push(self, gradient: Tensor, level: Tensor, adam: _Adam) -> None:
        """Give pictures without any gradient that of leaky ReLUs, as a channel that is off has no other.

        It is of another size: what Adam has learnt from the one is forgotten with the other.
        """
        still = self._moving & level
        adam.forget(still != self._pushed)
        self._pushed = still
        if still.any():
            gradient[still] = self._gradient(only=still)[1][still]
            gradient.nan_to_num_(0.0, 0.0, 0.0)

    def _told(self, watch: Callable[[int, Ascent], None] | None, step: int) -> None:
        if watch is not None:
            watch(step, self)

    def _stop(self, which: Tensor, status: str, numbers: Tensor) -> None:
        """Stop some pictures where they were with the given numbers."""
        for i in which.nonzero()[:, 0].tolist():
            self.status[i] = status
            if self.numbers is not numbers:
                self.numbers[i] = numbers[i]
            self._moving[i] = False

    def _gradient(self, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give the objectives (picture,) and the gradient of each picture's with respect to its numbers.

        With `only`, of some pictures, through leaky ReLUs, and under the transforms of the last time.
        """
        height, width = self.image.size
        transforms = self.transforms.for_size(height, width)
        if only is None:
            self._zoom = transforms.zoom(len(self.curve), height, width)
            self._maps = [transforms.draw(generator, self._zoom) for generator in self._generators]
        wanted_rows = self._moving if only is None else only
        reached = torch.full((len(self.draws),), torch.nan)
        gradient = torch.zeros_like(self.numbers)
        for groups, rows in self._passes(transforms.window(height, width, self._zoom), wanted_rows):
            numbers = self.numbers[rows].detach().requires_grad_()
            pictures = self.image.picture(numbers)
            looked = transforms.apply(pictures, [self._maps[i] for i in rows], self._zoom)
            objective = measured(self.network, groups, looked, leaky=only is not None)
            wanted = objective
            penalty = self.penalties(pictures)
            if penalty is not None:
                wanted = wanted - penalty
            if self.keep_alpha and only is None:
                gradient[rows], on_pixels = torch.autograd.grad(wanted.sum(), [numbers, pictures])
                self._add_alpha(rows, on_pixels)
            else:
                (gradient[rows],) = torch.autograd.grad(wanted.sum(), numbers)
            reached[rows] = objective.detach().cpu()
        return reached, gradient

    def _add_alpha(self, rows: Sequence[int], gradient: Tensor) -> None:
        if self.alpha is None:
            self.alpha = torch.zeros(len(self.draws), *gradient.shape[2:], device=gradient.device)
        self.alpha[rows] += gradient.abs().mean(1)

    def _passes(self, window: tuple[int, int], wanted: Tensor) -> list[tuple[list[Group], list[int]]]:
        """Split the wanted pictures into passes that fit into memory, those of a group together."""
        most = max(self.pass_pixels // (window[0] * window[1]), 1)
        passes: list[tuple[list[Group], list[int]]] = []
        start = 0
        for group in self.groups:
            rows = [i for i in range(start, start + len(group.draws)) if wanted[i]]
            start += len(group.draws)
            if not rows:
                continue
            left = Group(group.objective, tuple(self.draws[i] for i in rows))
            if not passes or len(passes[-1][1]) + len(rows) > most:
                passes.append(([], []))
            passes[-1][0].append(left)
            passes[-1][1].extend(rows)
        return passes


class _Adam:
    """Adam (Kingma and Ba 2015) on numbers (picture, …) in place, whose pictures each have an age of their own."""

    def __init__(self, numbers: Tensor, rate: float) -> None:
        self._rows = list(numbers.unbind())
        self._optimiser = torch.optim.Adam(
            self._rows, lr=rate, betas=_BETAS, eps=_EPSILON, maximize=True, fused=numbers.device.type in _FUSED
        )

    def forget(self, which: Tensor) -> None:
        """Begin anew for some pictures."""
        for i in which.nonzero()[:, 0].tolist():
            self._optimiser.state.pop(self._rows[i], None)

    def step(self, gradient: Tensor, moving: Tensor) -> None:
        """Take a step upwards along gradients (picture, …), none with pictures at rest."""
        for row, along, goes in zip(self._rows, gradient, moving.tolist(), strict=True):
            row.grad = along if goes else None
        self._optimiser.step()


def _steepest(gradient: Tensor) -> Tensor:
    """Give the largest absolute number of each picture's gradient, (picture,); NaN and infinity are larger still."""
    return gradient.flatten(1).abs().amax(1).cpu()


def measured(network: Network, groups: Sequence[Group], pictures: Tensor, *, leaky: bool = False) -> Tensor:
    """Give the objective of each picture, (picture,); the groups' pictures follow each other."""
    counts = [len(group.draws) for group in groups]
    # Split once: the way back then joins once, and not as often as there are groups.
    values = {name: torch.split(value, counts) for name, value in network.values(pictures, leaky=leaky).items()}
    found = [group.objective({name: own[i] for name, own in values.items()}) for i, group in enumerate(groups)]
    return torch.cat(found)
