"""Occlusion: every value against a loop that hides one place after the other, and the figure of it."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import FORMATS
from networks import tiny_resnet
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

import fmx
from fmx.errors import FmxError, LayerError, ModelError
from fmx.prepare import PictureOptions
from fmx.project.occlusion import occlude
from fmx.project.patches import Patches
from fmx.render.occlusion import CLASS_COLOURS, ClassMap, HeatMap, occlusion_figure

SHAPE = (3, 20, 26)


@pytest.fixture(scope="module")
def net():
    return tiny_resnet().eval()


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(3).normal(size=(3, *SHAPE)).astype(np.float32)


def slow_windows(length, patch, stride):
    """Add places until the last pixel is covered, then move all of them so that both ends stick out alike."""
    starts = [0]
    while starts[-1] + patch < length:
        starts.append(starts[-1] + stride)
    moved = (starts[-1] + patch - length) // 2
    return [s - moved for s in starts]


def slow_occlusion(run, inputs, fills, patch, stride):
    """Run the model on each picture with each part hidden, one at a time; `run` gives a list of numbers."""
    found = []
    for values, fill in zip(inputs, fills, strict=True):
        rows = []
        for top in slow_windows(values.shape[1], patch[0], stride):
            row = []
            for left in slow_windows(values.shape[2], patch[1], stride):
                hidden = values.copy()
                for y in range(max(top, 0), min(top + patch[0], values.shape[1])):
                    for x in range(max(left, 0), min(left + patch[1], values.shape[2])):
                        hidden[:, y, x] = fill[:, y, x]
                row.append(run(hidden))
            rows.append(row)
        found.append(rows)
    return np.moveaxis(np.array(found), -1, 1)


def torch_run(net, channel=2):
    """Give the probability of each class, and the largest and summed activation of a channel of layer1."""
    kept = {}
    net.layer1.register_forward_hook(lambda _m, _i, out: kept.update(layer1=out.clone()))

    def run(values):
        with torch.no_grad():
            scores = net(torch.from_numpy(values)[None])[0]
        maps = kept["layer1"][0, channel]
        return [*torch.softmax(scores.double(), 0).tolist(), maps.max().item(), maps.double().sum().item()]

    return run


class TestPatches:
    @pytest.mark.parametrize("length", [1, 2, 7, 20, 33])
    @pytest.mark.parametrize("patch", [1, 2, 7])
    @pytest.mark.parametrize("stride", [1, 2, 5, 7])
    def test_every_pixel_is_covered_and_both_ends_are_alike(self, length, patch, stride):
        if patch > length or stride > patch:
            with pytest.raises(FmxError):
                Patches((length, length), (patch, patch), stride)
            return
        patches = Patches((length, length), (patch, patch), stride)
        covered = np.zeros((length, length), int)
        for place in patches.places:
            assert covered[place].size
            covered[place] += 1
        assert covered.min() >= 1
        starts = slow_windows(length, patch, stride)
        assert patches.centres(0).tolist() == [s + (patch - 1) / 2 for s in starts]
        before, behind = -starts[0], starts[-1] + patch - length
        assert 0 <= behind - before <= 1
        assert patches.shape == (len(starts),) * 2

    def test_the_usual_one(self):
        patches = Patches((224, 224), (32, 32), 16)
        assert patches.shape == (13, 13)
        assert patches.centres(1)[[0, 1, -1]].tolist() == [15.5, 31.5, 207.5]


class TestAgainstTheLoop:
    @pytest.mark.parametrize("fill", ["zero", "mean", "blur"])
    @pytest.mark.parametrize("patch", [(7, 7), (6, 9)])
    def test_classes_and_feature_maps(self, net, inputs, fill, patch):
        fills = {
            "zero": np.zeros_like(inputs),
            "mean": np.broadcast_to(inputs.mean((2, 3), keepdims=True), inputs.shape),
            "blur": np.stack(
                [
                    [gaussian_filter(c, (patch[0] / 2, patch[1] / 2), mode="nearest") for c in picture]
                    for picture in inputs
                ]
            ),
        }
        found = occlude(
            fmx.load(net, input_shape=SHAPE),
            inputs,
            patch=patch,
            stride=4,
            fill=fill,
            classes=[0, 4],
            layers=["layer1"],
            channels=[2],
            batch_size=7,
            engine="eager",
        )
        expected = slow_occlusion(torch_run(tiny_like(net)), inputs, fills[fill], patch, 4)
        assert found["value"].dims == ("sample", "target", "y", "x")
        np.testing.assert_allclose(found["value"], expected[:, [0, 4, 5, 6]], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["most_probable"], expected[:, :5].argmax(1))
        np.testing.assert_allclose(found["highest"], expected[:, :5].max(1), rtol=1e-5)
        whole = np.array([torch_run(tiny_like(net))(one) for one in inputs])
        np.testing.assert_allclose(found["whole"], whole[:, [0, 4, 5, 6]], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["whole_class"], whole[:, :5].argmax(1))
        assert found["y"].values.tolist() == [s + (patch[0] - 1) / 2 for s in slow_windows(20, patch[0], 4)]

    def test_auto_finds_the_class_and_the_feature_map_of_each_picture(self, net, inputs):
        model = fmx.load(net, input_shape=SHAPE)
        # Pictures that differ in what they are taken for and in what they excite.
        different = np.concatenate([inputs, -2 * inputs, np.roll(inputs, 1, axis=1) + 3])
        found = occlude(model, different, patch=9, stride=5, layers=["layer1", "stem"], batch_size=4)
        assert found["target"].values.tolist() == [
            "class auto",
            *(f"{layer} channel auto {kind}" for layer in ("stem", "layer1") for kind in ("strongest", "total")),
        ]
        with torch.no_grad():
            stem = net.stem(torch.from_numpy(different))
            layer1 = net.layer1(stem).amax((2, 3)).argmax(1)
            classes = net(torch.from_numpy(different)).argmax(1)
        expected = [classes, *[stem.amax((2, 3)).argmax(1)] * 2, layer1, layer1]
        np.testing.assert_array_equal(found["number"], np.stack(expected, 1))
        assert len(np.unique(classes)) > 1 and len(np.unique(layer1)) > 1
        for i in range(len(different)):
            alone = occlude(
                model, different[i : i + 1], patch=9, stride=5, classes=int(classes[i]), layers="layer1",
                channels=int(layer1[i]), batch_size=64,
            )  # fmt: skip
            np.testing.assert_allclose(alone["value"][0], found["value"][i, [0, 3, 4]], rtol=1e-4, atol=1e-5)

    def test_of_maps_that_all_reach_the_limit_the_fullest_is_the_strongest(self, net, inputs):
        limited = nn.Sequential(net.stem, Backwards(), nn.Hardtanh(0, 0.1)).eval()
        found = occlude(
            fmx.load(limited, input_shape=SHAPE),
            inputs,
            patch=10,
            stride=10,
            classes="none",
            layers="2",
            engine="eager",
        )
        with torch.no_grad():
            totals = limited(torch.from_numpy(inputs)).double().sum((2, 3))
        np.testing.assert_array_equal(found["number"][:, 0], totals.argmax(1))
        assert totals.argmax(1).tolist() != [0, 0, 0]

    def test_batches_make_no_difference(self, net, inputs):
        model = fmx.load(net, input_shape=SHAPE)
        each = [occlude(model, inputs, patch=8, stride=8, batch_size=n, engine="eager") for n in (1, 5, 100)]
        for other in each[1:]:
            np.testing.assert_allclose(other["value"], each[0]["value"], rtol=1e-5)

    @pytest.mark.parametrize("form", FORMATS)
    def test_all_formats_give_the_same(self, net, inputs, export, form):
        model = fmx.load(export(net, SHAPE, form), input_shape=SHAPE)
        found = occlude(model, inputs[:2], patch=10, stride=6, layers="layer1", channels=[1, 2], batch_size=8)
        expected = occlude(
            fmx.load(net, input_shape=SHAPE), inputs[:2], patch=10, stride=6, layers="layer1", channels=[1, 2],
            engine="eager",
        )  # fmt: skip
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(found["most_probable"], expected["most_probable"])

    def test_a_quantized_network(self, net, inputs, export, tmp_path):
        """It can't be differentiated, and needs not be."""
        import onnxruntime

        file = quantized(export(net, SHAPE, "legacy onnx"), inputs, tmp_path)
        session = onnxruntime.InferenceSession(str(file))
        name = session.get_inputs()[0].name

        def run(values):
            scores = session.run(None, {name: values[None]})[0][0].astype(np.float64)
            powers = np.exp(scores - scores.max())
            return (powers / powers.sum()).tolist()

        found = occlude(fmx.load(file), inputs, patch=10, stride=10, classes=[0, 1, 2, 3, 4])
        expected = slow_occlusion(run, inputs, np.zeros_like(inputs), (10, 10), 10)
        np.testing.assert_allclose(found["value"], expected, atol=1e-5)

    def test_pictures_last_axis_colours_and_grey(self, tmp_path):
        """A network of (y, x, colour): the patch lies on the right axes, and is grey in the network's own numbers."""
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        how = PictureOptions(size=12, range=(0, 255), mean=(10, 20, 30), std=(2, 2, 2), layout="NHWC")
        found = occlude(
            fmx.load(ColoursLast().eval(), input_shape=(12, 12, 3), layout="NHWC"), str(tmp_path / "a.png"),
            patch=4, stride=4, fill="grey", classes=[0, 1, 2], scores="raw", pictures=how,
        )  # fmt: skip
        values = (pixels.astype(np.float64) - (10, 20, 30)) / 2
        grey = (127.5 - np.array((10, 20, 30))) / 2
        for i, top in enumerate((0, 4, 8)):
            for k, left in enumerate((0, 4, 8)):
                hidden = values.copy()
                hidden[top : top + 4, left : left + 4] = grey
                expected = hidden.sum((0, 1)) @ np.diag([1, 2, 3])
                np.testing.assert_allclose(found["value"][0, :, i, k], expected, rtol=1e-5)


