"""Mutual information between projections and pictures: known distributions, a slow reference, real projections."""

from __future__ import annotations

import json
from collections import Counter
from math import log, log2

import numpy as np
import pytest
import xarray as xr
from networks import tiny_resnet
from PIL import Image
from scipy.special import digamma
from scipy.stats import multivariate_normal, norm

import fmx
from fmx.errors import FmxError
from fmx.prepare import PictureOptions
from fmx.project import attribute, deconv, information


def results(maps, picture, dims=("channel", "y", "x")):
    """Projections with as much around them as the estimate looks at."""
    return xr.Dataset({"projection": (dims, maps), "picture": (("y", "x", "band"), picture)}, {"channel": [5, 2]})


def slow_bins(values, bins):
    """The bin of each value: how many different quantiles lie below it."""
    edges = sorted({float(np.quantile(values, k / bins)) for k in range(1, bins)})
    return [sum(edge < float(v) for edge in edges) for v in values]


def slow_entropy(outcomes):
    counts, total = Counter(outcomes), len(outcomes)
    plain = -sum(n / total * log2(n / total) for n in counts.values())
    return plain + (len(counts) - 1) / (2 * total) / log(2)


def slow_information(projection, picture, bins):
    a, b = slow_bins(projection.ravel(), bins), slow_bins(picture.ravel(), bins)
    return slow_entropy(a) + slow_entropy(b) - slow_entropy(list(zip(a, b, strict=True)))


@pytest.fixture
def rng():
    return np.random.default_rng(5)


class TestKnownDistributions:
    def test_of_the_picture_itself_all_of_its_entropy(self, rng):
        picture = rng.permutation(np.repeat(np.arange(8, dtype=np.uint8) * 30, 512)).reshape(64, 64, 1)
        maps = np.stack([picture[:, :, 0] * 2.0 - 7, -np.exp(picture[:, :, 0] / 50.0)])
        found = information(results(maps, picture), bins=8)
        np.testing.assert_allclose(found["entropy"], 3, atol=1e-12)
        np.testing.assert_allclose(found["information"], 3, atol=0.02)
        np.testing.assert_allclose(found["share"], 1, atol=0.01)
        assert found["channel"].values.tolist() == [5, 2]

    @pytest.mark.parametrize("estimator", ["binned", "knn"])
    def test_of_what_has_nothing_to_do_with_it_none(self, rng, estimator):
        picture = rng.integers(0, 256, (96, 96, 1), dtype=np.uint8)
        found = information(results(rng.normal(size=(2, 96, 96)), picture), estimator=estimator, shifts=2)
        assert np.abs(found["information"]).max() < 0.03
        assert np.abs(found["chance"]).max() < 0.03

    @pytest.mark.parametrize(("estimator", "off"), [("binned", 0.1), ("knn", 0.08)])
    def test_of_correlated_normal_values(self, rng, estimator, off):
        """-log2(1 - r^2) / 2 bits; bins lose a little of it."""
        hidden = rng.normal(size=(120, 120))
        picture = np.clip(hidden * 40 + 128, 0, 255).astype(np.uint8)[:, :, None]
        correlated = [0.9 * hidden + np.sqrt(1 - 0.81) * rng.normal(size=hidden.shape) for _ in range(2)]
        found = information(results(np.stack(correlated), picture), estimator=estimator, shifts=1, positions=4000)
        np.testing.assert_allclose(found["information"], -0.5 * log2(1 - 0.81), atol=off)

    def test_chance_is_above_0_for_what_is_smooth(self, rng):
        """Two ramps have something in common wherever they lie; the shifted picture tells."""
        x = np.tile(np.arange(48), (48, 1))
        picture = (x * 5).astype(np.uint8)[:, :, None]
        found = information(results(np.stack([x + 0.0, rng.normal(size=x.shape)]), picture))
        assert found["chance"][0] > 1 > 0.1 > found["chance"][1]


def known_information(rho, bins):
    """What bins of equal frequency keep of two correlated normal values: the integral of their density over each."""
    ends = np.array([-9.0, *norm.ppf(np.arange(1, bins) / bins), 9.0])
    below = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf(np.stack(np.meshgrid(ends, ends), axis=-1))
    shares = np.diff(np.diff(below, axis=0), axis=1)
    return sum(p * log2(p * bins**2) for p in shares.ravel() if p > 0)


def neighbours_information(x, y, k=3):
    """The first estimate of Kraskov et al. (2004), all distances written out."""
    x, y = x / x.std(), y / y.std()
    apart_x, apart_y = (np.abs(v[:, None] - v[None]) for v in (x, y))
    both = np.maximum(apart_x, apart_y)
    total = 0.0
    for i in range(len(x)):
        reach = np.sort(both[i])[k]
        near = [int((apart[i] < reach).sum()) - 1 for apart in (apart_x, apart_y)]
        total += digamma(near[0] + 1) + digamma(near[1] + 1)
    return (digamma(k) + digamma(len(x)) - total / len(x)) / log(2)


