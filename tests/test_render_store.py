"""Pictures straight from a store: which values they show, in which order, and what is said when there is nothing."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import analysis_stores
import av
import numpy as np
import pytest
from PIL import Image
from small_stores import write_store

import fmx
from fmx.errors import FmxError
from fmx.layers import LayerInfo
from fmx.render import (
    Film,
    Frame,
    Ranging,
    Tone,
    channel_overlays,
    frames,
    grid_frames,
    multiples,
    overlay,
    overlay_frame,
    read_values,
    region_picture,
    sample_overlays,
    top_overlays,
    write_video,
)
from fmx.render.header import page_header
from fmx.render.normalise import normalise
from fmx.render.palette import LEVELS, colours, page_palette
from fmx.render.regions import region_box
from fmx.render.selection import channel_order, read_maps
from fmx.render.single import map_size
from fmx.render.strip import Panel, stack_panels
from fmx.render.text import text_width
from fmx.render.unusual import hatched
from fmx.store import open_store, save_analysis

NOISE = (0.0, 0.5)


@pytest.fixture
def values():
    rng = np.random.default_rng(4)
    return {
        "conv": rng.normal(size=(5, 2, 3, 6, 8, 8)).astype(np.float32)
        * np.arange(1, 7, dtype=np.float32)[:, None, None],
        "small": np.maximum(rng.normal(size=(5, 2, 3, 4, 4, 4)), 0).astype(np.float32),
        "fc": rng.normal(size=(5, 2, 3, 10)).astype(np.float32),
        "tokens": rng.normal(size=(5, 2, 3, 7, 3)).astype(np.float32),
    }


@pytest.fixture
def store(tmp_path, values):
    pictures = np.random.default_rng(1).integers(0, 256, (5, 3, 16, 16, 3), dtype=np.uint8)
    labels = ["cat", "dog", "cat", "dog", "eel"]
    return write_store(tmp_path / "a.zarr", values, noise=NOISE, pictures=pictures, labels=labels)


def index(value, low, high, levels=256):
    share = min(max((float(value) - low) / (high - low), 0), 1) if high > low else 0
    return int(share * (levels - 1) + 0.5)


EXPECTED = {
    "filter": lambda v, s, n, t, c: v["conv"][s, n, t, c],
    "sample": lambda v, s, n, t, c: v["conv"][s, n, t],
    "time": lambda v, s, n, t, c: v["conv"][s, :, :, c],
    "channel": lambda v, s, n, t, c: v["conv"][:, :, :, c],
    "layer": lambda v, s, n, t, c: v["conv"],
}


@pytest.mark.parametrize("normalisation", [*EXPECTED, "global"])
def test_frames_of_every_normalisation(store, values, normalisation):
    ranging = Ranging(store, ["conv", "small"], normalisation)
    both = np.concatenate([values["conv"].ravel(), values["small"].ravel()])
    for s, n, t in ((1, 0, 2), (3, 1, 0)):
        made = list(frames(store, layer="conv", sample=s, noise=NOISE[n], timestep=t, ranging=ranging, cmap="magma"))
        assert len(made) == 6
        for c, frame in enumerate(made):
            shown = both if normalisation == "global" else EXPECTED[normalisation](values, s, n, t, c)
            low, high = float(shown.min()), float(shown.max())
            wanted = np.vectorize(lambda v, low=low, high=high: index(v, low, high))(values["conv"][s, n, t, c])
            assert np.abs(frame.pixels.astype(int) - wanted).max() <= 1
            assert (frame.palette == colours("magma")).all()
            assert frame.labels["channel"] == str(c) and frame.labels["normalisation"] == normalisation
            assert float(frame.labels["high"]) == pytest.approx(high, rel=0.01)


def test_pages_of_the_whole_store_read_it_once(store):
    reads = []
    compute = type(store).compute
    with mock.patch.object(type(store), "compute", lambda self, *lazy: reads.append(lazy) or compute(self, *lazy)):
        ranging = Ranging(store, ["conv", "small"], "global")
        for sample in range(5):
            for layer in ("conv", "small"):
                next(grid_frames(store, layer=layer, sample=sample, ranging=ranging))
    whole = store.activation("conv").size + store.activation("small").size
    shown = 5 * (6 * 8 * 8 + 4 * 4 * 4)
    assert sum(array.size for lazy in reads for array in lazy) == whole + shown


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [(None, None, (8, 4)), (100, None, (100, 50)), ((30, 40), None, (30, 40)), (None, 3, (24, 12)), (1, None, (1, 1))],
)
def test_sizes(size, scale, expected):
    assert map_size((8, 4), size, scale) == expected


@pytest.mark.parametrize(("size", "scale"), [(10, 2), (0, None), (None, 0), (None, -1), (20000, None)])
def test_sizes_that_make_no_sense(size, scale):
    with pytest.raises(FmxError, match=r"1 to 16384|not both"):
        map_size((8, 4), size, scale)


def test_gray_frames_have_no_palette_and_legends_say_what_is_shown(store):
    frame = next(frames(store, layer="conv", cmap="gray", size=50))
    assert frame.palette is None and frame.pixels.shape == (50, 50)
    told = next(frames(store, layer="conv", cmap="gray", size=50, legend=True))
    assert told.pixels.shape[0] > 80 and told.pixels.shape[1] > 200 and told.palette is not None


def test_maps_of_nothing_are_said_to_be(tmp_path, values):
    values["conv"][0, :, :, 1] = 2.5
    values["conv"][0, :, :, 2] = np.nan
    values["conv"][0, :, :, 3, 0, 0] = np.inf
    store = write_store(tmp_path / "b.zarr", {"conv": values["conv"]}, noise=NOISE)
    (page,) = grid_frames(store, layer="conv", scale=6)
    assert {key: page.labels[key] for key in ("constant", "nan", "some_nan")} == {
        "constant": "1",
        "nan": "2",
        "some_nan": "3",
    }
    made = list(frames(store, layer="conv", legend=True, size=60))
    assert [set(frame.labels) & {"constant", "nan", "some_nan"} for frame in made[:4]] == [
        set(),
        {"constant"},
        {"nan"},
        {"some_nan"},
    ]
    assert len(np.unique(made[2].pixels[-50:-20, 20:50])) == 2  # hatched


@pytest.mark.parametrize("order", ["max", "mean", "variance", "sum", "sparsity"])
def test_orders(store, values, order):
    maps = read_maps(store, "small", "002.png")
    shown = values["small"][2, 0, 0].astype(float)
    score = {
        "max": [m.max() for m in shown],
        "mean": [m.mean() for m in shown],
        "sum": [m.sum() for m in shown],
        "variance": [m.var() for m in shown],
        "sparsity": [(m == 0).mean() for m in shown],
    }[order]
    assert channel_order(store, maps, order) == sorted(range(4), key=lambda c: (-score[c], c))
    page = next(grid_frames(store, layer="small", sample=2, order=order, legend=False))
    assert page.labels["ordered by"] == order


def test_saved_rankings_are_orders(store):
    whole = fmx.analyze.rank(store, top=3, layers="conv")
    save_analysis(store.place, "best", whole)
    save_analysis(store.place, "classes", fmx.analyze.rank(store, per="class", top=2, layers="conv"))
    save_analysis(store.place, "stats", fmx.analyze.stats(store, by=["channel"]))
    store = open_store(store.path)
    maps = read_maps(store, "conv", "001.png")
    assert channel_order(store, maps, "best") == whole["conv"]["channel"].values.tolist()
    dogs = fmx.analyze.rank(store, per="class", top=2, layers="conv")["conv"]["channel"].sel(label="dog")
    assert channel_order(store, maps, "classes") == dogs.values.tolist()
    for name, part in (("bests", "did you mean best"), ("stats", "no ranking of conv")):
        with pytest.raises(FmxError, match=part):
            channel_order(store, maps, name)


def test_layers_without_maps_are_bars(store, values):
    (page,) = grid_frames(store, layer="fc", sample=1, legend=False)
    assert page.labels["drawn"] == "bars, no spatial axes"
    heights = []
    for c in range(10):
        column = page.pixels[:64, c * 10 + 4]
        heights.append(int((column < 239).sum()))
    shown = values["fc"][1, 0, 0]
    width = max(shown.max(), 0) - min(shown.min(), 0)
    for value, height in zip(shown, heights, strict=True):
        assert abs(height - abs(value) / width * 63) <= 2
    (page,) = grid_frames(store, layer="tokens")
    assert page.labels["drawn"] == "bars, no spatial axes, mean over 7 token"
    with pytest.raises(FmxError, match="draws it as bars"):
        next(frames(store, layer="fc"))


def test_layers_that_are_mere_numbers_have_their_kind_in_headers(tmp_path, values):
    pictures = np.zeros((5, 3, 16, 16, 3), np.uint8)
    names = {"conv": "6", "fc": "22", "small": "features.7"}
    numbered = {names[name]: values[name] for name in names}
    store = write_store(tmp_path / "n.zarr", numbered, noise=NOISE, pictures=pictures, kinds={"6": "Conv2d"})
    titles = []

    def header(title, *rest):
        titles.append(title)
        return page_header(title, *rest)

    with mock.patch("fmx.render.grid.page_header", header), mock.patch("fmx.render.single.page_header", header):
        assert next(grid_frames(store, layer="6")).labels["layer"] == "6"
        next(grid_frames(store, layer="features.7"))
        next(frames(store, layer="6", legend=True))
    with mock.patch("fmx.render.bars.page_header", header):
        next(grid_frames(store, layer="22"))
    assert titles == ["6 · Conv2d", "features.7", "6 · Conv2d", "22 · ReLU"]


def test_layers_without_channels_are_refused_and_stay_out_of_global_ranges(tmp_path):
    rng = np.random.default_rng(0)
    layers = {
        "conv": rng.normal(size=(2, 1, 1, 3, 4, 4)).astype(np.float32),
        "odd": 100 * np.ones((2, 1, 1, 5), np.float32),
    }
    store = analysis_stores.write_store(tmp_path / "o.zarr", layers, ["a", "b"], native={"odd": ("dim_0",)})
    ranging = Ranging(store, ["conv", "odd"], "global")
    (page,) = grid_frames(store, layer="conv", ranging=ranging)
    assert float(page.labels["high"]) == pytest.approx(layers["conv"].max(), rel=0.01)
    with pytest.raises(FmxError, match=r"no channels to draw, but \(dim_0 5\)"):
        next(grid_frames(store, layer="odd", ranging=ranging))


def test_thousands_of_channels_are_paged(tmp_path):
    rng = np.random.default_rng(0)
    wide = {"fc": rng.normal(size=(1, 1, 1, 2500)), "conv": rng.normal(size=(1, 1, 1, 2500, 3, 3))}
    store = write_store(tmp_path / "w.zarr", {k: v.astype(np.float32) for k, v in wide.items()}, chunk_bytes=10**6)
    assert len(list(grid_frames(store, layer="fc"))) == 3
    pages = list(grid_frames(store, layer="conv"))
    assert len(pages) == 40 and pages[-1].labels["channels"] == "2496 to 2499 of 2500"


def test_channels_go_by_their_numbers(store):
    with pytest.raises(FmxError, match="no channel 6: there are 0 to 5"):
        next(grid_frames(store, layer="conv", channels=[6]))
    made = [frame.labels["channel"] for frame in frames(store, layer="conv", channels=[5, 0])]
    assert made == ["5", "0"]


@pytest.mark.parametrize("style", ["heat", "mask", "contour", "crop"])
def test_regions_against_the_slow_reference(style):
    rng = np.random.default_rng(2)
    picture = rng.integers(30, 220, (24, 24, 3), dtype=np.uint8)
    heat = np.zeros((24, 24))
    heat[4:10, 5:12], heat[18:20, 18:20], heat[6, 7] = 0.8, 0.6, 1.0
    drawn = region_picture(picture, heat, style=style, alpha=1.0)
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    inside = heat >= 0.5
    if style == "mask":
        assert (drawn[inside] == picture[inside]).all()
        assert np.abs(drawn[~inside] - picture[~inside] * 0.2).max() <= 0.51
    if style == "contour":
        line = (drawn == [255, 225, 0]).all(axis=2)
        for y in range(24):
            for x in range(24):
                near = [
                    inside[v, u]
                    for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
                    if 0 <= v < 24 and 0 <= u < 24
                ]
                assert line[y, x] == (inside[y, x] and not all(near))
        assert (drawn[inside & ~line] == picture[inside & ~line]).all()
    if style == "crop":
        assert region_box(inside, heat) == (4, 10, 5, 12)
        # 6×7 pixels with 3 around them, 12×13, enlarged to 22×24, in the middle of white.
        large = Image.fromarray(picture[1:13, 2:15]).resize((24, 22), Image.Resampling.BICUBIC)
        assert (drawn[:1] == 255).all() and (drawn[-1:] == 255).all() and (drawn[1:-1] == np.asarray(large)).all()


def test_regions_of_flat_maps_and_mistakes():
    picture = np.full((8, 8, 3), 100, dtype=np.uint8)
    for style in ("contour", "crop"):
        assert (region_picture(picture, np.ones((2, 2)), style=style) == picture).all()
    with pytest.raises(FmxError, match="did you mean contour"):
        region_picture(picture, np.ones((2, 2)), style="contours")
    with pytest.raises(FmxError, match="threshold"):
        region_picture(picture, np.ones((2, 2)), style="mask", threshold=2)


def test_channels_over_one_picture(store, values):
    (frame,) = channel_overlays(store, layer="conv", sample="001.png", top=3)
    best = sorted(range(6), key=lambda c: -values["conv"][1, 0, 0, c].max())[:3]
    assert frame.labels["channels"] == ", ".join(map(str, best))
    assert frame.labels["label"] == "dog" and "outputs" not in frame.labels
    assert len(list(channel_overlays(store, layer="conv", sample="0", channels=[1] * 30))) == 2
    with pytest.raises(FmxError, match="no maps"):
        next(channel_overlays(store, layer="fc"))


def test_sums_of_channels_over_many_pictures(store, values):
    (frame,) = sample_overlays(store, layer="conv", samples=["0", "2"], channels=[1, 3])
    assert frame.labels["shown"] == "sum of channels 1, 3" and frame.labels["samples"] == "000.png, 002.png"
    with mock.patch("fmx.render.overlay_sheets.region_picture", wraps=region_picture) as drawn:
        next(sample_overlays(store, layer="conv", samples=["0", "2"], channels=[1, 3]))
        next(sample_overlays(store, layer="conv", samples=["0", "2"], channels=[1, 3], shared=False))
    summed = [values["conv"][s, 0, 0, [1, 3]].astype(float).sum(axis=0) for s in (0, 2)]
    for call, heat in zip(drawn.call_args_list[:2], summed, strict=True):
        np.testing.assert_allclose(call.args[1], heat)
        assert call.kwargs["low"] == min(h.min() for h in summed) and call.kwargs["high"] == max(
            h.max() for h in summed
        )
    assert drawn.call_args_list[2].kwargs["low"] is None
    assert overlay_frame(store, layers="conv", channel=[1, 3]).labels["sample"] == "000.png · sum of channels 1, 3"
    with pytest.raises(FmxError, match="No samples"):
        next(sample_overlays(store, layer="conv", samples=[]))


def test_channels_over_the_samples_that_excite_them_most(store, values, cli):
    assert (
        cli("top-samples", store.path, "--layers", "conv", "--top", "3", "--noise", "0.5", "--save", "best").code == 0
    )
    drawn = list(top_overlays(open_store(store.path), "best", layer="conv", channels=[4, 1], most=2))
    assert [frame.labels["shown"] for frame in drawn] == [f"channel {c} over its strongest samples" for c in (4, 1)]
    highest = values["conv"][:, 1, :, 4].reshape(5, 3, -1).max(axis=2)
    order = np.argsort(-highest.max(axis=1))
    assert drawn[0].labels["samples"] == ", ".join(store.samples[i] for i in order[:2])
    assert drawn[0].labels["noise"] == "0.5"
    with (
        mock.patch("fmx.render.overlay_sheets.region_picture", wraps=region_picture) as laid,
        mock.patch("fmx.render.overlay_sheets.Panel", wraps=Panel) as panels,
    ):
        (_,) = top_overlays(open_store(store.path), "best", layer="conv", channels=[4])
    for call, panel, i in zip(laid.call_args_list, panels.call_args_list, order[:3].tolist(), strict=True):
        step = int(highest[i].argmax())
        np.testing.assert_array_equal(call.args[1], values["conv"][i, 1, step, 4])
        label = f"{store.tree['label'].values[i]} · " * bool(store.tree["label"].values[i])
        assert panel.args[0] == f"{store.samples[i]} · {label}frame {step} · {highest[i].max():.3g}"
    # Without a choice: the channels with the largest values first.
    assert [f.labels["shown"] for f in top_overlays(open_store(store.path), "best", layer="conv", most=1)] == [
        f"channel {c} over its strongest samples" for c in np.argsort(-values["conv"][:, 1].max(axis=(0, 1, 3, 4)))
    ]
    ran = cli("render", "overlay", store.path, "--from", "best", "--channels", "4", "-k", "2", "-o", store.path.parent)
    assert ran.code == 0, ran.err
    (picture,) = store.path.parent.rglob("overlay_conv_top-samples_channel4.png")
    with Image.open(picture) as image:
        np.testing.assert_array_equal(np.asarray(image), drawn[0].rgb())
    assert "leave --sample" in cli("render", "overlay", store.path, "--from", "best", "--sample", "1").err
    assert "are of conv" in cli("render", "overlay", store.path, "--from", "best", "--layer", "small").err
    for wrong, named in (
        ({"top": "bets", "layer": "conv"}, "no results called bets.*best"),
        ({"top": "best", "layer": "small"}, "no top samples of small"),
        ({"top": "best", "layer": "conv", "channels": [17]}, "no channel 17"),
        ({"top": "best", "layer": "conv", "most": 0}, "At least one"),
    ):
        with pytest.raises(FmxError, match=named):
            next(top_overlays(open_store(store.path), **wrong))


def test_maps_without_finite_values_say_so_over_pictures(tmp_path):
    ones = np.ones((2, 1, 1, 2, 4, 4), np.float32)
    pictures = np.zeros((2, 1, 8, 8, 3), np.uint8)
    store = write_store(tmp_path / "b.zarr", {"nothing": ones * np.nan, "conv": ones}, pictures=pictures)
    with mock.patch("fmx.render.panels.stack_panels", return_value=pictures[0, 0]) as drawn:
        overlay_frame(store, layers="all")
    panels = {panel.title: panel.ends for panel in drawn.call_args[0][0]}
    assert panels == {"input": None, "nothing · no finite value": None, "conv": ("1", "1")}
    with mock.patch("fmx.render.overlay_sheets.stack_panels", return_value=pictures[0, 0]) as drawn:
        list(sample_overlays(store, layer="nothing", samples=store.samples))
    assert all(p.title.endswith("no finite value") and p.ends is None for p in drawn.call_args[0][0])


def test_pictures_without_a_region_say_so(tmp_path):
    values = np.zeros((2, 1, 1, 1, 4, 4), np.float32)
    values[0, ..., 0, 0], values[1, ..., 0, 0] = 10, 1
    pictures = np.zeros((2, 1, 8, 8, 3), np.uint8)
    store = write_store(tmp_path / "b.zarr", {"conv": values}, pictures=pictures)
    for style, shared, said in (
        ("mask", True, ["000.png", "001.png · no region"]),
        ("mask", False, ["000.png", "001.png"]),
        ("heat", True, ["000.png", "001.png"]),
    ):
        with mock.patch("fmx.render.overlay_sheets.Panel", wraps=Panel) as panels:
            next(sample_overlays(store, layer="conv", samples=["0", "1"], channels=[0], style=style, shared=shared))
        assert [call.args[0] for call in panels.call_args_list] == said


def test_the_outputs_are_told(tmp_path, values):
    store = write_store(tmp_path / "b.zarr", {"conv": values["conv"]}, noise=NOISE)
    outputs = np.zeros((5, 2, 3, 4))
    outputs[1, 1, 0] = [1.5, -2, 9, np.nan]
    import xarray as xr

    from fmx.render.overlay_sheets import said_outputs

    levels = {"sample": store.samples, "noise": list(NOISE), "timestep": [0, 1, 2]}
    array = xr.DataArray(outputs, dims=("sample", "noise", "timestep", "channel"), coords=levels)
    store.tree["outputs"] = xr.DataTree(xr.Dataset({"output": array}))
    said = said_outputs(store, "001.png", 0.5, 0, ["cat", "dog", "eel"], most=3)
    assert said == {"outputs": "2 eel: 9, 0 cat: 1.5, 1 dog: -2"}


AXES = {
    "layer": ["conv", "small"],
    "sample": ["000.png", "003.png"],
    "noise": list(NOISE),
    "timestep": [0, 1, 2],
    "channel": [0, 2, "mean"],
}


@pytest.mark.parametrize("normalisation", ["filter", "time", "layer", "all"])
@pytest.mark.parametrize(("rows", "columns"), [("noise", "layer"), ("timestep", "channel"), ("sample", "noise")])
def test_small_multiples(store, values, rows, columns, normalisation):
    (frame,) = multiples(store, rows=rows, columns=columns, choices=AXES, normalisation=normalisation, size=16)
    shown = {}
    for r in AXES[rows]:
        for c in AXES[columns]:
            at = {axis: AXES[axis][0] for axis in AXES} | {rows: r, columns: c}
            maps = values[at["layer"]][
                AXES["sample"].index(at["sample"]) * 3, NOISE.index(at["noise"]), at["timestep"]
            ].astype(float)
            shown[r, c] = at, maps.mean(axis=0) if at["channel"] == "mean" else maps[at["channel"]]
    same = {
        "filter": lambda at: tuple(at.values()),
        "time": lambda at: (at["layer"], at["sample"], at["channel"]),
        "layer": lambda at: at["layer"],
        "all": lambda at: 0,
    }[normalisation]
    # Tiles end flush at the lower right corner, inside the margin.
    margin = np.flatnonzero((frame.pixels < 239).any(axis=1))[-1] + 1
    tall = len(AXES[rows]) * 20
    top = margin - tall + 4
    wide = np.flatnonzero((frame.pixels[top : top + 16] < 239).any(axis=0))
    left = wide[-1] + 1 - len(AXES[columns]) * 20 + 4
    for i, r in enumerate(AXES[rows]):
        for j, c in enumerate(AXES[columns]):
            at, one = shown[r, c]
            group = [other for place, other in shown.values() if same(place) == same(at)]
            low, high = min(g.min() for g in group), max(g.max() for g in group)
            tile = frame.pixels[top + i * 20 : top + i * 20 + 16, left + j * 20 : left + j * 20 + 16]
            factor = 16 // one.shape[0]
            wanted = np.vectorize(lambda v, low=low, high=high: index(v, low, high, 239))(one)
            assert np.abs(tile.astype(int) - wanted.repeat(factor, 0).repeat(factor, 1)).max() <= 1


def test_small_multiples_name_cells_without_numbers(tmp_path, values):
    maps = values["conv"].copy()
    maps[0, 1, 0, 2], maps[0, 0, 0, 1] = np.nan, 0
    store = write_store(tmp_path / "b.zarr", {"conv": maps}, noise=NOISE)
    choices = {"layer": ["conv"], "sample": ["000.png"], "noise": [0.0, 0.5], "timestep": [0]}
    page = next(multiples(store, rows="noise", columns="channel", choices=choices | {"channel": [1, 2]}))
    assert page.labels["nan"] == "noise 0.5 / channel 2"
    assert page.labels["constant"] == "noise 0 / channel 1"
    maps[:] = np.nan
    store = write_store(tmp_path / "c.zarr", {"conv": maps}, noise=NOISE)
    page = next(multiples(store, rows="noise", columns="channel", choices=choices | {"channel": [1, 2]}))
    assert page.labels["nan"] == "all" and "constant" not in page.labels


def test_maps_of_one_value_are_bars(tmp_path, values, cli):
    pooled = values["conv"].mean((4, 5), keepdims=True)
    pictures = np.zeros((5, 3, 16, 16, 3), np.uint8)
    store = write_store(tmp_path / "b.zarr", {"conv": values["conv"], "pool": pooled}, noise=NOISE, pictures=pictures)
    (page,) = grid_frames(store, layer="pool", sample=1)
    assert page.labels["drawn"] == "bars, no spatial axes but 1 x 1"
    assert "constant" not in page.labels
    with pytest.raises(FmxError, match="no maps"):
        list(Film(store, "pool", "timestep", ["001.png"]))
    ran = cli("render", "frames", store.path, "--layer", "all", "--channels", "0", "-o", tmp_path, "--name", "f")
    assert ran.code == 0 and [p.name[:4] for p in tmp_path.glob("*/f/*.png")] == ["conv"]
    flat = write_store(tmp_path / "c.zarr", {"head": np.zeros((5, 2, 3, 10), np.float32)}, noise=NOISE)
    (page,) = grid_frames(flat, layer="head")
    assert page.labels["constant"] == "every value is 0"


def test_nothing_of_small_multiples_is_cut_off(store):
    for rows, columns in (("noise", "layer"), ("timestep", "channel"), ("channel", "sample"), ("layer", "noise")):
        for normalisation in ("filter", "time", "layer", "all"):
            settings = {"rows": rows, "columns": columns, "normalisation": normalisation}
            (frame,) = multiples(store, choices=AXES | {"channel": [0]}, **settings)
            edge = np.concatenate([frame.pixels[:, -12:].ravel(), frame.pixels[:, :12].ravel()])
            assert (edge == 255).all()
            assert (frame.pixels == 0).any() and (frame.pixels == 238).any()  # both ends of the bar


def test_names_of_columns_are_made_smaller_before_they_are_shortened():
    from fmx.render.multiples import _fitting
    from fmx.render.text import text_width

    names = ["_blocks.5._swish", "_blocks.11._swish"]
    assert _fitting(names, text_width(names[1], 13), 16) == 13
    assert _fitting(names, 10, 16) == 11


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"rows": "noise", "columns": "noise"}, "both noise"),
        ({"rows": "noises", "columns": "layer"}, "did you mean noise"),
        ({"rows": "noise", "columns": "layer", "normalisation": "times"}, "did you mean time"),
        ({"rows": "noise", "columns": "layer", "choices": AXES | {"sample": []}}, "no sample to show"),
        ({"rows": "noise", "columns": "layer", "choices": AXES | {"layer": ["fc"]}}, "no maps"),
        ({"rows": "noise", "columns": "layer", "choices": AXES | {"channel": [9]}}, "no channel 9"),
        ({"rows": "noise", "columns": "layer", "cmap": "viridi"}, "did you mean viridis"),
    ],
)
def test_small_multiples_of_nothing(store, settings, part):
    with pytest.raises(FmxError, match=part):
        multiples(store, **({"choices": AXES} | settings))


@pytest.mark.parametrize("over", ["channel", "timestep", "noise", "sample", "label"])
@pytest.mark.parametrize("view", ["map", "overlay", "grid"])
def test_films_have_frames_of_one_size(store, over, view, tmp_path):
    if over == "channel" and view == "grid":
        with pytest.raises(FmxError, match="many channels at once"):
            Film(store, "conv", over, ["000.png"], view=view)
        return
    samples = store.samples if over in {"sample", "label"} else ["001.png"]
    film = Film(store, "conv", over, samples, view=view, size=64)
    made = list(film)
    assert len(made) == len(film) == {"channel": 6, "timestep": 3, "noise": 2, "sample": 5, "label": 5}[over]
    assert len({frame.size for frame in made}) == 1
    assert made[0].labels["frame"] == f"1 of {len(made)}"
    if over == "label":
        assert [frame.labels["label"] for frame in made] == ["cat", "cat", "dog", "dog", "eel"]
    with av.open(str(write_video(tmp_path / "a.avi", film))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert all((one == frame.rgb()).all() for one, frame in zip(decoded, made, strict=True))


def test_films_with_long_names_have_frames_of_one_size(tmp_path, values):
    ids = ["a", "b" * 60, "c" * 300, "d", "e"]
    store = write_store(tmp_path / "b.zarr", {"conv": values["conv"]}, noise=NOISE, ids=ids, labels=list("uvwxy"))
    for over, samples in (("sample", ids), ("channel", ids[2:])):
        assert len({frame.size for frame in Film(store, "conv", over, samples, size=16)}) == 1


@pytest.mark.parametrize("beside", [True, False])
def test_films_hatch_maps_without_numbers_and_say_so(tmp_path, values, beside):
    maps = values["conv"].copy()
    maps[:, :, :, 2], maps[:, :, :, 3] = np.nan, 1.5
    pictures = np.zeros((5, 3, 16, 16, 3), np.uint8)
    store = write_store(tmp_path / "b.zarr", {"conv": maps}, noise=NOISE, pictures=pictures)
    film = Film(store, "conv", "channel", ["001.png"], channels=[1, 2, 3], size=200, beside=beside, cmap="gray")
    with mock.patch("fmx.render.film.stack_panels", wraps=stack_panels) as drawn:
        made = list(film)
    captions = [call.args[1] for call in drawn.call_args_list]
    panels = [call.args[0][-1] for call in drawn.call_args_list]
    assert len({frame.size for frame in made}) == 1
    told = [" · ".join(caption).partition("frame")[2] for caption in captions]
    assert told == [" 1 of 3", " 2 of 3 · no finite value", " 3 of 3 · constant"]
    # The number of the channel is never what is left out of a caption.
    widths = [text_width(line, panels[0].text_size) for caption in captions for line in caption]
    assert max(widths) <= (1 + beside) * 200
    assert all(f"channel {n}" in caption[1] for n, caption in enumerate(captions, start=1))
    lines = hatched((200, 200))
    assert (panels[1].pixels == (page_palette("gray")[lines] if beside else lines)).all()
    assert panels[1].ends is None and panels[2].ends == ("1.5", "1.5")


def test_films_have_one_range_for_all_frames(store, values):
    film = Film(store, "conv", "timestep", ["001.png"], channel=[2], legend=False, beside=False, size=8, cmap="gray")
    shown = values["conv"][1, 0, :, 2]
    low, high = float(shown.min()), float(shown.max())
    for frame, one in zip(film, shown, strict=True):
        wanted = np.vectorize(lambda v: index(v, low, high))(one)
        assert np.abs(frame.rgb()[:, :, 0].astype(int) - colours("gray")[wanted][:, :, 0]).max() <= 1
    own = Film(store, "conv", "timestep", ["001.png"], channel=[2], legend=False, beside=False, size=8, cmap="gray")
    assert not (next(iter(own)).pixels == next(iter(replace(own, normalisation="filter"))).pixels).all()


@pytest.mark.parametrize(
    "tone", [Tone(percentiles=(10, 80)), Tone(equalise="histogram"), Tone((5, 95), symmetric=True), Tone(gamma=0.5)]
)
def test_tones_of_films_are_of_all_frames(tmp_path, tone):
    values = np.random.default_rng(3).normal(1, 1, (1, 1, 4, 2, 24, 24)).astype(np.float32)
    values[0, 0, :, :] *= np.arange(1, 5)[:, None, None, None]
    store = write_store(tmp_path / "b.zarr", {"conv": values}, pictures=np.full((1, 4, 24, 24, 3), 9, np.uint8))
    look = {"channel": [1], "legend": False, "beside": False, "size": 24, "cmap": "gray", "tone": tone}
    shown = values[0, 0, :, 1]
    # All frames as one map: what is done to one picture is done to the film.
    wanted, _ = normalise(shown.reshape(1, -1, 24), tone=tone)
    found = np.concatenate([frame.pixels for frame in Film(store, "conv", "timestep", store.samples, **look)])
    assert np.abs(found.astype(int) - wanted[0]).max() <= 4
    laid = list(Film(store, "conv", "timestep", store.samples, **(look | {"view": "overlay"})))
    for i, frame in enumerate(laid):
        heat = wanted[0][24 * i : 24 * i + 24] / 255
        expected = overlay(np.full((24, 24, 3), 9, np.uint8), heat, cmap="gray", low=0, high=1)
        assert np.abs(frame.pixels.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("view", ["map", "grid"])
def test_films_of_maps_alone_are_indices_with_the_same_colours(store, view):
    beside = Film(store, "conv", "timestep", ["001.png"], size=64, view=view, legend=False)
    for alone, both in zip(replace(beside, beside=False), beside, strict=True):
        assert alone.pixels.ndim == 2 and both.pixels.ndim == 3
        height, width = alone.pixels.shape
        assert (alone.rgb() == both.rgb()[-height:, -width:]).all()


def test_panels_of_indices_look_like_those_in_colours():
    shown = np.arange(64 * 80).reshape(64, 80).astype(np.uint8) % LEVELS
    palette, table = page_palette("magma"), colours("magma", LEVELS)
    drawn = stack_panels([Panel("a map", shown, ("-1", "2.5"))] * 2, ["what it is"], table)
    wanted = stack_panels([Panel("a map", palette[shown], ("-1", "2.5"))] * 2, ["what it is"], table)
    # There are 17 grays for text.
    assert np.abs(palette[drawn].astype(int) - wanted).max() <= 8


def test_films_read_as_they_go(store):
    film = iter(Film(store, "conv", "timestep", ["001.png"], normalisation="filter"))
    with mock.patch("fmx.render.film.read_maps", wraps=read_maps) as reads:
        next(film)
        assert reads.call_count == 1
        next(film)
        assert reads.call_count == 2


def test_a_film_without_pictures(tmp_path, values):
    store = write_store(tmp_path / "b.zarr", {"conv": values["conv"]}, noise=NOISE)
    assert len(list(Film(store, "conv", "noise", ["000.png"]))) == 2
    with pytest.raises(FmxError, match="keeps no pictures"):
        Film(store, "conv", "noise", ["000.png"], view="overlay")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"over": "times"}, "did you mean timestep"),
        ({"view": "maps"}, "did you mean map"),
        ({"normalisation": "films"}, "did you mean film"),
        ({"cmap": "viridi"}, "did you mean viridis"),
        ({"interpolation": "linear"}, "bilinear"),
    ],
)
def test_mistakes_in_films(store, settings, part):
    with pytest.raises(FmxError, match=part):
        Film(store, "conv", samples=["000.png"], **settings)


def test_commands_write_folders_with_an_index(store, cli, tmp_path):
    words = {
        "grid": ["--layer", "conv", "--layout", "2x3", "--order", "max", "--noise", "all"],
        "frames": ["--layer", "conv,small", "--size", "40x30", "--equalise", "histogram", "--legend"],
        "multiples": ["--rows", "noise", "--columns", "channel", "--layer", "conv", "--channel", "0-2,mean"],
        "video": ["--layer", "conv", "--format", "gif", "--channel", "1,2"],
        "overlay": ["--layer", "conv", "--top", "3", "--style", "contour"],
    }
    counts = {"grid": 2, "frames": 10, "multiples": 1, "video": 1, "overlay": 1}
    for command, options in words.items():
        ran = cli("render", command, store.path, *options, "-o", tmp_path / "out", "--name", command)
        assert ran.code == 0, ran.err
        place = tmp_path / "out" / "model" / command
        rows = (place / "index.csv").read_text().splitlines()
        assert len(rows) == counts[command] + 1 and len(list(place.iterdir())) == counts[command] + 1
        assert ran.out.splitlines()[0].startswith(str(place))
        again = cli("render", command, store.path, *options, "-o", tmp_path / "out", "--name", command)
        assert again.code == 2 and "--overwrite" in again.err
        assert cli("render", command, store.path, *options, "-o", tmp_path / "out", "--name", command, "--overwrite")
    with Image.open(next((tmp_path / "out" / "model" / "frames").glob("*.png"))) as picture:
        assert picture.text["equalised"] == "histogram"


def test_commands_write_values(store, values, cli, tmp_path):
    for form, suffix in (("png16", "png"), ("tif16", "tif"), ("tif32", "tif")):
        ran = cli("render", "frames", store.path, "--layer", "conv", "--values", form, "-o", tmp_path, "--name", form)
        assert ran.code == 0, ran.err
        found = sorted((tmp_path / "model" / form).glob(f"*.{suffix}"))
        assert len(found) == 6
        for c, path in enumerate(found):
            one = values["conv"][0, 0, 0, c]
            read = read_values(path)
            step = 0 if form == "tif32" else (one.max() - one.min()) / 65532
            assert np.abs(read.values - one).max() <= step and read.attrs["channel"] == str(c)


MISTAKES = [
    ("grid --layout 8", "rows and columns, such as 8x8"),
    ("grid --order best", "Channels can't be ordered by best"),
    ("grid --percentiles 1", "two numbers"),
    ("grid --channels 1-x", "--channels takes numbers"),
    ("grid --name a/b", "can't be called"),
    ("frames --layer conv --size big", "--size takes pixels"),
    ("frames --layer conv --values png8", "png16, tif16 or tif32"),
    ("frames --layer conv --values png16 --size 9", "leave out --size"),
    ("frames --layer conv --format jpg", "png or tif"),
    ("frames --layer conv --top 0", "at least 1"),
    ("overlay --layer conv --top 3 --channel 2", "leave out --channel"),
    ("overlay --layer conv --classes nowhere.txt", "can't be read"),
    ("video --layer conv --format mpg", "--format takes avi,"),
    ("video --layer conv --over step", "can't go over step"),
    ("video --layer fc", "no maps"),
    ("video --layer conv --over channel --channel max", "--channels takes numbers such as 3,17 or 0-15, not 'max'"),
    ("multiples --rows noise --columns nose", "did you mean noise"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_mistakes_are_one_sentence_and_leave_nothing(store, cli, tmp_path, words, said):
    command, *options = words.split()
    if "classes" in words:
        options += ["--top", "2"]
    ran = cli("render", command, store.path, *options, "-o", tmp_path / "out")
    assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_notebooks_show_stores_layers_and_frames(store, values, tmp_path):
    assert repr(store).endswith(": 4 layers, 5 samples, 2 noise levels, complete>")
    one = write_store(tmp_path / "one.zarr", {"fc": values["fc"][:1, :1]})
    assert repr(one).endswith(": 1 layer, 1 sample, 1 noise level, complete>")
    shown = store._repr_html_()
    assert shown.count("<tr>") == 5 and "<b>0, 0.5</b>" in shown and "8×8" in shown.replace("6×8×8", "8×8")
    assert store.layers[0]._repr_html_() == "<b>conv</b> · ReLU · channel 6 × y 8 × x 8 · float32"
    evil = LayerInfo("<script>", "a&b", (), (), "float32")._repr_html_()
    assert "<script>" not in evil and "a&amp;b" in evil
    frame = Frame(np.zeros((2, 2), dtype=np.uint8), labels={"layer": '<b x="1">'})
    assert "data:image/png;base64," in frame._repr_html_() and '<b x="1">' not in frame._repr_html_()
    # Pixels stay sharp where they are few, and text smooth where a notebook shrinks a wide picture.
    wide = Frame(np.zeros((2, 700), np.uint8))
    assert ("pixelated" in frame._repr_html_(), "pixelated" in wide._repr_html_()) == (True, False)


def test_tones_reach_the_picture(store, values):
    tone = Tone(percentiles=(10, 90), gamma=0.5)
    frame = next(frames(store, layer="conv", tone=tone))
    one = values["conv"][0, 0, 0, 0].astype(float)
    low, high = np.percentile(one, [10, 90])
    wanted = np.floor(np.clip((one - low) / (high - low), 0, 1) ** 0.5 * 255 + 0.5)
    assert np.abs(frame.pixels - wanted).max() <= 1
    assert frame.labels["percentiles"] == "10 to 90" and frame.labels["gamma"] == "0.5"
