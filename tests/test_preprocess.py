"""Preprocessing: torchvision's presets to the bit, the other steps against loops over every pixel."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.models as zoo
from PIL import Image

from fmx.data import Preprocess
from fmx.errors import DataError
from fmx.prepare import PictureOptions
from fmx_adapters.pytorch.sources import _preset

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WEIGHTS = {
    "resnet18": zoo.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50 v2": zoo.ResNet50_Weights.IMAGENET1K_V2,
    "mobilenet_v2": zoo.MobileNet_V2_Weights.IMAGENET1K_V2,
    "inception_v3": zoo.Inception_V3_Weights.IMAGENET1K_V1,
    "efficientnet_b0": zoo.EfficientNet_B0_Weights.IMAGENET1K_V1,
    "vit_b_16": zoo.ViT_B_16_Weights.IMAGENET1K_V1,
    "swin_t": zoo.Swin_T_Weights.IMAGENET1K_V1,
}


def noise_picture(mode, size):
    """Draw random pixels in any mode of Pillow."""
    rng = np.random.default_rng(sum(size))
    width, height = size
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (height, width), dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 2**16, (height, width), dtype=np.int32))
    colour = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
    if mode == "P":
        return colour.convert("RGB").quantize(64)
    return colour.convert(mode)


def plain_rgb(picture):
    """Bring a picture to 8-bit RGB; 16-bit values are divided by 257, so that 65535 is 255."""
    if picture.mode in {"I;16", "I"}:
        picture = Image.fromarray(np.round(np.asarray(picture, np.float64) / 257).astype(np.uint8))
    return picture.convert("RGB")


def from_preset(weights):
    return Preprocess.from_settings(json.loads(json.dumps(_preset(weights))))


def prepared(preprocess, picture):
    return preprocess.numbers(preprocess.picture(picture))


class TestTorchvisionPresets:
    @pytest.mark.parametrize("name", WEIGHTS)
    @pytest.mark.parametrize("size", [(301, 257), (200, 411), (500, 333), (17, 5), (1, 1)], ids=str)
    def test_any_size(self, name, size):
        picture = noise_picture("RGB", size)
        wanted = WEIGHTS[name].transforms()(picture).numpy()
        found = prepared(from_preset(WEIGHTS[name]), picture)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)

    @pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
    @pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "I"])
    def test_any_mode(self, name, mode):
        picture = noise_picture(mode, (150, 97))
        wanted = WEIGHTS[name].transforms()(plain_rgb(picture)).numpy()
        np.testing.assert_array_equal(prepared(from_preset(WEIGHTS[name]), picture), wanted)

    def test_settings_of_a_preset(self):
        preprocess = from_preset(WEIGHTS["inception_v3"])
        assert (preprocess.resize, preprocess.crop) == (342, (299, 299))
        assert (preprocess.mean, preprocess.std) == IMAGENET
        assert preprocess.source == "torchvision Inception_V3_Weights.IMAGENET1K_V1"

    def test_a_preset_without_a_crop_keeps_the_whole_picture(self):
        weights = zoo.segmentation.LRASPP_MobileNet_V3_Large_Weights.DEFAULT
        picture = noise_picture("RGB", (60, 40))
        preprocess = from_preset(weights)
        assert preprocess.crop is None
        np.testing.assert_array_equal(prepared(preprocess, picture), weights.transforms()(picture).numpy())

    def test_others_have_no_settings(self):
        assert _preset(None) is None
        assert _preset(zoo.detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT) is None
        assert _preset(zoo.optical_flow.Raft_Small_Weights.DEFAULT) is None


VIDEO_WEIGHTS = {
    "r3d_18": zoo.video.R3D_18_Weights.DEFAULT,
    "s3d": zoo.video.S3D_Weights.DEFAULT,
    "mvit_v2_s": zoo.video.MViT_V2_S_Weights.DEFAULT,
    "swin3d_t": zoo.video.Swin3D_T_Weights.DEFAULT,
}


class TestClips:
    @pytest.mark.parametrize("name", VIDEO_WEIGHTS)
    @pytest.mark.parametrize("size", [(301, 257), (200, 411), (60, 45)], ids=str)
    def test_torchvision_presets_to_the_bit(self, name, size):
        preset = VIDEO_WEIGHTS[name].transforms()
        settings = _preset(VIDEO_WEIGHTS[name]) | {"antialias": False, "layout": "CTHW"}
        preprocess = Preprocess.from_settings(json.loads(json.dumps(settings)))
        frames = np.stack([np.asarray(noise_picture("RGB", size)), np.asarray(noise_picture("L", size).convert("RGB"))])
        wanted = preset(torch.from_numpy(frames).permute(0, 3, 1, 2)).numpy()
        prepared_frames = preprocess.clip(frames)
        found = np.stack([preprocess.numbers(frame) for frame in prepared_frames], axis=1)
        assert found.shape == preprocess.shape(2) == wanted.shape
        np.testing.assert_array_equal(found, wanted)

    def test_frames_are_prepared_like_pictures(self):
        preprocess = from_preset(WEIGHTS["resnet18"])
        frames = [noise_picture("RGB", (90, 70)), noise_picture("RGBA", (90, 70)).convert("RGB")]
        found = preprocess.clip(np.stack([np.asarray(frame) for frame in frames]))
        np.testing.assert_array_equal(found, np.stack([preprocess.picture(frame) for frame in frames]))

    @pytest.mark.parametrize("antialias", [True, False])
    def test_grey(self, antialias):
        frames = np.asarray(noise_picture("RGB", (9, 7)))[None]
        found = Preprocess(channels=1, antialias=antialias).clip(frames)
        np.testing.assert_array_equal(found[0, ..., 0], np.asarray(noise_picture("RGB", (9, 7)).convert("L")))

    @pytest.mark.parametrize(
        ("shape", "layout", "crop", "channels"),
        [
            ((3, 16, 112, 96), "CTHW", (112, 96), 3),
            ((16, 3, 32, 32), "TCHW", (32, 32), 3),
            ((8, 32, 40, 1), "THWC", (32, 40), 1),
            ((1, 3, 32, 32), "TCHW", (32, 32), 3),
            ((3, 4, 32, 32), "CTHW", (32, 32), 3),
            ((3, 3, 32, 32), "CTHW", (32, 32), 3),
        ],
    )
    def test_for_input(self, shape, layout, crop, channels):
        preprocess = Preprocess.for_input(shape)
        assert (preprocess.layout, preprocess.crop, preprocess.channels) == (layout, crop, channels)
        assert preprocess.shape(shape[layout.index("T")]) == shape

    def test_shapes(self):
        assert Preprocess(crop=(4, 5)).shape() == (3, 4, 5)
        assert Preprocess(crop=(4, 5), layout="HWC").shape() == (4, 5, 3)
        assert Preprocess(crop=(4, 5), layout="HWC").shape(7) == (7, 4, 5, 3)
        assert Preprocess(crop=(4, 5)).shape(7) == (3, 7, 4, 5)
        with pytest.raises(DataError, match="give --size or --crop"):
            Preprocess().shape()


class TestSteps:
    @pytest.mark.parametrize("layout", ["CHW", "HWC"])
    def test_written_where_it_is_wanted(self, layout):
        preprocess = Preprocess(mean=IMAGENET[0], std=IMAGENET[1], range=(-1.0, 1.0), layout=layout)
        picture = np.asarray(noise_picture("RGB", (5, 4)))
        plain = preprocess.numbers(picture)
        room = np.zeros((2, *plain.shape), np.float32)
        assert preprocess.numbers(picture, out=room[1]).base is room
        np.testing.assert_array_equal(room[1], plain)
        assert not room[0].any()
        np.testing.assert_array_equal(preprocess.scaled(picture / np.float32(255)), plain)

    def test_deep_grey_keeps_its_range(self):
        ramp = Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16))
        assert Preprocess(channels=1).picture(ramp)[..., 0].tolist() == [[0, 1, 128, 255]]

    @pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
    def test_channels(self, channels, mode):
        picture = noise_picture("RGBA", (9, 7))
        pixels = Preprocess(channels=channels).picture(picture)
        assert (pixels.shape, pixels.dtype) == ((7, 9, channels), np.uint8)
        np.testing.assert_array_equal(pixels.squeeze(), np.asarray(picture.convert(mode)))

    @pytest.mark.parametrize("layout", ["CHW", "HWC"])
    @pytest.mark.parametrize("span", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
    @pytest.mark.parametrize("mean_std", [((0.0,), (1.0,)), ((0.5,), (0.25,)), IMAGENET], ids=str)
    def test_noise_is_added_between_black_and_white_before_all_scaling(self, layout, span, mean_std):
        mean, std = mean_std
        preprocess = Preprocess(range=span, mean=mean, std=std, layout=layout)
        rng = np.random.default_rng(2)
        picture = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        noise = rng.normal(scale=2, size=(3, 4, 5)).astype(np.float32)
        found = preprocess.numbers(picture, noise)
        for y, x, c in np.ndindex(picture.shape):
            value = float(picture[y, x, c]) / 255 + float(noise[c, y, x])
            value = span[0] + value * (span[1] - span[0])
            value = (value - mean[c % len(mean)]) / std[c % len(std)]
            where = (y, x, c) if layout == "HWC" else (c, y, x)
            assert found[where] == pytest.approx(value, rel=1e-5, abs=1e-4)

    def test_no_noise_is_noise_of_0(self):
        preprocess = Preprocess(mean=IMAGENET[0], std=IMAGENET[1])
        picture = np.asarray(noise_picture("RGB", (5, 4)))
        before = picture.copy()
        silent = preprocess.numbers(picture, np.zeros((3, 4, 5), np.float32))
        np.testing.assert_array_equal(preprocess.numbers(picture), silent)
        np.testing.assert_array_equal(picture, before)

    def test_unknown_interpolation(self):
        with pytest.raises(DataError, match="no interpolation 'cubic': use bilinear, bicubic or nearest"):
            Preprocess(resize=8, interpolation="cubic").picture(noise_picture("RGB", (9, 7)))


class TestSettings:
    @pytest.mark.parametrize(
        "preprocess",
        [
            Preprocess(),
            Preprocess((20, 30), (10, 12), "nearest", False, 1, (-1.0, 1.0), (0.5,), (0.5,), "HWC", "a test"),
            Preprocess.for_input((3, 32, 32)),
            Preprocess.for_input((3, 20, 30)),
        ],
    )
    def test_round_trip_through_json(self, preprocess):
        assert Preprocess.from_settings(json.loads(json.dumps(preprocess.settings()))) == preprocess

    def test_unknown_settings_are_left_aside(self):
        assert Preprocess.from_settings({"crop": [2, 3], "later": 1}) == Preprocess(crop=(2, 3))

    @pytest.mark.parametrize(
        ("shape", "layout", "resize", "crop", "channels"),
        [
            ((3, 32, 32), "CHW", 32, (32, 32), 3),
            ((1, 20, 30), "CHW", (20, 30), (20, 30), 1),
            ((24, 24, 3), "HWC", 24, (24, 24), 3),
            ((20, 30, 4), "HWC", (20, 30), (20, 30), 4),
        ],
    )
    def test_for_input(self, shape, layout, resize, crop, channels):
        preprocess = Preprocess.for_input(shape, layout)
        assert (preprocess.resize, preprocess.crop, preprocess.channels) == (resize, crop, channels)
        assert (preprocess.mean, preprocess.std) == (IMAGENET if channels == 3 else ((0.0,), (1.0,)))
        assert (preprocess.source, preprocess.layout) == ("assumed", layout)
        assert prepared(preprocess, noise_picture("RGB", (41, 37))).shape == shape

    @pytest.mark.parametrize(
        ("shape", "sentence"),
        [
            ((2, 8, 32, 32), "shape 2×8×32×32, not pictures"),
            ((5, 3, 4, 32, 32), "shape 5×3×4×32×32, not pictures"),
            ((10,), "shape 10"),
            ((2, 8, 8), "takes 2 channels"),
        ],
    )
    def test_inputs_that_are_no_pictures(self, shape, sentence):
        with pytest.raises(DataError, match=f"{sentence}.*: give the data as .npy"):
            Preprocess.for_input(shape)

    @pytest.mark.parametrize(
        ("preprocess", "text"),
        [
            (Preprocess.for_input((3, 20, 30)), "20×30 RGB, scaled to 0–1, ImageNet mean and std"),
            (Preprocess(channels=1, range=(-1.0, 1.0)), "own size grey, scaled to -1–1"),
            (
                Preprocess(crop=(8, 8), channels=4, range=(0.0, 255.0), mean=(127.5,), std=(2.0, 3.0, 4.0, 5.0)),
                "8×8 RGBA, scaled to 0–255, mean 127.5 std 2,3,4,5",
            ),
        ],
    )
    def test_in_words(self, preprocess, text):
        assert preprocess.describe() == text


class TestOptions:
    base = Preprocess(resize=256, crop=(224, 224), mean=IMAGENET[0], std=IMAGENET[1], source="preset")

    def test_nothing_said(self):
        assert not PictureOptions().given
        assert PictureOptions().apply(self.base) is self.base

    @pytest.mark.parametrize(
        ("said", "changes"),
        [
            ({"size": 64}, {"resize": 64, "crop": (64, 64)}),
            ({"crop": 200}, {"crop": (200, 200)}),
            ({"size": 64, "crop": 56}, {"resize": 64, "crop": (56, 56)}),
            ({"mean": [0.5], "std": [0.25]}, {"mean": (0.5,), "std": (0.25,)}),
            ({"mean": [1, 2, 3]}, {"mean": (1.0, 2.0, 3.0)}),
            ({"range": [-1, 1]}, {"range": (-1.0, 1.0), "mean": (0.0,), "std": (1.0,)}),
            ({"range": [0, 255], "mean": [9]}, {"range": (0.0, 255.0), "mean": (9.0,), "std": (1.0,)}),
            ({"channels": 3}, {}),
            ({"channels": 1}, {"channels": 1, "mean": (0.0,), "std": (1.0,)}),
            ({"channels": 4, "std": [1, 2, 3, 4]}, {"channels": 4, "mean": (0.0,), "std": (1.0, 2.0, 3.0, 4.0)}),
            ({"layout": "NHWC"}, {"layout": "HWC"}),
            ({"layout": "NCHW"}, {}),
        ],
        ids=str,
    )
    def test_what_was_said_overrules_the_base(self, said, changes):
        assert PictureOptions(**said).given
        assert PictureOptions(**said).apply(self.base) == replace(self.base, **changes, source="as asked for")

    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ({"channels": 2}, "1, 3 or 4 channels, not 2: correct --picture-channels"),
            ({"range": [1]}, "--range takes 2 numbers, not 1"),
            ({"mean": [1, 2]}, "--mean takes 1 or 3 numbers, not 2"),
            ({"channels": 1, "std": [1, 2, 3]}, "--std takes 1 numbers, not 3"),
            ({"std": [1, 0, 1]}, "standard deviation is greater than 0: correct --std"),
            ({"layout": "HWC"}, "no layout HWC: use NCHW or NHWC"),
            ({"size": 0}, "--size"),
            ({"crop": -3}, "--crop"),
        ],
        ids=str,
    )
    def test_mistakes(self, said, sentence):
        with pytest.raises(DataError, match=sentence):
            PictureOptions(**said).apply(self.base)

    def test_a_crop_larger_than_the_picture_is_no_black_border(self):
        pixels = PictureOptions(crop=299).apply(self.base).picture(Image.new("RGB", (400, 300), "white"))
        assert pixels.shape == (299, 299, 3)
        assert (pixels == 255).all()

    @pytest.mark.parametrize(
        ("said", "shape"),
        [
            ({}, None),
            ({"size": 32}, (3, 32, 32)),
            ({"size": 40, "crop": 32, "channels": 1}, (1, 32, 32)),
            ({"crop": 32, "layout": "NHWC"}, (32, 32, 3)),
        ],
        ids=str,
    )
    def test_shape_of_a_sample(self, said, shape):
        assert PictureOptions(**said).input_shape() == shape