class TestBias:
    """Estimates from few positions, on average over many maps."""

    @pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
    @pytest.mark.parametrize(
        ("sides", "bins"), [((5, 7), 2), ((7, 7), 3), ((14, 14), 7), ((20, 31), 12), ((32, 32), 16)]
    )
    def test_maps_of_any_size_come_out_as_theory_has_it(self, rng, rho, sides, bins):
        shown = np.arange(sides[0] * sides[1]).reshape(sides) * 1.0
        hidden = norm.ppf((shown + 0.5) / shown.size)
        maps = rho * hidden + np.sqrt(1 - rho**2) * rng.normal(size=(200, *sides))
        given = xr.Dataset(
            {"projection": (("rank", "y", "x"), maps), "picture": (("y", "x", "band"), shown[:, :, None])}
        )
        found = information(given, shifts=0)
        assert found.attrs["bins"] == bins
        assert float(found["information"].mean()) == pytest.approx(known_information(rho, bins), abs=0.035)

    def test_too_many_bins_come_out_too_high_and_so_does_chance(self, rng):
        """What is asked for is done: the shifted picture tells."""
        picture = rng.integers(0, 256, (14, 14, 1), dtype=np.uint8)
        found = information(results(rng.normal(size=(2, 14, 14)), picture), bins=16)
        assert found["information"].min() > 0.3
        np.testing.assert_allclose(found["chance"], found["information"], atol=0.3)

    @pytest.mark.parametrize("rho", [0.0, 0.9])
    def test_neighbours_as_written_out(self, rng, rho):
        shown = rng.normal(size=(18, 17, 1))
        maps = np.stack([rho * shown[:, :, 0] + np.sqrt(1 - rho**2) * rng.normal(size=(18, 17)) for _ in range(2)])
        found = information(results(maps, shown), estimator="knn", positions=None, shifts=0)["information"]
        expected = [max(0, neighbours_information(one.ravel(), shown.ravel())) for one in maps]
        np.testing.assert_allclose(found, expected, atol=1e-6)


class TestAgainstTheReference:
    def test_each_colour_and_its_mean(self, rng):
        picture = rng.integers(0, 256, (20, 23, 3), dtype=np.uint8)
        maps = np.maximum(rng.normal(size=(2, 3, 20, 23)) + np.moveaxis(picture, -1, 0) / 80 - 2, 0)
        found = information(results(maps, picture, ("channel", "colour", "y", "x")), bins=6, shifts=3, seed=4)
        for i in range(2):
            each = [slow_information(maps[i, c], picture[:, :, c], 6) for c in range(3)]
            assert found["information"][i] == pytest.approx(np.mean(each), abs=1e-10)
        moves = [divmod(int(s), 23) for s in np.random.default_rng(4).integers(1, 20 * 23, 3)]
        shifted = [
            slow_information(maps[1, c], np.roll(picture[:, :, c], move, (0, 1)), 6) for move in moves for c in range(3)
        ]
        assert found["chance"][1] == pytest.approx(np.mean(shifted), abs=1e-10)

    def test_without_colours_the_brightness(self, rng):
        picture = rng.integers(0, 256, (20, 23, 3), dtype=np.uint8)
        maps = rng.normal(size=(2, 20, 23)) + picture.mean(axis=2) / 60
        found = information(results(maps, picture), bins=6)
        expected = [slow_information(one, picture.mean(axis=2), 6) for one in maps]
        np.testing.assert_allclose(found["information"], expected, atol=1e-10)

    def test_a_coarser_map_is_compared_with_averages_of_areas(self, rng):
        picture = rng.integers(0, 256, (60, 40, 1), dtype=np.uint8)
        areas = picture[:, :, 0].reshape(15, 4, 10, 4).mean(axis=(1, 3))
        maps = rng.normal(size=(2, 15, 10)) * 20 + areas
        given = xr.Dataset(
            {"attribution": (("class", "y", "x"), maps), "picture": (("input_y", "input_x", "band"), picture)}
        )
        found = information(given, bins=4)
        np.testing.assert_allclose(found["information"], [slow_information(one, areas, 4) for one in maps], atol=1e-6)

    def test_many_maps_are_each_what_they_are_alone(self, rng):
        picture = rng.integers(0, 256, (16, 16, 1), dtype=np.uint8)
        maps = rng.normal(size=(70, 16, 16))
        given = xr.Dataset({"projection": (("rank", "y", "x"), maps), "picture": (("y", "x", "band"), picture)})
        together = information(given, bins=4)
        for i in (0, 31, 32, 69):
            alone = information(given.isel(rank=[i]), bins=4)
            assert float(together["information"][i]) == pytest.approx(float(alone["information"][0]), abs=1e-12)


