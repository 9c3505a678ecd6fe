"""How well layers and channels hold their clean activations as noise grows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import merge_along, sample_batches
from fmx.analyze.not_finite import check_nan, without_spoiled
from fmx.analyze.parts import check_complete, clean_level, noise_levels
from fmx.analyze.precision import top_channels
from fmx.errors import FmxError
from fmx.reduce import NoisePairs
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
    layers : str or iterable of str
    per : str
        ``layer``, or ``channel`` for every channel apart.
    top : int
        Channels whose ranks are compared, sample by sample; half of the channels where there are fewer than twice as
        many.
    nan : str
        ``skip`` leaves out pairs with a value that is not finite; ``keep`` makes results NaN that have one among them.
    allow_partial : bool
        Analyse the complete samples of an unfinished store.

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
    if per not in {"layer", "channel"}:
        raise FmxError(f"Robustness is told per layer or channel, not {per}.")
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
    found = {}
    for info in store.select(layers):
        if "channel" not in info.dims:
            raise FmxError(f"{info.name} has no axis channel to be compared: leave it out with --layers.")
        state, overlap = _read(store, info.name, reducer, top)
        data = store.layer(info.name)
        if per == "channel":
            channels = _described(state, reducer, levels, {"channel": data["channel"]}, data.attrs)
            found[info.name] = _kept(channels, nan)
            continue
        result = _described(merge_along(reducer, state), reducer, levels, {}, data.attrs)
        ratio = _lost_share(state)
        result["halved"] = ("noise", (ratio >= 0.5).sum(axis=0), {"definition": _ABOUT["halved"]})
        k = _compared(top, state.shape[0])
        result["top_overlap"] = ("noise", overlap, {"definition": _ABOUT["top_overlap"].format(k=k)})
        if flipped is not None:
            result["flipped"] = ("noise", flipped[0], {"definition": _ABOUT["flipped"]})
            result["outputs_lost"] = ("noise", flipped[1], {"definition": "outputs with values that are not finite"})
        found[info.name] = _kept(result, nan)
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


def _read(store: Store, layer: str, reducer: NoisePairs, top: int) -> tuple[Any, NDArray[np.float64]]:
    """Give the states (channel) of a layer, and how many of each sample's top channels stay (noise)."""
    state, kept, samples = None, np.zeros(reducer.levels), 0
    for batch in sample_batches(store, layer, {"r": reducer}, by=("sample", "channel"), finalize=False):
        states = batch["r"].values
        k = _compared(top, states.shape[1])
        samples += len(states)
        for level in range(reducer.levels):
            known = states["count"][..., level] > 0
            means = [np.where(known, states[name][..., level], np.nan) for name in ("mean_x", "mean_y")]
            chosen = np.zeros((2, *known.shape), bool)
            for side, values in zip(chosen, means, strict=True):
                np.put_along_axis(side, top_channels(values, k)[0], True, axis=1)
            kept[level] += (chosen[0] & chosen[1]).sum() / k
        merged = merge_along(reducer, states)
        state = merged if state is None else reducer.merge(state, merged)
    return state, kept / max(samples, 1)


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
