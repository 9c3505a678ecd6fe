"""``fmx rank``, ``fmx top-samples`` and ``fmx class-sums``: which channels respond to what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fmx.cli import options as opt
from fmx.cli import reading as common
from fmx.cli import texts
from fmx.errors import FmxError

if TYPE_CHECKING:
    import xarray as xr

    from fmx.analyze import ReceptiveField
    from fmx.store import Store

__all__ = ["class_sums", "rank", "top_samples"]

Metric = Annotated[
    str, opt.metric("max, mean, sum, variance or sparsity of each sample; or by selectivity or precision for classes")
]
Unique = Annotated[
    bool,
    opt.option(opt.WHAT, "Only channels that are among the top of no other class, or all.", "--unique/--no-unique"),
]


@dataclass(frozen=True)
class Scored:
    """How channels are ranked for classes, and of what samples: options of all commands that rank."""

    n_each_image: Annotated[
        int,
        opt.option(
            opt.HOW,
            "Rank channels of a class by how many of its samples have them among so many top ones (0: by score).",
            metavar="N",
        ),
    ] = 0
    held_out: common.HeldOut = 0
    seed: opt.Seed = 0
    noise: opt.Level = None
    nan: Annotated[str, common.not_finite("leave out samples that have one")] = "skip"

    @property
    def settings(self) -> dict[str, Any]:
        """What functions that rank take."""
        return asdict(self) | {"noise": texts.level(self.noise)}


# Labels as they are called in rows: a store's groups can't have variables of these names.
_KEYS = {"sample_id": "sample", "at_timestep": "timestep"}


def rank(
    store: opt.StorePath,
    per: Annotated[str, opt.per("class or sample; all: the top channels over all samples")] = "all",
    metric: Metric = "max",
    top: Annotated[int, opt.top("channels listed")] = 10,
    layers: opt.Layers = "all",
    unique: Unique = False,
    *,
    scored: Scored,
    results: common.Results,
) -> None:
    """Rank channels: over all, for each class (selectivity, precision, unique ones), or for each sample.

    precision is the share of the class among as many of the highest samples as the class has; by chance it is
    the class's share of all samples. selectivity compares the class's mean with that of the other classes.
    """
    from fmx.analyze import rank as compute
    from fmx.analyze import to_rows

    opened = results.open(store)
    settings: dict[str, Any] = {
        "per": per,
        "metric": metric,
        "top": top,
        "unique": unique,
        **scored.settings,
    }
    with common.reading():
        found = compute(opened, layers=layers, allow_partial=results.allow_partial, **settings)
    results.keep(opened, found, {"analysis": "rank", **settings})
    rows = [row for row in to_rows(found) if row["channel"] >= 0]
    order = ["layer", *{"class": ["label"], "sample": ["sample"]}.get(per, []), "rank", "channel"]
    # Selectivity and precision have columns of their own.
    order += [] if metric in {"selectivity", "precision"} else ["score"]
    order += ["label"] if per == "all" else []
    order += [
        "class_mean",
        "others_mean",
        "selectivity",
        "precision",
        "precision_held_out",
        "chance",
        "votes",
        "unique",
    ]
    headings = {"score": metric, "others_mean": "others", "precision_held_out": "held out", "label": "class"}
    columns = {name: headings.get(name, name) for name in order if rows and name in rows[0]}
    results.show(rows, columns | common.lost_column(rows))


def top_samples(
    store: opt.StorePath,
    layers: opt.Layers = "all",
    k: Annotated[int, opt.top("samples listed for each channel")] = 9,
    channels: opt.Channels = None,
    per_class: Annotated[bool, opt.option(opt.WHAT, "For the samples of each class apart.", "--per-class")] = False,
    weakest: Annotated[bool, opt.option(opt.WHAT, "The samples that excite it least.", "--weakest")] = False,
    model: Annotated[str | None, opt.model_of_store("measures what neurons see, else boxes are approximate")] = None,
    weights: opt.Weights = None,
    noise: opt.Level = None,
    *,
    results: common.Results,
) -> None:
    """Find for every channel the samples that excite it most, with the place and the box it sees in the input."""
    from fmx.analyze import to_rows
    from fmx.analyze import top_samples as compute

    opened = results.open(store)
    fields = measured(opened, layers, model, weights) if model else {}
    with common.reading():
        found = compute(
            opened,
            k=k,
            layers=layers,
            per_class=per_class,
            weakest=weakest,
            noise=texts.level(noise),
            fields=fields,
            allow_partial=results.allow_partial,
        )
    settings = {"analysis": "top-samples", "k": k, "per_class": per_class, "weakest": weakest}
    results.keep(opened, found, settings)
    wanted = texts.channels("--channels", channels)
    _check_channels(wanted or (), found)
    rows = [row for row in to_rows(found) if row["sample_number"] >= 0]
    rows = [row for row in rows if wanted is None or row["channel"] in wanted]
    rows = [{_KEYS.get(key, key): value for key, value in row.items()} for row in rows]
    for row in rows:
        if row.get("y0", -1) >= 0:
            row["box"] = f"{row['y0']:.0f}:{row['y1']:.0f} × {row['x0']:.0f}:{row['x1']:.0f}"
    names = ["layer", "label", "channel", "rank", "sample", "value", "timestep", "token", "z", "y", "x", "box"]
    headings = {"label": "class", "box": "box (y × x)"}
    shown = {n: headings.get(n, n) for n in names if any(n in row for row in rows) and (n != "label" or per_class)}
    rough = any("approximate" in dataset.attrs.get("receptive_field", "") for dataset in found.values())
    about = ["boxes are approximate, in proportion to the map; --model measures the receptive fields"] if rough else []
    results.show(rows, shown | common.lost_column(rows), about=about)


def _check_channels(wanted: Iterable[int], found: Mapping[str, xr.Dataset]) -> None:
    """Refuse channels that no layer has."""
    for channel in wanted:
        if not any(channel in dataset["channel"].values for dataset in found.values()):
            most = max(int(dataset["channel"].values[-1]) for dataset in found.values())
            raise FmxError(f"No layer that is read has a channel {channel}: there are channels up to {most}.")


def measured(store: Store, layers: str, model: str, weights: str | None) -> dict[str, ReceptiveField]:
    """Measure the receptive fields of the chosen layers that have maps."""
    from fmx.adapter import load
    from fmx.analyze import receptive_field
    from fmx.cli.output import note

    about = store.attributes
    shape = tuple(int(n) for n in about["input_shape"])
    prepared = about.get("preprocessing")
    last = isinstance(prepared, dict) and prepared.get("layout") == "HWC"
    opened = load(model, weights=weights, input_shape=shape)
    if opened.fingerprint != about["fingerprint"]:
        note("the model is not the one that the store was made with: its receptive fields may differ")
    module = opened.torch_module()
    given = (shape[-1], *shape[:-1]) if last else shape
    if len(given) != 3:
        raise FmxError("Receptive fields are measured for models of single pictures: leave --model out.")
    maps = [info.name for info in store.select(layers) if {"y", "x"} <= set(info.dims)]
    return {name: receptive_field(module, name, given, channels_last=last) for name in maps}


def class_sums(
    store: opt.StorePath,
    layers: opt.Layers = "all",
    metric: Metric = "mean",
    top: Annotated[int, opt.top("channels of each class that are summed up")] = 10,
    unique: Unique = True,
    *,
    scored: Scored,
    results: common.Results,
) -> None:
    """Sum up each class's top channels for each sample, and see whose sum is largest.

    The table says for each class how large the sums are for its own samples and for others, and for how many of its
    samples its sum is the largest; --json has a row for each sample and class.
    """
    from fmx.analyze import class_sums as compute
    from fmx.analyze import to_rows

    opened = results.open(store)
    settings: dict[str, Any] = {
        "metric": metric,
        "n_each_class": top,
        "unique": unique,
        **scored.settings,
    }
    with common.reading():
        found = compute(opened, layers=layers, allow_partial=results.allow_partial, **settings)
    results.keep(opened, found, {"analysis": "class-sums", **settings})
    if results.json:
        results.show(to_rows(found), {})
        return
    rows = [row for layer, dataset in found.items() for row in _class_rows(layer, dataset)]
    headings = {"own": "mean of its samples", "others": "mean of others", "largest": "its sum is largest"}
    names = ["layer", "class", "channels", "own", "others", "largest"]
    about = [
        f"{layer}: no channels of their own for {missing}: their top channels are top ones of other classes, too "
        "(--no-unique sums these up, another --top may leave some)"
        for layer, dataset in found.items()
        if (missing := dataset.attrs["without_channels"])
    ]
    columns = {name: headings.get(name, name) for name in names} | common.lost_column(rows)
    results.show(rows, columns, about=about)


def _class_rows(layer: str, dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Make a row of each class; of one without channels nothing is said about sums."""
    rows: list[dict[str, Any]] = []
    for i, label in enumerate(dataset["label"].values):
        own, sums = dataset["own"].values == label, dataset["sum"].values[:, i]
        row = {"layer": layer, "class": str(label), "channels": int(dataset["channels"][i])}
        row["not_finite"] = int(dataset["not_finite"][:, i].sum())
        if row["channels"]:
            largest = dataset["largest"].values[own] == label
            row |= {"own": float(sums[own].mean()), "others": float(sums[~own].mean())}
            row["largest"] = f"{int(largest.sum())} of {len(largest)}"
        rows.append(row)
    return rows
