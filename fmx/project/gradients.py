"""Attributions from gradients at the input: plain, times the input, averaged over noise, or along a path.

All of them are sums of gradients at some points near or between inputs, so that one loop makes them: points go forward
in batches, and each target goes back once a batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.project.network import Network
from fmx.project.targets import Targets

__all__ = ["Cloud", "Path", "gradients", "integrated", "smooth"]


@dataclass(frozen=True)
class Cloud:
    """How SmoothGrad draws noise.

    Attributes
    ----------
    count : int
        Noisy copies of the input.
    level : float
        Standard deviation of the noise, as a share of the input's range.
    seed : int
    """

    count: int = 32
    level: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.level < 0:
            raise FmxError("SmoothGrad needs at least one copy and noise of at least 0.")


@dataclass(frozen=True)
class Path:
    """The way that integrated gradients go.

    Attributes
    ----------
    steps : int
        Points of Gauss and Legendre's rule.
    baseline : float
        Where the way begins: every value of the model's input. 0 is what is usual behind mean and std.
    """

    steps: int = 64
    baseline: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise FmxError(f"A path has at least one step, not {self.steps}.")


def gradients(network: Network, sample: NDArray[Any], targets: Targets) -> NDArray[np.float32]:
    """Give the gradient of each target at a sample, (target, …model input)."""
    return network.pull(sample, targets.name, len(targets.seeds), lambda start, stop: targets.seeds[start:stop])


def smooth(
    network: Network, sample: NDArray[Any], targets: Targets, cloud: Cloud, sample_id: str
) -> NDArray[np.float32]:
    """Average the gradient over noisy copies of a sample (SmoothGrad), (target, …model input).

    The noise is a function of the seed and the sample's id.
    """
    rng = np.random.default_rng((cloud.seed, zlib.crc32(sample_id.encode())))
    spread = np.float32(cloud.level * float(sample.max() - sample.min()))

    def points() -> Iterator[tuple[NDArray[Any], float]]:
        for _ in range(cloud.count):
            noise = rng.standard_normal(sample.shape, dtype=np.float32)
            yield (sample + spread * noise).astype(sample.dtype), 1 / cloud.count

    return _summed(network, targets, points(), sample.shape)


def integrated(
    network: Network, sample: NDArray[Any], targets: Targets, path: Path
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Integrate gradients along the straight way from the baseline to a sample.

    Returns
    -------
    attribution : array (target, …model input)
        The integral times the way.
    gap : array (target)
        What the attributions add up to, less the change of the target along the way: 0 but for the steps' coarseness.
    """
    start = np.full_like(sample, path.baseline)
    way = sample - start
    nodes, weights = np.polynomial.legendre.leggauss(path.steps)

    def points() -> Iterator[tuple[NDArray[Any], float]]:
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            yield (start + np.float32(node) * way).astype(sample.dtype), float(weight)

    found = way * _summed(network, targets, points(), sample.shape)
    at_start = network.begin(start, [targets.name]).values[targets.name][0].detach().cpu().flatten().double()
    change = targets.values - (targets.seeds.flatten(1).double() @ at_start).numpy()
    gap = found.reshape(len(found), -1).sum(axis=1, dtype=np.float64) - change
    return found, gap


def _summed(
    network: Network, targets: Targets, points: Iterator[tuple[NDArray[Any], float]], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Sum up weighted gradients of each target at some points, (target, …model input)."""
    total = np.zeros((len(targets.seeds), *shape), np.float64)
    batch = list(_taken(points, network.batch_size))
    while batch:
        inputs = torch.from_numpy(np.stack([point for point, _ in batch])).to(network.device)
        done = network.forward(inputs, [targets.name])
        weights = done.inputs.new_tensor([weight for _, weight in batch])
        for i, seed in enumerate(targets.seeds.to(network.device)):
            given = weights.reshape(-1, *[1] * seed.ndim) * seed
            pulled = network.gradient(done, targets.name, given, last=i == len(targets.seeds) - 1)
            total[i] += pulled.numpy(force=True).sum(axis=0, dtype=np.float64)
        batch = list(_taken(points, network.batch_size))
    return total.astype(np.float32)


def _taken(points: Iterator[Any], count: int) -> Iterator[Any]:
    for _, point in zip(range(count), points, strict=False):
        yield point
