"""How well layers and channels hold their clean activations as noise grows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import merge_along
from fmx.analyze.not_finite import check_nan, without_spoiled
from fmx.analyze.parts import check_complete, check_per, clean_level, noise_levels
from fmx.analyze.precision import among_top
from fmx.analyze.sample_folds import sample_folds
from fmx.errors import FmxError
from fmx.reduce import NoisePairs, State
from fmx.store import Store

__all__ = ["flipped_predictions", "robustness"]

_ABOUT = {
    "sqnr": "10·log10(Σx² / Σ(x-y)²) in dB, x clean and y noisy; infinite where nothing differs",
    "cosine": "Σxy / √(Σx² Σy²); NaN where either is 0 throughout",
    "relative_l2": "√(Σ(x-y)² / Σx²); NaN where x is 0 throughout",
    "correlation": "Pearson's correlation of x and y; NaN where either is constant",
    "count": "pairs of finite values",
    "lost": "pairs of which a value is NaN or infinite; they are left out",
    "top_overlap": "mean over samples of the share of the {k} channels with the largest means that are among the {k} "
    "largest clean ones",
    "halved": "channels whose Σ(x-y)² is at least half of Σx²",
    "half_level": "least level, interpolated linearly, at which Σ(x-y)² is half of Σx² (SQNR 3 dB); NaN where none is",
    "half_reached": "whether there is such a level",
    "flipped": "share of samples (and timesteps) whose largest output is another than at level 0",
}


def robustness(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    per: str = "layer",
    top: int = 10,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Compare each noise level with the clean one, in one read of the store.

    Parameters
    ----------
    store : Store
        With noise level 0 and others.
    layers, allow_partial
        See `fmx.analyze.stats`.
    per : str
        ``layer``, or ``channel`` for every channel apart.
    top : int
        Channels whose ranks are compared, sample by sample; half of the channels where there are fewer than twice as
        many.
    nan : str
        ``skip`` leaves out pairs with a value that is not finite; ``keep`` makes results NaN that have one among them.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: sqnr, cosine, relative_l2, correlation, count and lost ((channel,) noise), half_level and half_reached
        ((channel)); per layer also top_overlap and halved (noise), and flipped (noise) if the store keeps outputs.
        Definitions in the attributes. Sums are taken over everything first, ratios and logarithms once.

    Raises
    ------
    FmxError
        No clean level, or no other one; an unfinished store; a layer without channels.
    """
    check_per(per, "Robustness")
    if top < 1:
        raise FmxError(f"At least one top channel is compared, not {top}.")
    check_nan(nan)
    check_complete(store, allow_partial)
    levels = noise_levels(store)
    clean = clean_level(store)
    if clean is None:
        raise FmxError(f"{store.path} has no noise level 0 to compare the others with: extract it with --noise 0,….")
    if len(levels) < 2:
        raise FmxError(f"{store.path} has no noise level beside 0: extract it with levels such as --noise 0,0.1,0.2.")
    reducer = NoisePairs(len(levels), clean)
    flipped = flipped_predictions(store, clean) if per == "layer" else None
    chosen = store.select(layers)
    for info in chosen:
        if "channel" not in info.dims:
            raise FmxError(f"{info.name} has no axis channel to be compared: leave it out with --layers.")
    fold = _PairFold(reducer, top)
    read: dict[str, _Held] = sample_folds(store, {info.name: fold for info in chosen})
    found = {}
    for name, held in read.items():
        data, state = store.layer(name), held.states
        if per == "channel":
            channels = _described(state, reducer, levels, {"channel": data["channel"]}, data.attrs)
            found[name] = _kept(channels, nan)
            continue
        result = _described(merge_along(reducer, state), reducer, levels, {}, data.attrs)
        ratio = _lost_share(state)
        result["halved"] = ("noise", (ratio >= 0.5).sum(axis=0), {"definition": _ABOUT["halved"]})
        k = _compared(top, state.shape[0])
        overlap = held.kept / max(held.samples, 1)
        result["top_overlap"] = ("noise", overlap, {"definition": _ABOUT["top_overlap"].format(k=k)})
        if flipped is not None:
            result["flipped"] = ("noise", flipped[0], {"definition": _ABOUT["flipped"]})
            result["outputs_lost"] = ("noise", flipped[1], {"definition": "outputs with values that are not finite"})
        found[name] = _kept(result, nan)
    return found


def _kept(results: xr.Dataset, nan: str) -> xr.Dataset:
    """Make results NaN that have values among theirs that are not finite, if such values are kept."""
    found = without_spoiled(results, nan, ("lost",), but=("flipped",))
    if "flipped" in found:
        rest = [str(name) for name in found.data_vars if name != "flipped"]
        found = without_spoiled(found, nan, ("outputs_lost",), but=rest)
    return found.assign(half_reached=found["half_reached"] & found["half_level"].notnull())