class TestScores:
    def test_probabilities_are_taken_as_they_are(self, net, inputs):
        both = [fmx.load(m.eval(), input_shape=SHAPE) for m in (net, nn.Sequential(net, nn.Softmax(1)))]
        logits, shares = (occlude(model, inputs, patch=10, stride=10, engine="eager") for model in both)
        np.testing.assert_allclose(shares["value"], logits["value"], rtol=1e-5)
        assert shares.attrs["scores"] == "the output, which is probabilities already"
        assert logits.attrs["scores"] == "softmax of the output"
        raw = occlude(both[0], inputs, patch=10, stride=10, scores="raw", classes=[0, 1, 2, 3, 4], engine="eager")
        with torch.no_grad():
            np.testing.assert_allclose(raw["whole"], net(torch.from_numpy(inputs)), rtol=1e-5)

    def test_a_network_of_feature_maps_alone(self, net, inputs):
        model = fmx.load(net.stem, input_shape=SHAPE)
        with pytest.raises(ModelError, match=r"gives no score for each class, only .* 8×10×13: map a layer"):
            occlude(model, inputs, patch=10, stride=10)
        found = occlude(model, inputs, patch=10, stride=10, classes="none", layers="1", channels="all")
        assert found.sizes["target"] == 16
        assert "most_probable" not in found


