"""Films: what comes out when they are decoded, and that there is either a whole file or none."""

from __future__ import annotations

import resource
import signal
import tracemalloc

import av
import numpy as np
import pytest
from PIL import Image

from fmx.errors import FmxError
from fmx.render import Frame
from fmx.render.video import VIDEO_SUFFIXES, VideoWriter, write_video

LOSSLESS = [".avi", ".apng"]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def noise_frames(rng, count=5, shape=(24, 33, 3)):
    return [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def smooth_frames(count=7, height=48, width=65):
    """A bright bar that moves to the right over a gradient: each frame is unlike every other."""
    y, x = np.mgrid[:height, :width]
    frames = []
    for i in range(count):
        frame = np.stack([x * 2, y * 3, np.full_like(x, 20 * i)], axis=-1).astype(np.uint8)
        frame[:, 8 * i : 8 * i + 8] = (250, 240, 230)
        frames.append(frame)
    return frames


def decode(path):
    """All frames as RGB, with when each is shown in seconds."""
    with av.open(str(path)) as container:
        return [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


class TestFormats:
    @pytest.mark.parametrize("suffix", LOSSLESS)
    @pytest.mark.parametrize("shape", [(24, 33, 3), (24, 33), (1, 1, 3), (5, 3)])
    def test_lossless_ones_give_every_value_back(self, tmp_path, rng, suffix, shape):
        frames = noise_frames(rng, shape=shape)
        decoded = decode(write_video(tmp_path / f"a{suffix}", frames))
        assert len(decoded) == len(frames)
        for (_, got), frame in zip(decoded, frames, strict=True):
            np.testing.assert_array_equal(got, Frame(frame).rgb())

    @pytest.mark.parametrize("suffix", [*LOSSLESS, ".gif"])
    def test_palettes_are_kept_exactly_and_may_change(self, tmp_path, rng, suffix):
        frames = [
            Frame(f[:, :, 0], palette=rng.integers(0, 256, (256, 3), dtype=np.uint8), labels={"channel": str(i)})
            for i, f in enumerate(noise_frames(rng))
        ]
        decoded = decode(write_video(tmp_path / f"a{suffix}", frames))
        assert len(decoded) == len(frames)
        for (_, got), frame in zip(decoded, frames, strict=True):
            np.testing.assert_array_equal(got, frame.rgb())

    def test_gif_keeps_up_to_256_colours_exactly(self, tmp_path, rng):
        frames = [rng.integers(0, 256, (200, 3), dtype=np.uint8)[rng.integers(0, 200, (24, 33))] for _ in range(3)]
        for (_, got), frame in zip(decode(write_video(tmp_path / "a.gif", frames)), frames, strict=True):
            np.testing.assert_array_equal(got, frame)

    def test_gif_keeps_its_colours_until_frames_are_not_made_of_them(self, tmp_path):
        y, x = np.mgrid[:90, :120]
        photo = np.stack([2 * x, y + x, 255 - 2 * y], axis=-1).astype(np.uint8)
        warm = np.stack([255 - y // 2, x, y // 3], axis=-1).astype(np.uint8)
        spot = np.roll(photo, 5, axis=1)
        spot[20:30, 20:30] = (255, 0, 200)
        frames = [photo, np.roll(photo, 5, axis=1), spot, warm, np.roll(warm, 7, axis=0)]
        path = write_video(tmp_path / "a.gif", frames)
        with av.open(str(path)) as container:
            palettes = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        for got, frame in zip(palettes, frames, strict=True):
            best = Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE).convert("RGB")
            least = np.abs(np.asarray(best).astype(int) - frame).mean()
            assert np.abs(got.astype(int) - frame).mean() <= 1.5 * least + 1
        assert np.abs(palettes[2][20:30, 20:30].astype(int) - (255, 0, 200)).max() <= 16
        # What is there most often is as it was: paper stays white.
        paper = np.full((90, 240, 3), 255, np.uint8)
        paper[:, :120], paper[5:9, 130:200] = photo, (252, 253, 254)
        (_, got), *_ = decode(write_video(tmp_path / "b.gif", [paper]))
        assert (got[20:, 130:] == 255).all()
        # The very same colours, moved: none of them flickers.
        assert (np.roll(palettes[0], 5, axis=1) == palettes[1]).all()

    @pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
    def test_number_size_order_time_and_colours(self, tmp_path, suffix):
        frames = smooth_frames()
        decoded = decode(write_video(tmp_path / f"a{suffix}", frames, fps=4))
        assert [time for time, _ in decoded] == pytest.approx([i / 4 for i in range(len(frames))], abs=0.002)
        width = 66 if suffix == ".mp4" else 65
        assert all(got.shape == (48, width, 3) for _, got in decoded)
        for i, (_, got) in enumerate(decoded):
            off = [np.abs(got[:, :65].astype(int) - f).mean() for f in frames]
            assert int(np.argmin(off)) == i
            assert off[i] < 6

    def test_mp4_repeats_the_last_column_and_row_of_odd_sizes(self, tmp_path):
        frames = [np.full((5, 7, 3), (200, 60, 20), dtype=np.uint8)] * 3
        for _, got in decode(write_video(tmp_path / "a.mp4", frames)):
            assert got.shape == (6, 8, 3)
            assert np.abs(got.astype(int) - frames[0][0, 0]).max() <= 4

    @pytest.mark.parametrize("suffix", [".mp4", ".webm"])
    @pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 0, 255)])
    def test_the_ends_of_the_range_and_pure_colours_hold(self, tmp_path, suffix, colour):
        frames = [np.full((16, 16, 3), colour, dtype=np.uint8)] * 2
        for _, got in decode(write_video(tmp_path / f"a{suffix}", frames)):
            assert np.abs(got.astype(int) - colour).max() <= 4

    def test_gray_after_colours_and_frames_that_are_no_block_of_memory(self, tmp_path, rng):
        colour, gray = noise_frames(rng, 1)[0], noise_frames(rng, 1, (66, 48))[0][::2, ::2].T[:24, :33]
        decoded = decode(write_video(tmp_path / "a.avi", [colour, gray]))
        np.testing.assert_array_equal(decoded[0][1], colour)
        np.testing.assert_array_equal(decoded[1][1], Frame(gray).rgb())

    @pytest.mark.parametrize("suffix", [".gif", ".apng"])
    def test_animations_repeat_and_open_in_pillow(self, tmp_path, suffix):
        with Image.open(write_video(tmp_path / f"a{suffix}", smooth_frames(), fps=5)) as animation:
            assert animation.n_frames == 7
            assert animation.info["loop"] == 0
            animation.seek(1)
            assert animation.info["duration"] == 200

    @pytest.mark.parametrize("suffix", LOSSLESS)
    def test_gray_of_16_bits_is_kept(self, tmp_path, rng, suffix):
        frames = [rng.integers(0, 2**16, (24, 33), dtype=np.uint16) for _ in range(3)]
        with av.open(str(write_video(tmp_path / f"a{suffix}", frames))) as container:
            decoded = [f.to_ndarray(format="gray16le") for f in container.decode(video=0)]
        np.testing.assert_array_equal(decoded, frames)

    def test_gray_of_16_bits_shows_its_upper_8_elsewhere(self, tmp_path, rng):
        deep = rng.integers(0, 2**16, (24, 33), dtype=np.uint16)
        ((_, got),) = decode(write_video(tmp_path / "a.gif", [deep]))
        np.testing.assert_array_equal(got, Frame(deep).rgb())
        after_colour = decode(write_video(tmp_path / "a.avi", [*noise_frames(rng, 1), deep]))
        np.testing.assert_array_equal(after_colour[1][1], Frame(deep).rgb())

    @pytest.mark.parametrize("suffix", LOSSLESS)
    def test_gray_is_kept_as_gray(self, tmp_path, rng, suffix):
        with av.open(str(write_video(tmp_path / f"a{suffix}", noise_frames(rng, shape=(24, 33))))) as container:
            assert container.streams.video[0].pix_fmt == "gray"


