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
PATIENCE = 16
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


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
    """Pictures on their way up, by Adam (Kingma and Ba 2015).

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
        # What is begun anew did not move before: it is pushed for a while.
        self._pushed = self.draws[0].attempt > 0
        self._moving = torch.ones(len(self.draws), dtype=torch.bool)
        self._generators = [draw.generator("transforms") for draw in self.draws]

    def run(self, steps: int, watch: Callable[[int, Ascent], None] | None = None) -> None:
        """Take some steps; `watch` is told after each how many were taken.

        Adam's moments begin anew with each call.
        """
        first, second, age = torch.zeros_like(self.numbers), torch.zeros_like(self.numbers), 0
        before = self.numbers
        for step in range(1, steps + 1):
            if not self._moving.any():
                self.curve.append(torch.full((len(self.draws),), torch.nan))
                self._told(watch, step)
                continue
            reached, gradient = self._gradient()
            sound = reached.isfinite() & gradient.flatten(1).isfinite().all(1).cpu()
            self._stop(self._moving & ~sound, NOT_FINITE, before)
            reached[~self._moving] = torch.nan
            self.curve.append(reached)
            before = self.numbers
            age += 1
            moving = self._moving.to(gradient.device).reshape(-1, *[1] * (gradient.dim() - 1))
            gradient = torch.where(moving, gradient, 0)
            first.lerp_(gradient, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            size = (second / (1 - _BETAS[1] ** age)).sqrt_().add_(_EPSILON)
            update = first / size * (self.rate / (1 - _BETAS[0] ** age))
            self.numbers = torch.where(moving, self.numbers + update, self.numbers)
            if self._pushed and len(self.curve) == PATIENCE:
                # Redirected gradients are of another size: what Adam learnt from them would hold it back.
                first, second, age = torch.zeros_like(first), torch.zeros_like(second), 0
            if len(self.curve) == (2 * PATIENCE if self._pushed else PATIENCE):
                known = torch.stack(self.curve)
                self._stop(self._moving & (known == known[0]).all(0), FLAT, self.numbers)
            self._told(watch, step)

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

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """Give the objectives (picture,) and the gradient of each picture's with respect to its numbers."""
        height, width = self.image.picture(self.numbers[:1]).shape[2:]
        redirect = self._pushed and len(self.curve) < PATIENCE
        transforms = self.transforms.for_size(height, width)
        maps = [transforms.draw(generator) for generator in self._generators]
        reached = torch.full((len(self.draws),), torch.nan)
        gradient = torch.zeros_like(self.numbers)
        for groups, rows in self._passes(transforms.window(height, width)):
            numbers = self.numbers[rows].detach().requires_grad_()
            pictures = self.image.picture(numbers)
            looked = transforms.apply(pictures, [maps[i] for i in rows])
            objective = measured(self.network, groups, looked, redirect=redirect)
            wanted = objective
            penalty = self.penalties(pictures)
            if penalty is not None:
                wanted = wanted - penalty
            if self.keep_alpha:
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

    def _passes(self, window: tuple[int, int]) -> list[tuple[list[Group], list[int]]]:
        """Split into passes that fit into memory, of whole groups, without those that have stopped."""
        most = max(self.pass_pixels // (window[0] * window[1]), 1)
        passes: list[tuple[list[Group], list[int]]] = []
        start = 0
        for group in self.groups:
            rows = [i for i in range(start, start + len(group.draws)) if self._moving[i]]
            start += len(group.draws)
            if not rows:
                continue
            left = Group(group.objective, tuple(self.draws[i] for i in rows))
            if not passes or len(passes[-1][1]) + len(rows) > most:
                passes.append(([], []))
            passes[-1][0].append(left)
            passes[-1][1].extend(rows)
        return passes


def measured(network: Network, groups: Sequence[Group], pictures: Tensor, *, redirect: bool = False) -> Tensor:
    """Give the objective of each picture, (picture,); the groups' pictures follow each other."""
    values = network.values(pictures, redirect=redirect)
    found, start = [], 0
    for group in groups:
        rows = slice(start, start + len(group.draws))
        found.append(group.objective({name: value[rows] for name, value in values.items()}))
        start = rows.stop
    return torch.cat(found)