def _compared(top: int, channels: int) -> int:
    return max(min(top, channels // 2), 1)


@dataclass(frozen=True)
class _Held:
    """What a run of samples came to; it is made where they are read.

    Attributes
    ----------
    states : array (channel,)
        Of `fmx.reduce.NoisePairs`.
    kept : array (noise,)
        Shares of the samples' top channels that stay, summed up over samples.
    samples : int
    """

    states: State
    kept: NDArray[np.float64]
    samples: int


@dataclass(frozen=True)
class _PairFold:
    """How the noise levels of samples are compared; it can be sent to another machine.

    Attributes
    ----------
    reducer : NoisePairs
    top : int
        Channels whose ranks are compared.
    """

    reducer: NoisePairs
    top: int

    def take(self, states: State, _: slice) -> _Held:
        """Merge the states of a run of samples, and count the top channels that stay."""
        kept = _kept_of_top(states, _compared(self.top, states.shape[1]))
        return _Held(merge_along(self.reducer, states), kept, len(states))

    def join(self, parts: Sequence[_Held]) -> _Held:
        """Put runs of samples together, in their order."""
        states = merge_along(self.reducer, np.stack([part.states for part in parts]))
        return _Held(states, np.sum([part.kept for part in parts], axis=0), sum(part.samples for part in parts))

    def finish(self, whole: _Held) -> _Held:
        """Give it as it is."""
        return whole


def _kept_of_top(states: State, k: int) -> NDArray[np.float64]:
    """Sum up over samples the share of the top channels that stay (noise,), from states (sample, channel)."""
    kept = np.zeros(states["count"].shape[-1])
    # Without lost pairs the clean means are the same beside all levels.
    whole = not states["lost"].any()
    clean: NDArray[np.bool_] | None = None
    for level in range(len(kept)):
        known = states["count"][..., level] > 0
        if clean is None or not whole:
            clean = among_top(np.where(known, states["mean_x"][..., level], np.nan), k)
        noisy = among_top(np.where(known, states["mean_y"][..., level], np.nan), k)
        kept[level] = (clean & noisy).sum() / k
    return kept


def _lost_share(state: Any) -> NDArray[np.float64]:
    """Give Σ(x-y)² / Σx²; NaN where x is 0 throughout."""
    with np.errstate(all="ignore"):
        power = state["xx"] + state["count"] * state["mean_x"] ** 2
        return np.asarray(state["difference"] / np.where(power > 0, power, np.nan))


def _described(
    state: Any, reducer: NoisePairs, levels: NDArray[np.float64], coords: dict[str, Any], attributes: Any
) -> xr.Dataset:
    dims = tuple(coords)
    variables = {
        name: ((*dims, "noise"), values, {"definition": _ABOUT[name]})
        for name, values in reducer.finalize(state).items()
    }
    result = xr.Dataset(variables, coords={**coords, "noise": levels}, attrs=dict(attributes))
    half = half_levels(_lost_share(state), levels)
    result["half_level"] = (dims, half, {"definition": _ABOUT["half_level"]})
    result["half_reached"] = (dims, np.isfinite(half), {"definition": _ABOUT["half_reached"]})
    return result


def half_levels(share: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find where a share that grows with the level (…, noise) first gets to one half, between levels by a line."""
    order = np.argsort(levels, kind="stable")
    share, levels = share[..., order], levels[order]
    reached = share >= 0.5
    first = np.argmax(reached, axis=-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(share, i[..., None], axis=-1)[..., 0] for i in (before, first))
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(high > low, (0.5 - low) / (high - low), 0.0)
    found = levels[before] + part * (levels[first] - levels[before])
    return np.where(reached.any(axis=-1), np.where(first == 0, levels[0], found), np.nan)


def flipped_predictions(store: Store, clean: int) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Give the share of predictions that are another than the clean ones, and of how many none can be told (noise).

    None if the store keeps no outputs that are scores of classes.
    """
    if "outputs" not in store.tree.children:
        return None
    outputs = store.tree["outputs"].to_dataset()
    scores = next((v for v in outputs.data_vars.values() if v.ndim == 4 and v.shape[-1] > 1), None)
    if scores is None:
        return None
    scores = scores.isel(sample=np.flatnonzero(store.complete))
    classes = str(scores.dims[-1])
    known = scores.map_blocks(np.isfinite).all(classes)
    best, known = store.compute(scores.fillna(-np.inf).argmax(classes), known)
    first, there = best.isel(noise=clean), known & known.isel(noise=clean)
    over = [dim for dim in best.dims if dim != "noise"]
    lost = (~there).sum(over).values
    with np.errstate(invalid="ignore"):
        share = ((best != first) & there).sum(over).values / np.maximum(there.sum(over).values, 1)
    return np.asarray(share, np.float64), np.asarray(lost, np.int64)