class TestWholeOrNone:
    def test_frames_are_taken_one_at_a_time(self, tmp_path, rng):
        with VideoWriter(tmp_path / "a.avi") as film:
            for wanted, frame in enumerate(noise_frames(rng), start=1):
                film.add(frame)
                assert film.frames == wanted
            assert not film.path.exists()
        assert film.path.exists()

    @pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
    def test_memory_does_not_grow_with_the_number_of_frames(self, tmp_path, suffix):
        def peak(count):
            tracemalloc.start()
            write_video(tmp_path / f"{count}{suffix}", (np.full((64, 64, 3), i % 256, np.uint8) for i in range(count)))
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

        peak(3)
        assert peak(300) < peak(30) + 3 * 64 * 64 * 3

    @pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
    def test_an_interrupted_generator_leaves_no_file(self, tmp_path, rng, suffix):
        def frames():
            yield from noise_frames(rng)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_video(tmp_path / f"a{suffix}", frames())
        assert not list(tmp_path.iterdir())

    def test_errors_of_the_generator_come_through(self, tmp_path, rng):
        def frames():
            yield from noise_frames(rng)
            raise FileNotFoundError("a chunk")

        with pytest.raises(FileNotFoundError, match="a chunk"):
            write_video(tmp_path / "a.avi", frames())
        assert not list(tmp_path.iterdir())

    def test_what_was_there_stays_when_the_new_one_fails(self, tmp_path, rng):
        path = write_video(tmp_path / "a.avi", noise_frames(rng))
        before = path.read_bytes()
        with pytest.raises(FmxError, match="need one size"):
            write_video(path, [*noise_frames(rng), np.zeros((3, 3), np.uint8)], overwrite=True)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
    @pytest.mark.parametrize("missing", [1, 2000])
    def test_a_disk_that_fills_leaves_none(self, tmp_path, rng, suffix, missing):
        """The system refuses writes from a certain size on, down to the last byte of the file."""
        frames = noise_frames(rng, 12)
        size = write_video(tmp_path / f"whole{suffix}", frames).stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, hard))
            with pytest.raises(FmxError, match=r"can't be written: File too large\.$"):
                write_video(tmp_path / f"a{suffix}", frames)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert [p.name for p in tmp_path.iterdir()] == [f"whole{suffix}"]