@pytest.fixture(scope="module")
def model():
    return fmx.load(tiny_resnet().eval(), input_shape=(3, 32, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return str(folder)


class TestOfProjections:
    @pytest.mark.parametrize("group", ["each", "together", "growing"])
    def test_of_a_deconvnet(self, model, folder, group):
        found = deconv(model, folder, "layer1", maps=3, group=group, pictures=PictureOptions(range=(0, 1)))
        bits = information(found, bins=8)
        lead = {"each": ("sample", "rank"), "together": ("sample",), "growing": ("sample", "step")}[group]
        assert bits["information"].dims == lead
        assert bits["entropy"].dims == ("sample",)
        assert set(lead) <= set(bits.coords)
        for i in range(2):
            one = found["projection"].isel(sample=i).values.reshape(-1, 3, 32, 32)[-1]
            shown = found["picture"].isel(sample=i).values
            expected = np.mean([slow_information(one[c], shown[:, :, c], 8) for c in range(3)])
            assert float(bits["information"].isel(sample=i).values.reshape(-1)[-1]) == pytest.approx(expected, abs=1e-9)
        assert bits.attrs["method"] == "deconvnet" and bits.attrs["layer"] == "layer1"

    @pytest.mark.parametrize("method", ["gradient", "grad-cam"])
    def test_of_attributions(self, model, folder, method):
        found = attribute(model, folder, method=method, classes=[0, 3])
        bits = information(found, bins=4)
        assert bits["information"].shape == (2, 2)
        assert np.isfinite(bits["information"]).all()


class TestCommands:
    """The same numbers in the tables of fmx deconv and fmx attribute."""

    @staticmethod
    def rows(cli, folder, tmp_path, *words):
        given = (words[0], "networks:tiny_resnet", folder, *words[1:], "--input-shape", "3,32,32", "--json")
        ran = cli(*given, "-o", tmp_path, "--name", "a", "--information")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    @pytest.mark.parametrize(
        ("words", "how"),
        [
            (("--maps", "3"), {"maps": 3, "group": "together"}),
            (("--maps", "3", "--each"), {"maps": 3}),
            (("--channels", "1,6"), {"channels": [1, 6]}),
            (("--film", "gif", "--maps", "4", "--frames", "3"), {"maps": 4, "group": "growing", "steps": 3}),
        ],
    )
    def test_deconv(self, cli, model, folder, tmp_path, words, how):
        rows = self.rows(cli, folder, tmp_path, "deconv", "--layer", "layer1", *words)
        expected = information(deconv(model, folder, "layer1", **how))
        for key in ("information", "chance"):
            np.testing.assert_allclose([row[key] for row in rows], expected[key].values.ravel(), atol=1e-9)
        if "steps" in how:
            assert [row["maps"] for row in rows] == [*expected["step"].values.tolist()] * 2

    def test_attribute(self, cli, model, folder, tmp_path):
        rows = self.rows(cli, folder, tmp_path, "attribute", "--class", "0,3", "--method", "gradient")
        expected = information(attribute(model, folder, method="gradient", classes=[0, 3]))
        np.testing.assert_allclose([row["information"] for row in rows], expected["information"].values.ravel())

    def test_not_of_cropped_ones(self, cli):
        ran = cli("deconv", "networks:tiny_resnet", "--store", "s.zarr", "--top", "2", "--information")
        assert ran.code == 2
        assert "--information is about whole pictures, and --top crops them" in ran.err


class TestErrors:
    def test_each_in_a_sentence(self, rng):
        picture = rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)
        good = results(rng.normal(size=(2, 8, 8)), picture)
        with pytest.raises(FmxError, match="64 positions, and this estimate needs 80: take fewer bins"):
            information(good, bins=20)
        with pytest.raises(FmxError, match=r"no estimator bined: did you mean binned\?"):
            information(good, estimator="bined")
        with pytest.raises(FmxError, match="Bins are 2 or more"):
            information(good, bins=1)
        with pytest.raises(FmxError, match="are projections of arrays"):
            information(good.drop_vars("picture"))
        with pytest.raises(FmxError, match="hold no projections"):
            information(good.drop_vars("projection"))
        bad = good["projection"].values.copy()
        bad[1, 0, 0] = np.nan
        with pytest.raises(FmxError, match="not finite"):
            information(results(bad, picture))

    def test_a_projection_of_nothing(self, rng):
        """A map of zeros says nothing, and is no fault."""
        picture = rng.integers(0, 256, (32, 32, 1), dtype=np.uint8)
        found = information(results(np.zeros((2, 32, 32)), picture), bins=8)
        np.testing.assert_allclose(found["information"], 0, atol=1e-12)