class TestErrors:
    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            ({"patch": 21}, "A patch of 21×21 is larger than the picture, 20×26: choose a smaller --patch"),
            ({"patch": 8, "stride": 9}, "misses pixels: choose a --stride of at most 8"),
            ({"patch": 0}, "at least one pixel"),
            ({"fill": "gray"}, "--fill takes zero, grey, mean, blur, not gray: did you mean grey?"),
            ({"scores": "softmix"}, "did you mean softmax?"),
            ({"fill": "grey"}, "Nothing says what grey is"),
            ({"classes": 5}, "has no class 5: it tells 5 apart"),
            ({"classes": "cat"}, "--class takes auto, none or numbers from 0 on, not 'cat'"),
            ({"classes": "none"}, "nothing to map"),
            ({"layers": "fc"}, None),
            ({"batch_size": 0}, "at least one picture"),
        ],
    )
    def test_each_in_a_sentence(self, net, inputs, ask, message):
        model = fmx.load(net, input_shape=SHAPE)
        if message is None:
            assert occlude(model, inputs, patch=10, stride=10, **ask).sizes["target"] == 3
            return
        with pytest.raises(FmxError, match=message.replace("?", r"\?")):
            occlude(model, inputs, **({"patch": 10, "stride": 10} | ask))

    def test_channels_out_of_range(self, net, inputs):
        model = fmx.load(net, input_shape=SHAPE)
        with pytest.raises(LayerError, match="layer1 has no channel 8: it has 8, numbered from 0"):
            occlude(model, inputs, layers="layer1", channels=8, patch=10, stride=10)
        with pytest.raises(LayerError, match=r"layer7"):
            occlude(model, inputs, layers="layer7", patch=10, stride=10)

    def test_scores_that_are_not_finite(self, net, inputs):
        bad = inputs.copy()
        bad[0, 0, 0, 0] = np.nan
        with pytest.raises(ModelError, match="scores that are not finite"):
            occlude(fmx.load(net, input_shape=SHAPE), bad, patch=10, stride=10)

    def test_progress_counts_passes(self, net, inputs):
        seen = []
        occlude(
            fmx.load(net, input_shape=SHAPE), inputs, patch=10, stride=10, batch_size=7,
            progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
        assert seen[-1] == (3 * 7, 3 * 7)
        assert seen[0] == (7, 21)


class TestFigure:
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    centres = (np.arange(4) * 8 + 3.5, np.arange(4) * 8 + 3.5)

    def drawn(self, classes, names=()):
        heat = HeatMap("probability of class 1", np.linspace(0, 1, 16).reshape(4, 4), 0.5)
        labels = {"sample": "a.png"}
        found = ClassMap(np.asarray(classes).reshape(4, 4), 1, names)
        return occlusion_figure(self.picture, self.centres, [heat], found, caption=["a.png"], labels=labels)

    def test_each_place_has_the_colour_of_its_class(self):
        frame = self.drawn([1] * 12 + [7] * 4, [f"name {i}" for i in range(8)])
        assert dict(frame.labels) == {"sample": "a.png"}
        counts = [int((frame.pixels == colour).all(2).sum()) for colour in CLASS_COLOURS]
        # A map of 160 pixels a side, and a square of the legend each.
        square = counts[1] - 160 * 40
        assert 0 < square < 500
        assert counts[0] == 160 * 120 + square
        # The last one is a gray that letters have, too.
        assert counts[2:-1] == [0] * 5

    def test_more_classes_than_colours(self):
        frame = self.drawn(np.arange(16))
        assert all((frame.pixels == colour).all(2).any() for colour in CLASS_COLOURS)

    def test_a_constant_map_and_one_that_only_gains(self):
        flat = HeatMap("flat", np.full((4, 4), 2.0), 2.0)
        gains = HeatMap("gains", np.full((4, 4), 3.0), 2.0)
        frame = occlusion_figure(self.picture, self.centres, [flat, gains], caption=["a"])
        # Nothing is lost, so that the picture is what it is, three times.
        large = self.picture.repeat(5, axis=0).repeat(5, axis=1)
        times = sum(
            np.array_equal(frame.pixels[y : y + 160, x : x + 160], large)
            for y in range(frame.pixels.shape[0] - 160)
            for x in range(frame.pixels.shape[1] - 160)
            if (frame.pixels[y, x] == large[0, 0]).all()
        )
        assert times == 3

    def test_maps_of_another_size(self):
        with pytest.raises(FmxError, match="4×4 places"):
            occlusion_figure(self.picture, self.centres, [HeatMap("a", np.zeros((3, 4)), 0.0)], caption=["a"])


class TestCommand:
    words = ("--range", "0,255", "--patch", "16", "--stride", "16", "--name", "run")

    def test_figures_maps_and_table(self, place, cli):
        ask = ("--class", "auto,1", "--layer", "layer1", "--channels", "0,3", "--fill", "grey", "--json")
        (place / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
        ran = cli("occlude", "legacy.onnx", "pictures", *self.words, *ask, "--names", "names.txt", "-o", "out")
        assert ran.code == 0, ran.err
        rows = json.loads(ran.out)
        assert len(rows) == 6 * 6
        folder = place / "out" / "legacy" / "run"
        names = [f"{kind}-{i}{more}.png" for kind in ("cat", "dog") for i in range(3) for more in ("", "_2")]
        assert sorted(p.name for p in folder.iterdir()) == sorted([*names, "index.csv", "maps.nc"])
        with xr.open_dataset(folder / "maps.nc") as maps:
            found = maps.load()
        expected = occlude(
            "legacy.onnx", "pictures", patch=16, stride=16, fill="grey", classes=["auto", 1], layers="layer1",
            channels=[0, 3], pictures=PictureOptions(range=(0, 255)),
        )  # fmt: skip
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-5)
        for row in rows:
            at = {"sample": row["sample"], "y": row["y"], "x": row["x"]}
            values = expected["value"].sel(sample=row["sample"])
            (i,) = [
                i
                for i in range(6)
                if (row["kind"], row["layer"]) == (str(expected["kind"][i].item()), str(expected["layer"][i].item()))
                and int(expected["number"].sel(sample=row["sample"])[i]) == row["number"]
            ][:1]
            assert row["lowest"] == pytest.approx(float(values[i].min()), rel=1e-5)
            assert float(expected["value"].sel(at)[i]) == pytest.approx(row["lowest"], rel=1e-5)
            if row["kind"] == "probability":
                assert row["target"] == f"probability of {row['number']} {'ant bee cat dog elk'.split()[row['number']]}"

    def test_arrays_and_a_terminal(self, place, cli):
        ran = cli("occlude", "traced.pt", "inputs.npy", *self.words[2:], "-o", "out")
        assert ran.code == 0, ran.err
        assert "probability of class" in ran.out
        assert len(list((place / "out/traced/run").glob("*.png"))) == 5

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--patch", "40"), "A patch of 40×40 is larger than the picture, 32×32"),
            (("--names", "nothing.txt"), "nothing.txt can't be read: No such file"),
            (("--class", "cat"), "--class takes auto, none or numbers"),
            (("--layer", "layer1", "--channels", "9"), "layer1 has no channel 9"),
        ],
    )
    def test_mistakes_leave_nothing(self, place, cli, words, message):
        ran = cli("occlude", "legacy.onnx", "pictures", *self.words, *words, "-o", "out")
        assert ran.code == 2
        assert message in ran.err
        assert not list(place.glob("out/*/*"))

    def test_too_many_names_are_left_out(self, place, cli):
        ran = cli("occlude", "legacy.onnx", "pictures/cat/0.png", *self.words, "--names", "imagenet", "-o", "out")
        assert ran.code == 0
        assert "--class-names has 1000 names, and the model 5 classes: not used" in ran.err
        assert "probability of class" in ran.out


