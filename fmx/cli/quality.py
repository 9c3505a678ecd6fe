"""``fmx robustness``, ``fmx temporal`` and ``fmx health``."""

from __future__ import annotations

from typing import Annotated, Any

from fmx.cli import options as opt
from fmx.cli import reading as common
from fmx.cli import texts

__all__ = ["health", "robustness", "temporal"]

Per = Annotated[str, opt.per("layer or channel")]


def robustness(
    store: opt.StorePath,
    layers: opt.Layers = "all",
    per: Per = "layer",
    top: Annotated[int, opt.top("channels of a sample that are compared")] = 10,
    nan: common.Nan = "skip",
    *,
    results: common.Results,
) -> None:
    """Compare every noise level with the clean activations: SQNR, cosine, relative L2, correlation, top channels.

    half_level is the level at which half of the signal is lost (SQNR 3 dB). The share of flipped predictions needs a
    store that was extracted with --outputs.
    """
    from fmx.analyze import robustness as compute
    from fmx.analyze import to_rows

    opened = results.open(store)
    with common.reading():
        found = compute(opened, layers=layers, per=per, top=top, nan=nan, allow_partial=results.allow_partial)
    results.keep(opened, found, {"analysis": "robustness", "per": per, "top": top, "nan": nan})
    rows = to_rows(found)
    shown = rows if results.json else [row for row in rows if row["noise"] != 0]
    names = ["layer", *(["channel"] if per == "channel" else []), "noise"]
    names += ["sqnr", "cosine", "relative_l2", "correlation", "top_overlap", "halved", "flipped", "half_level"]
    headings = {
        "sqnr": "SQNR dB",
        "relative_l2": "rel. L2",
        "top_overlap": f"top {top} kept",
        "half_level": "half level",
    }
    about = []
    if per == "layer" and rows and "flipped" not in rows[0]:
        about = ["extract with --outputs to see the share of flipped predictions"]
    for row in shown if not results.json else []:
        row["half_level"] = row["half_level"] if row["half_reached"] else "not reached"
    columns = {name: headings.get(name, name) for name in names if rows and name in rows[0]}
    results.show(shown, columns | common.lost_column(shown), about=about)


def temporal(
    store: opt.StorePath,
    layers: opt.Layers = "all",
    per: Per = "layer",
    top: Annotated[int, opt.top("with --per channel, those that change most, and least")] = 10,
    lags: Annotated[int, opt.option(opt.HOW, "Lags of the autocorrelation, in timesteps.", metavar="N")] = 8,
    noise: opt.Level = None,
    nan: common.Nan = "skip",
    *,
    results: common.Results,
) -> None:
    """Say how activations of clips change over time: change from step to step, variance, autocorrelation.

    --json has every channel, --save also the change at each step and the autocorrelation at each lag.
    """
    from fmx.analyze import temporal as compute
    from fmx.analyze import to_rows

    opened = results.open(store)
    with common.reading():
        found = compute(
            opened,
            layers=layers,
            per=per,
            lags=lags,
            noise=texts.level(noise),
            nan=nan,
            allow_partial=results.allow_partial,
        )
    results.keep(opened, found, {"analysis": "temporal", "per": per, "lags": lags, "nan": nan})
    rows: list[dict[str, Any]] = []
    for layer, dataset in found.items():
        own = to_rows({layer: dataset.drop_dims(["step", "lag"])})
        if per == "channel":
            own.sort(key=lambda row: row["rank"])
            own = own if results.json or len(own) <= 2 * top else own[:top] + own[-top:]
        steps = dataset["autocorrelation"].values
        if per == "layer":
            own[0] |= {f"autocorrelation_{i + 1}": float(value) for i, value in enumerate(steps)}
        rows += own
    names = ["layer", *(["rank", "channel"] if per == "channel" else []), "change", "variance", "autocorrelation_1"]
    names += [f"autocorrelation_{lag}" for lag in (2, 4, 8) if per == "layer" and rows and lag <= lags]
    headings = {name: f"autocorr. {name.rpartition('_')[2]}" for name in names if name.startswith("auto")}
    columns = {n: headings.get(n, n) for n in names if any(n in row for row in rows)}
    results.show(rows, columns | common.lost_column(rows))


def health(
    store: opt.StorePath,
    layers: opt.Layers = "all",
    per: Per = "layer",
    noise: opt.Level = None,
    *,
    results: common.Results,
) -> None:
    """Look for dead, always-on, saturated and duplicate channels, and for means and sparsity out of the usual ranges.

    The ranges (mean size 0.1 to 2.0, 30 to 70 % zeros behind a ReLU) are rules of thumb. What was found is explained
    below the table; --json has the verdict in words.
    """
    from fmx.analyze import health as compute
    from fmx.analyze import to_rows
    from fmx.analyze.health import MEANINGS

    opened = results.open(store)
    with common.reading():
        level = texts.level(noise)
        found = compute(opened, layers=layers, per=per, noise=level, allow_partial=results.allow_partial)
    results.keep(opened, found, {"analysis": "health", "per": per})
    rows = to_rows(found)
    if results.json:
        results.show(rows, {})
        return
    if per == "channel":
        for row in rows:
            states = [name.replace("_", " ") for name in ("dead", "always_on", "saturated") if row[name]]
            states += [f"like {row['twin']}"] if row["duplicate"] else []
            row["state"] = ", ".join(states)
        names = ["layer", "channel", "mean", "sparsity", "min", "max", "state"]
        results.show(rows, {name: name for name in names} | common.lost_column(rows))
        return
    for row in rows:
        row["unusual"] = found[row["layer"]].attrs["flags"] or "nothing"
    names = ["layer", "channels", "dead", "always_on", "saturated", "duplicate", "magnitude", "sparsity", "unusual"]
    headings = {"always_on": "always on", "magnitude": "mean size", "duplicate": "duplicates"}
    flags = {flag for dataset in found.values() for flag in dataset.attrs["flags"].split(", ")}
    about = [f"{name}: {text}" for name, text in MEANINGS.items() if name in flags]
    results.show(rows, {name: headings.get(name, name) for name in names}, about=about)