class TestErrors:
    @pytest.mark.parametrize("name", ["a.mov", "a", "a.png"])
    def test_unknown_suffixes_list_the_formats(self, tmp_path, name):
        with pytest.raises(FmxError, match=r"end its name in \.avi, \.mp4, \.webm, \.gif, \.apng\."):
            write_video(tmp_path / name, [])

    def test_an_existing_file_is_kept(self, tmp_path, rng):
        path = write_video(tmp_path / "new" / "a.AVI", noise_frames(rng))
        with pytest.raises(FmxError, match="is there already: give another name, or --overwrite"):
            write_video(path, noise_frames(rng))
        assert len(decode(write_video(path, noise_frames(rng, 2), overwrite=True))) == 2

    def test_no_frames(self, tmp_path):
        with pytest.raises(FmxError, match="there are no frames"):
            write_video(tmp_path / "a.mp4", [])
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
    def test_frames_of_another_size(self, tmp_path, rng, suffix):
        frames = [*noise_frames(rng, 2), np.zeros((24, 34, 3), np.uint8)]
        with pytest.raises(FmxError, match=r"Frame 2 of a.* is 34×24 pixels, those before it are 33×24"):
            write_video(tmp_path / f"a{suffix}", frames)
        assert not list(tmp_path.iterdir())

    def test_gray_of_another_depth(self, tmp_path):
        with pytest.raises(FmxError, match=r"Frame 1 of a.apng is gray of 16 bits, those before it are gray of 8 bits"):
            write_video(tmp_path / "a.apng", [np.zeros((24, 33), np.uint8), np.zeros((24, 33), np.uint16)])

    def test_colours_after_gray(self, tmp_path, rng):
        with pytest.raises(
            FmxError, match=r"Frame 1 of a.avi is in colour, those before it are gray of 8 bits: give all of them alike"
        ):
            write_video(tmp_path / "a.avi", [np.zeros((24, 33), np.uint8), *noise_frames(rng, 1)])

    @pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1001])
    def test_frame_rates(self, tmp_path, fps):
        with pytest.raises(FmxError, match=r"0.01 to 1000 frames a second"):
            write_video(tmp_path / "a.mp4", [], fps=fps)
        with pytest.raises(FmxError, match=r"0.01 to 50 frames a second, not 60"):
            write_video(tmp_path / "a.gif", [], fps=60)

    def test_arrays_that_are_no_pictures(self, tmp_path):
        with pytest.raises(FmxError, match="A frame needs uint8 pixels"):
            write_video(tmp_path / "a.mp4", [np.zeros((4, 4), np.float32)])
        assert not list(tmp_path.iterdir())

    def test_a_place_that_is_no_folder(self, tmp_path, rng):
        (tmp_path / "file").write_text("")
        with pytest.raises(FmxError, match=r"a\.avi can't be written: (File exists|Not a directory)"):
            write_video(tmp_path / "file" / "a.avi", noise_frames(rng))
