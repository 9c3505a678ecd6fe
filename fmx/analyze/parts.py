"""The part of a store that is analysed: some samples, one noise level, and whether an unfinished store will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.store import Store

__all__ = ["WHOLE", "Part", "check_complete", "check_per", "clean_level", "find_level", "noise_levels", "split_samples"]


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples and noise levels of a store.

    Attributes
    ----------
    samples : array (sample,) of bool or None
        Which of the store's samples count, of those that are complete; None for all.
    level : int or None
        Position of the only noise level that counts; None for all.
    """

    samples: NDArray[np.bool_] | None = None
    level: int | None = None

    def cut(self, store: Store, data: xr.Dataset) -> tuple[NDArray[np.bool_], xr.Dataset]:
        """Give which samples of the store count, and a layer of its complete samples cut down to the part."""
        there = store.complete
        if self.samples is not None:
            data = data.isel(sample=np.flatnonzero(self.samples[there]))
            there = there & self.samples
        if self.level is not None:
            data = data.isel(noise=slice(self.level, self.level + 1))
        return there, data


WHOLE = Part()


def check_per(per: str, what: str) -> None:
    """See that something is told per layer or channel.

    Raises
    ------
    FmxError
        It is asked for per something else.
    """
    if per not in {"layer", "channel"}:
        raise FmxError(f"{what} is told per layer or channel, not {per}.")


def check_complete(store: Store, allow_partial: bool, *, summaries: bool = False) -> None:
    """See that a store can be analysed; with `summaries` one that keeps no activations will do.

    Raises
    ------
    FmxError
        It is not complete and was not to be analysed as it is, or it holds no complete sample or no layer.
    """
    done, total = int(store.complete.sum()), len(store.samples)
    if done < total and not allow_partial:
        raise FmxError(
            f"{store.path} is not complete ({done} of {total} samples): run the fmx extract that made it again, or "
            "analyse what is there with --allow-partial."
        )
    if not done:
        raise FmxError(f"{store.path} has no complete sample yet: run the fmx extract that made it again.")
    if not store.layers and not (summaries and store.attributes.get("reduced")):
        raise FmxError(f"{store.path} keeps summaries and no activations: extract it without --reduce.")


def clean_level(store: Store) -> int | None:
    """Give the position of the noise level 0, or None if there is none."""
    found = np.flatnonzero(noise_levels(store) == 0)
    return int(found[0]) if len(found) else None


def find_level(store: Store, noise: float | None) -> int:
    """Give the position of a noise level; of 0, or else of the only one there is, where none is asked for.

    Raises
    ------
    FmxError
        The store has no such level.
    """
    levels = noise_levels(store)
    if noise is None:
        clean = clean_level(store)
        if clean is None and len(levels) > 1:
            raise FmxError(f"{store.path} has no noise level 0: choose one with --noise, of {_listed(levels)}.")
        return clean or 0
    found = np.flatnonzero(np.isclose(levels, noise, rtol=1e-6, atol=1e-12))
    if not len(found):
        raise FmxError(f"{store.path} has no noise level {noise:g}: there are {_listed(levels)}.")
    return int(found[0])


def split_samples(labels: Sequence[str], share: float, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split samples in two at random, label by label.

    Parameters
    ----------
    labels : sequence of str
        Of each sample.
    share : float
        Of each label's samples that go into the second part; at least one goes into either.
    seed : int

    Returns
    -------
    array (sample,) of bool, array (sample,) of bool

    Raises
    ------
    FmxError
        A label has one sample only, or `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise FmxError(f"The share of samples that is held out lies between 0 and 1, not at {share:g}.")
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in sorted(set(labels)):
        own = np.flatnonzero(np.asarray(labels) == label)
        if len(own) < 2:
            raise FmxError(
                f"The label {label} has one sample only, which can't be both used and held out: add samples."
            )
        held[rng.permutation(own)[: min(max(round(share * len(own)), 1), len(own) - 1)]] = True
    return ~held, held


def noise_levels(store: Store) -> NDArray[np.float64]:
    """Give the noise levels of a store (noise)."""
    return np.asarray(store.tree.to_dataset()["noise"].values, dtype=np.float64)


def _listed(levels: NDArray[np.float64]) -> str:
    return ", ".join(f"{level:g}" for level in levels)
