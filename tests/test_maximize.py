"""The parts of activation maximization, each against a slow reference: objectives, pictures, transforms, penalties."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor, nn

from fmx.errors import DataError, FmxError, LayerError
from fmx.maximize import Transforms, channel, direction, diversity, logit, neuron, parse_objective
from fmx.maximize.colour import colour_axes, mixed, unmixed
from fmx.maximize.draw import Draw
from fmx.maximize.images import Fourier, Phases, Pixels, frequencies
from fmx.maximize.methods import settings_for
from fmx.maximize.objectives import Objective
from fmx.maximize.penalties import Penalties, blur_difference, l2_norm, total_variation
from fmx.maximize.spectrum import spectrum_of_pictures

MAPS = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(1))
DRAWS = [Draw(0, f"picture {i}") for i in range(3)]


def value(objective: Objective, maps: Tensor = MAPS) -> Tensor:
    return objective({"a": maps, "b": maps * 2, "output": maps.mean((2, 3))})


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (channel("a", 2), lambda m: m[:, 2].mean((1, 2))),
        (neuron("a", 2), lambda m: m[:, 2, 2, 3]),
        (neuron("a", 2, 0, 5), lambda m: m[:, 2, 0, 5]),
        (neuron("a", 2, x=1), lambda m: m[:, 2, 2, 1]),
        (logit(4), lambda m: m[:, 4].mean((1, 2))),
        (-channel("a", 2), lambda m: -m[:, 2].mean((1, 2))),
        (channel("a", 2) / 4, lambda m: m[:, 2].mean((1, 2)) / 4),
        (
            channel("a", 0) + 0.5 * channel("b", 1) - logit(3) * 2,
            lambda m: m[:, 0].mean((1, 2)) + m[:, 1].mean((1, 2)) - 2 * m[:, 3].mean((1, 2)),
        ),
        (direction("a", [1, 0, -2, 0, 0.5]), lambda m: (m[:, 0] - 2 * m[:, 2] + 0.5 * m[:, 4]).mean((1, 2))),
        (direction("a", [1, 0, -2, 0, 0.5], y=1, x=2), lambda m: (m[:, 0] - 2 * m[:, 2] + 0.5 * m[:, 4])[:, 1, 2]),
    ],
)
def test_objectives_are_what_they_say(objective: Objective, expected: Callable[[Tensor], Tensor]) -> None:
    torch.testing.assert_close(value(objective), expected(MAPS))


def test_direction_with_the_cosine_counts_the_angle() -> None:
    along = [1.0, 2.0, 0.0, -1.0, 0.5]
    found = value(direction("a", along, cosine_power=2.0))
    for n in range(len(MAPS)):
        total = 0.0
        for y in range(4):
            for x in range(6):
                activation = MAPS[n, :, y, x].tolist()
                dot = sum(a * d for a, d in zip(activation, along, strict=True))
                cosine = dot / math.sqrt(sum(a * a for a in activation)) / math.sqrt(sum(d * d for d in along))
                total += dot * max(cosine, 0.1) ** 2
        assert found[n].item() == pytest.approx(total / 24, rel=1e-5)


def test_diversity_is_less_the_mean_cosine_of_gram_matrices() -> None:
    found = value(diversity("a"))
    grams = [(m.flatten(1) @ m.flatten(1).T).flatten() for m in MAPS]
    for i, own in enumerate(grams):
        others = [float(own @ g / own.norm() / g.norm()) for j, g in enumerate(grams) if j != i]
        assert found[i].item() == pytest.approx(-sum(others) / 2, rel=1e-5)
    assert value(diversity("a"), MAPS[:1]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("layer3:5", "layer3:5"),
        ("layer3.0.relu:2:5", "layer3.0.relu:2:5"),
        ("-layer3:5", "-layer3:5"),
        ("- layer3:5 + logit:3", "-layer3:5 + logit:3"),
        ("layer3:5 + 0.5*layer3:9 - logit:281", "layer3:5 + 0.5*layer3:9 - logit:281"),
        ("2 * a-b:1 - 1e-3*c+d:2", "2*a-b:1 - 0.001*c+d:2"),
        ("layer3:5@", "layer3:5@"),
        ("layer3:5@3,4", "layer3:5@3,4"),
        ("layer3:5@3", "layer3:5@3,"),
        ("layer3:5 + 10*diversity(layer3)", "layer3:5 + 10*diversity(layer3)"),
    ],
)
def test_objectives_are_read_and_written(text: str, label: str) -> None:
    assert parse_objective(text).label == label
    assert parse_objective(label).label == label


@pytest.mark.parametrize("text", ["", "layer3", "layer3:x", "layer3:5 +", "+ + layer3:5", "layer3:5 layer3:6", "3*"])
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(FmxError, match="no objective: write it like"):
        parse_objective(text)


def test_channels_and_positions_that_are_not_there() -> None:
    with pytest.raises(LayerError, match=r"Layer a has no channel 5: it has 5, 0 to 4\."):
        value(channel("a", 5))
    with pytest.raises(LayerError, match=r"no position 4,3: its maps are 4×6"):
        value(neuron("a", 1, y=4))
    with pytest.raises(LayerError, match="5 channels, and the direction"):
        value(direction("a", [1, 2, 3]))
    with pytest.raises(TypeError):
        channel("a", 1) + 1  # type: ignore[operator]


def test_gradients_are_those_of_the_plain_network() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)).eval()
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    hidden = net[1](net[0](x))
    objective = 2 * channel("1", 3) - neuron("2", 1, 0, 0)
    (found,) = torch.autograd.grad(objective({"1": hidden, "2": net[2](hidden)}).sum(), x)
    for n in range(2):
        one = x[n : n + 1].detach().requires_grad_()
        (expected,) = torch.autograd.grad(2 * net[:2](one)[0, 3].mean() - net(one)[0, 1, 0, 0], one)
        torch.testing.assert_close(found[n : n + 1], expected)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (7, 4)])
@pytest.mark.parametrize("bands", [1, 3])
def test_fourier_pictures_are_sums_of_waves(size: tuple[int, int], bands: int) -> None:
    height, width = size
    image = Fourier(bands, height, width, decay=1.5, spread=1.0)
    numbers = image.begin(DRAWS)
    waves = torch.zeros(3, bands, height, width, dtype=torch.float64)
    for ky in range(height):
        for kx in range(width // 2 + 1):
            frequency = math.hypot(min(ky, height - ky) / height, kx / width)
            scale = 1 / max(frequency, 1 / max(height, width)) ** 1.5
            twice = 1 if kx == 0 or 2 * kx == width else 2
            real, imaginary = numbers[:, :, ky, kx].double().unbind(-1)
            for y in range(height):
                for x in range(width):
                    angle = 2 * math.pi * (ky * y / height + kx * x / width)
                    wave = real * math.cos(angle) - imaginary * math.sin(angle)
                    waves[:, :, y, x] += twice * scale * wave / math.sqrt(height * width)
    axes = colour_axes(bands)
    colours = waves / 4 if axes is None else torch.einsum("ba,nayx->nbyx", axes.double(), waves / 4)
    torch.testing.assert_close(image.picture(numbers), torch.sigmoid(colours).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_fourier_numbers_of_a_picture_give_it_back(size: tuple[int, int]) -> None:
    image = Fourier(3, *size)
    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
    torch.testing.assert_close(image.picture(image.numbers(picture)), picture, rtol=1e-3, atol=1e-4)


def test_frequencies_count_cycles_a_pixel() -> None:
    found = frequencies(4, 6)
    assert found.shape == (4, 4)
    assert found[0].tolist() == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6])
    assert found[:, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.25])


def test_colours_are_mixed_and_unmixed() -> None:
    axes = colour_axes(3)
    assert axes is not None
    assert colour_axes(1) is colour_axes(4) is None
    assert max(math.sqrt(sum(float(v) ** 2 for v in column)) for column in axes.T) == pytest.approx(1)
    values = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(unmixed(mixed(values, axes), axes), values, rtol=1e-4, atol=1e-4)
    assert mixed(values, None) is values


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 5)])
def test_phases_keep_the_magnitudes_whatever_they_are(size: tuple[int, int]) -> None:
    height, width = size
    generator = torch.Generator().manual_seed(3)
    magnitude = torch.rand(3, height, width // 2 + 1, generator=generator) + 0.1
    # A real picture has the same magnitude at both of two mirrored frequencies.
    for column in [0, width // 2] if width % 2 == 0 else [0]:
        magnitude[:, :, column] = (magnitude[:, :, column] + magnitude[:, -torch.arange(height), column]) / 2
    magnitude[:, 0, 0] = 0
    image = Phases(magnitude, width, contrast=0.7)
    waves = image.waves(image.begin(DRAWS) * 3)
    torch.testing.assert_close(waves.square().mean((1, 2, 3)).sqrt(), torch.full((3,), 0.7))
    found = torch.fft.rfft2(waves).abs()
    ratio = (found / magnitude).nan_to_num(0)[:, :, 1:, 1:]
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, magnitude * ratio[:, :1, :1, :1], rtol=1e-3, atol=1e-3)


def test_pictures_begin_with_their_own_noise() -> None:
    for image in (Pixels(3, 8, 8), Fourier(3, 8, 8), Phases(torch.ones(3, 8, 5), 8)):
        three, last = image.begin(DRAWS), image.begin(DRAWS[2:])
        torch.testing.assert_close(three[2:], last, rtol=0, atol=0)
        assert not torch.equal(three[0], three[1])
        other = image.begin([Draw(1, "picture 2"), Draw(0, "picture 2", attempt=1)])
        assert not torch.equal(other[0], last[0])
        assert not torch.equal(other[1], last[0])
        pixels = image.picture(three)
        assert pixels.shape == (3, 3, 8, 8)
        assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1


def slow_look(picture: np.ndarray, chosen: tuple[float, ...], window: tuple[int, int]) -> np.ndarray:
    """Sample a picture (y, x) bilinearly, pixel by pixel, with mid-grey around it."""
    height, width = picture.shape
    a, b, dx, c, d, dy = chosen
    out = np.zeros(window)

    def at(y: int, x: int) -> float:
        return float(picture[y, x]) if 0 <= y < height and 0 <= x < width else 0.5

    for v in range(window[0]):
        for u in range(window[1]):
            right, down = u - (window[1] - 1) / 2, v - (window[0] - 1) / 2
            x = a * right + b * down + dx + (width - 1) / 2
            y = c * right + d * down + dy + (height - 1) / 2
            x0, y0 = math.floor(x), math.floor(y)
            fx, fy = x - x0, y - y0
            out[v, u] = (at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx) * (1 - fy) + (
                at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx
            ) * fy
    return out


@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_transforms_look_at_the_picture_as_the_slow_loop_does(size: tuple[int, int]) -> None:
    transforms = Transforms(pad=3, jitter=2, scale=(0.7, 1.4), rotate=30, jitter_after=2)
    pictures = torch.rand(2, 2, *size, generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(5)
    maps = [transforms.draw(generator) for _ in range(2)]
    found = transforms.apply(pictures, maps)
    window = (size[0] + 2, size[1] + 2)
    assert found.shape == (2, 2, *window)
    for n in range(2):
        for band in range(2):
            expected = slow_look(pictures[n, band].numpy().astype(float), maps[n], window)
            np.testing.assert_allclose(found[n, band].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (12, 9)])
@pytest.mark.parametrize("scale", [(0.9, 1.1), (0.05, 0.3), (3.0, 9.0)])
def test_what_is_seen_and_its_way_back_are_torchs(size: tuple[int, int], scale: tuple[float, float]) -> None:
    """In float64 torch does it itself; places lie inside, on the border and far from the picture."""
    transforms = Transforms(pad=4, jitter=12, scale=scale, rotate=180, jitter_after=8)
    generator = torch.Generator().manual_seed(7)
    maps = [transforms.draw(generator) for _ in range(12)]
    pictures = torch.rand(12, 3, *size, generator=generator).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    found = []
    for kind in (torch.float32, torch.float64):
        given = pictures.to(kind).requires_grad_()
        looked = transforms.apply(given, maps)
        weights = torch.linspace(-1, 1, looked.numel(), dtype=kind).reshape(looked.shape)
        found.append((looked.detach(), torch.autograd.grad((looked * weights).sum(), given)[0]))
    for mine, other in zip(*found, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), other, rtol=1e-4, atol=2e-4)


def test_a_map_is_shift_scale_turn_and_shift_one_after_the_other() -> None:
    generator = torch.Generator().manual_seed(6)
    transforms = Transforms(jitter=6, scale=(0.8, 1.2), rotate=25, jitter_after=4)
    seen = set()
    for _ in range(20):
        state = generator.get_state()
        a, b, dx, c, d, dy = transforms.draw(generator)
        again = torch.Generator()
        again.set_state(state)
        first = [int(torch.randint(0, 7, (), generator=again)) - 3 for _ in "xy"]
        scale = 0.8 + 0.4 * float(torch.rand((), generator=again))
        angle = math.radians(25) * (2 * float(torch.rand((), generator=again)) - 1)
        last = [int(torch.randint(0, 5, (), generator=again)) - 2 for _ in "xy"]
        # A place in the picture, moved forwards, lies where the map finds it.
        x, y = 1.5, -2.25
        right, down = (x + first[0]) * scale, (y + first[1]) * scale
        right, down = right * math.cos(angle) - down * math.sin(angle), right * math.sin(angle) + down * math.cos(angle)
        right, down = right + last[0], down + last[1]
        assert a * right + b * down + dx == pytest.approx(x, abs=1e-5)
        assert c * right + d * down + dy == pytest.approx(y, abs=1e-5)
        seen.update(first)
    assert seen <= set(range(-3, 4))
    assert len(seen) > 4


def test_transforms_of_small_pictures_are_smaller() -> None:
    assert Transforms().for_size(128, 200) == Transforms()
    assert Transforms().for_size(32, 32) == Transforms(pad=1, jitter=2, jitter_after=0)
    # What the network sees is as large as the picture at any size, or as much larger as was asked for.
    assert all(Transforms().for_size(n, n).window(n, n) == (n, n) for n in range(4, 300))
    assert Transforms(pad=10).for_size(64, 64).window(64, 64) == (68, 68)
    assert Transforms().window(128, 128) == (128, 128)
    same = torch.rand(1, 3, 8, 8)
    assert Transforms.none().apply(same, [Transforms.none().draw(torch.Generator())]) is same


@pytest.mark.parametrize(
    ("side", "own", "expected"),
    [
        (128, 224, (128, 160, 192, 224)),
        (128, 299, (128, 160, 192, 224)),
        (96, 224, (96, 128, 160)),
        (100, 150, (100, 128)),
        (128, 128, ()),
        (224, 224, ()),
        (224, 128, ()),
        (32, 32, ()),
        (16, 32, ()),
        (128, 0, ()),
    ],
)
def test_pictures_are_seen_from_their_own_size_up_to_the_models(side: int, own: int, expected: tuple[int, ...]) -> None:
    assert Transforms().settled(side, own).views == expected
    assert Transforms.none().settled(side, own).views == ()
    assert Transforms(views=(8,)).settled(side, own).views == (8,)


def test_sides_at_which_pictures_are_seen_take_turns() -> None:
    some = Transforms(views=(16, 24, 12))
    assert [some.zoom(step, 16, 20) for step in range(4)] == [1.0, 1.5, 0.75, 1.0]
    assert Transforms(views=()).zoom(5, 16, 20) == 1.0
    assert Transforms.none().window(16, 20, 1.5) == (24, 30)


@pytest.mark.parametrize("zoom", [1.5, 2.0, 0.5])
def test_enlarged_windows_are_the_slow_loops_and_torchs(zoom: float) -> None:
    transforms = Transforms(pad=3, jitter=2, scale=(0.7, 1.4), rotate=30, jitter_after=4)
    picture = torch.rand(1, 2, 12, 16, generator=torch.Generator().manual_seed(4))
    plain, larger = (transforms.draw(torch.Generator().manual_seed(5), z) for z in (1.0, zoom))
    # What lies a pixel from the middle of the window as it is lies `zoom` pixels from it in the enlarged one.
    for right, down in ((0.0, 0.0), (1.0, 0.0), (-2.0, 3.5)):
        for row in (0, 3):
            first, second = (
                m[row] * right * z + m[row + 1] * down * z + m[row + 2] for m, z in ((plain, 1), (larger, zoom))
            )
            assert first == pytest.approx(second)
    found = transforms.apply(picture, [larger], zoom)
    window = (round(12 * zoom), round(16 * zoom))
    for band in range(2):
        expected = slow_look(picture[0, band].numpy().astype(float), larger, window)
        np.testing.assert_allclose(found[0, band].numpy(), expected, atol=1e-4)
    still = Transforms.none()
    seen = still.apply(picture, [still.draw(torch.Generator(), zoom)], zoom)
    expected = torch.nn.functional.interpolate(picture, window, mode="bilinear", align_corners=False)
    inner = np.s_[..., 2:-2, 2:-2]  # beyond its edge a picture is grey, and not its own last pixel
    torch.testing.assert_close(seen[inner], expected[inner], rtol=1e-4, atol=1e-5)


def test_penalties_are_what_they_say() -> None:
    pictures = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(7))
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    for n, picture in enumerate(pictures.numpy().astype(float)):
        down, along = np.abs(np.diff(picture, axis=1)).mean(), np.abs(np.diff(picture, axis=2)).mean()
        blurred = np.zeros_like(picture)
        padded = np.pad(picture, ((0, 0), (2, 2), (2, 2)), mode="edge")
        for y in range(6):
            for x in range(5):
                blurred[:, y, x] = (padded[:, y : y + 5, x : x + 5] * kernel).sum((1, 2))
        assert total_variation(pictures)[n].item() == pytest.approx(down + along, rel=1e-5)
        assert l2_norm(pictures)[n].item() == pytest.approx(np.sqrt(((picture - 0.5) ** 2).mean()), rel=1e-5)
        assert blur_difference(pictures)[n].item() == pytest.approx(np.abs(picture - blurred).mean(), rel=1e-5)
    assert Penalties()(pictures) is None
    summed = Penalties(tv=2, l2=3, blur=4)(pictures)
    assert summed is not None
    expected = 2 * total_variation(pictures) + 3 * l2_norm(pictures) + 4 * blur_difference(pictures)
    torch.testing.assert_close(summed, expected)


def test_multi_scale_grows_from_33_pixels_by_a_fifth_20_times() -> None:
    settings = settings_for("multi-scale", (224, 224))
    sizes = settings.sizes()
    assert (settings.steps, settings.rate, len(sizes)) == (20, 0.2, 20)
    assert sizes[:4] == [(33, 33), (40, 40), (48, 48), (57, 57)]
    assert sizes[-1] == (round(33 * 1.2**19),) * 2
    assert settings.total_steps == 400


def test_defaults_and_numbers_that_cannot_be() -> None:
    usual = settings_for("fourier", (224, 224))
    assert (usual.height, usual.steps, usual.rate) == (128, 512, 0.05)
    assert settings_for("fourier", (32, 48)).sizes() == [(32, 48)]
    with pytest.raises(FmxError, match="no method 'fourrier': did you mean fourier"):
        settings_for("fourrier", (32, 32))
    with pytest.raises(FmxError, match="--steps takes a number of at least 1, not 0"):
        settings_for("fourier", (32, 32), steps=0)
    with pytest.raises(FmxError, match="--rate takes a number greater than 0"):
        settings_for("fourier", (32, 32), rate=float("nan"))


def test_the_spectrum_of_pictures_is_the_mean_of_their_magnitudes(tmp_path) -> None:
    rng = np.random.default_rng(8)
    pictures = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for i, pixels in enumerate(pictures):
        Picture.fromarray(pixels).save(tmp_path / f"{i}.png")
    found = spectrum_of_pictures(str(tmp_path), 3, 8, 8)
    axes = colour_axes(3)
    assert axes is not None
    line = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(8) / 8)
    total = np.zeros((3, 8, 5))
    for pixels in pictures:
        share = np.clip(pixels.transpose(2, 0, 1) / 255, 0.02, 0.98)
        waves = np.einsum("ab,byx->ayx", np.linalg.inv(axes.numpy()), np.log(share / (1 - share)))
        waves -= waves.mean((1, 2), keepdims=True)
        total += np.abs(np.fft.rfft2(waves * line[:, None] * line))
    total[:, 0, 0] = 0
    np.testing.assert_allclose(found.numpy(), total / total.mean(), rtol=1e-3, atol=1e-4)
    with pytest.raises(DataError, match="takes 6 channels"):
        spectrum_of_pictures(str(tmp_path), 6, 8, 8)