@pytest.mark.real
class TestReal:
    def test_the_heat_lies_on_the_coffee(self, real):
        """The cup is in the upper middle of the picture; what is around it hardly matters."""
        model = fmx.load("torchvision:mobilenet_v2", weights=real / "models/mobilenet_v2-b0353104.pth")
        found = occlude(model, real / "images/photos/coffee.png", patch=48, stride=24, fill="grey", engine="folded")
        assert found["number"].item() == 967
        assert found["whole"].item() > 0.98
        lost = (found["whole"] - found["value"])[0, 0]
        worst = lost.where(lost == lost.max(), drop=True)
        assert 30 < worst["y"].item() < 110 and 50 < worst["x"].item() < 190
        assert lost.max() > 0.3
        assert abs(lost.sel(y=slice(150, None))).max() < 0.05


class Backwards(nn.Module):
    """Gives channels in the opposite order."""

    def forward(self, x):
        return x.flip(1) * 1.0


class ColoursLast(nn.Module):
    """Sums each colour of (y, x, colour), and multiplies it with 1, 2 or 3."""

    def forward(self, x):
        return (x * torch.tensor([1.0, 2.0, 3.0])).sum((1, 2))


def tiny_like(net):
    """A copy that hooks may be put on."""
    other = tiny_resnet().eval()
    other.load_state_dict(net.state_dict())
    return other


def quantized(file, inputs, folder):
    """Quantize an ONNX file to 8-bit integers, weights and activations."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            import onnx

            name = onnx.load(file).graph.input[0].name
            self.batches = iter([{name: inputs}])

        def get_next(self):
            return next(self.batches, None)

    target = folder / "quantized.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(str(file), str(target), Reader())
    return target
