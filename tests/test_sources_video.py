"""Videos: exactly the frames that decoding everything gives, cut into clips, and what is said about broken files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmx.data import ClipSource, Sample, open_source, readable
from fmx.data.sources.video import Decoder, index_video
from fmx.errors import DataError

FRAMES = 60
KINDS = {
    "a.mp4": ("mpeg4", "yuv420p", {"bf": "2"}),
    "a.mkv": ("ffv1", "bgr0", {}),
    "a.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "a.webm": ("libvpx", "yuv420p", {}),
    "a.mts": ("mpeg2video", "yuv420p", {"bf": "2"}),
    "a.mov": ("mjpeg", "yuvj420p", {}),
}


def picture(number, seed=0):
    """A frame that tells its number: blocks of random colour, and the number as grey in the corner."""
    blocks = np.random.default_rng([seed, number]).integers(0, 256, (4, 6, 3))
    frame = np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)
    frame[:8, :8] = number * 4
    return frame


def film(path, codec="ffv1", pixels="bgr0", options=None, frames=FRAMES, gop=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of an mp4 file the table of contents goes to the begin, where no truncation reaches it.
    about = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=about) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = picture(0).shape[:2]
        stream.pix_fmt, stream.options = pixels, options or {}
        stream.codec_context.gop_size = gop
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def everything(path):
    """The reference: decode all of it from the beginning."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {name: film(folder / name, *about) for name, about in KINDS.items()}


@pytest.fixture
def lossless(films):
    return films["a.mkv"]


class TestFrames:
    @pytest.mark.parametrize("name", KINDS)
    def test_index(self, films, name):
        index = index_video(str(films[name]))
        assert index.frames == FRAMES
        assert index.fps == pytest.approx(25)
        assert index.keys[0] == 0
        assert list(index.shown) == sorted(set(index.shown))

    @pytest.mark.parametrize("name", KINDS)
    def test_any_frames_in_any_order(self, films, name):
        """A reference that decodes everything against jumps forth and back."""
        expected = everything(films[name])
        decoder, rng = Decoder(index_video(str(films[name]))), np.random.default_rng(0)
        for _ in range(25):
            start, stride = rng.integers(0, FRAMES - 1), rng.integers(1, 20)
            positions = range(int(start), FRAMES, int(stride))[:5]
            np.testing.assert_array_equal(decoder.read(positions), np.stack([expected[n] for n in positions]))
        decoder.close()

    def test_frames_are_those_that_were_written(self, lossless):
        decoder = Decoder(index_video(str(lossless)))
        for number in (30, 31, 2, 59, 0, 12):
            np.testing.assert_array_equal(decoder.read([number])[0], picture(number))

    def test_a_file_that_does_not_say_when_frames_are_shown(self, films):
        path = films["a.mp4"]
        index = replace(index_video(str(path)), shown=(), keys=(0,))
        decoder, expected = Decoder(index), everything(path)
        for positions in ([5, 9], [3], [40, 41], [0]):
            np.testing.assert_array_equal(decoder.read(positions), np.stack([expected[n] for n in positions]))

    def test_decoding_begins_at_the_nearest_keyframe(self, films, monkeypatch):
        decoded = []
        real = Decoder._decode

        def counting(self, start):
            for position, frame in real(self, start):
                decoded.append(position)
                yield position, frame

        monkeypatch.setattr(Decoder, "_decode", counting)
        decoder = Decoder(index_video(str(films["a.mp4"])))
        key = max(k for k in decoder.index.keys if k <= 50)
        decoder.read([50])
        assert min(decoded) >= max(k for k in decoder.index.keys if k < key)
        decoded.clear()
        decoder.read([51, 52])
        assert decoded == [51, 52]

    @pytest.mark.parametrize(("turn", "quarters"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
    def test_turned_videos_are_put_upright(self, tmp_path, turn, quarters):
        """Phones write how to turn the picture into the track header of an mp4 file."""
        path = film(tmp_path / "a.mp4", "mpeg4", "yuv420p", frames=3)
        plain = everything(path)
        data = bytearray(path.read_bytes())
        matrix = data.index(b"tkhd") + 4 + 40
        a, b, c, d = (value << 16 for value in turn)
        for place, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):
            data[matrix + place : matrix + place + 4] = value.to_bytes(4, "big", signed=True)
        path.write_bytes(data)
        read = Decoder(index_video(str(path))).read([0])[0]
        np.testing.assert_array_equal(read, np.rot90(plain[0], quarters))


class TestClips:
    def test_consecutive_clips_without_overlap(self, lossless):
        source = open_source(lossless, frames=8)
        assert isinstance(source, ClipSource)
        assert [s.id for s in source.samples] == [f"a.mkv#{k}" for k in range(7)]
        assert [s.start for s in source.samples] == [0, 8, 16, 24, 32, 40, 48]
        assert (source.timesteps, source.pictures) == (8, True)
        assert source.attributes == {"frames": 8, "stride": 1, "fps": 25.0}
        assert "last frames of 1 of 1 videos make no whole clip of 8" in source.notes[0]
        for i in (6, 0, 3):
            clip = source.read(i)
            assert (clip.shape, clip.dtype) == ((8, 32, 48, 3), np.uint8)
            np.testing.assert_array_equal(clip, np.stack([picture(n) for n in source.positions(i)]))

    def test_16_frames_unless_told(self, lossless):
        source = open_source(lossless)
        assert (source.timesteps, len(source.samples)) == (16, 3)

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(1, 30), st.integers(1, 12))
    def test_cutting_against_the_rule(self, lossless, frames, stride):
        """A slow reference: go on taking clips as long as the video lasts."""
        expected, at = [], 0
        while at + (frames - 1) * stride < FRAMES:
            expected.append([at + k * stride for k in range(frames)])
            at += frames * stride
        if not expected:
            with pytest.raises(DataError, match=r"a\.mkv has 60 frames, too few for a clip"):
                open_source(lossless, frames=frames, stride=stride)
            return
        source = open_source(lossless, frames=frames, stride=stride)
        assert [list(source.positions(i)) for i in range(len(source.samples))] == expected
        assert bool(source.notes) == (at < FRAMES)

    def test_folders_of_videos_have_labels(self, tmp_path):
        film(tmp_path / "run" / "b.mkv", frames=9)
        film(tmp_path / "run" / "a.mkv", frames=8)
        film(tmp_path / "walk" / "a.avi", "mpeg4", "yuv420p", frames=4)
        source = open_source(tmp_path, frames=4)
        assert [(s.id, s.label) for s in source.samples] == [
            ("run/a.mkv#0", "run"),
            ("run/a.mkv#1", "run"),
            ("run/b.mkv#0", "run"),
            ("run/b.mkv#1", "run"),
            ("walk/a.avi#0", "walk"),
        ]
        assert source.runs(range(1, 5)) == [range(1, 2), range(2, 4), range(4, 5)]
        assert len(open_source(str(tmp_path / "run" / "*.mkv"), frames=4).samples) == 4

    def test_many_threads_read_the_same(self, films, tmp_path):
        paths = [films["a.mp4"], films["a.webm"], films["a.mkv"]]
        source = open_source(paths, frames=5)
        alone = [source.read(i) for i in range(len(source.samples))]
        order = np.random.default_rng(0).permutation(len(source.samples)).tolist() * 3
        with ThreadPoolExecutor(6) as pool:
            for i, clip in zip(order, pool.map(source.read, order), strict=True):
                np.testing.assert_array_equal(clip, alone[i])
        source.close()
        np.testing.assert_array_equal(source.read(3), alone[3])

    def test_few_files_stay_open(self, tmp_path):
        for i in range(20):
            film(tmp_path / f"{i:02}.mkv", frames=2)
        source = open_source(tmp_path, frames=2)
        for i in range(20):
            source.read(i)
        assert len(source._idle) <= 8
        source.close()
        assert not source._idle

    @pytest.mark.parametrize(("said", "option"), [({"frames": 0}, "--frames"), ({"stride": 0}, "--stride")])
    def test_mistakes(self, lossless, said, option):
        with pytest.raises(DataError, match=f"{option} is at least 1, not 0"):
            open_source(lossless, **said)

    def test_too_short(self, tmp_path):
        film(tmp_path / "short.mkv", frames=7)
        with pytest.raises(DataError, match=r"short\.mkv has 7 frames, too few for a clip of 16: give --frames 7"):
            open_source(tmp_path / "short.mkv")
        with pytest.raises(DataError, match=r"a clip of 4, every 3th,.*: give --frames 3"):
            open_source(tmp_path / "short.mkv", frames=4, stride=3)

    def test_pictures_and_videos_in_one_folder(self, tmp_path):
        from PIL import Image

        film(tmp_path / "a.mkv", frames=2)
        Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
        with pytest.raises(DataError, match=r"pictures \(b\.png, …\) and videos \(a\.mkv, …\): choose one kind"):
            open_source(tmp_path)


class TestBroken:
    @pytest.mark.parametrize("content", [b"", b"text", b"\0" * 5000, b"RIFF\0\0\0\0AVI LIST"])
    def test_what_is_no_video(self, tmp_path, content):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.mp4 can't be read"):
            open_source(tmp_path / "a.mp4")

    @pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\nsecret.mkv\n", "ffconcat version 1.0\nfile secret.mkv\n"])
    def test_playlists_open_no_other_files(self, tmp_path, text):
        film(tmp_path / "secret.mkv", frames=20)
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(DataError, match=r"a\.mp4 can't be read"):
            open_source(tmp_path / "a.mp4")

    def test_skipped_where_asked(self, tmp_path):
        film(tmp_path / "good.mkv", frames=20)
        film(tmp_path / "short.mkv", frames=3)
        (tmp_path / "bad.mp4").write_text("text")
        with pytest.raises(DataError, match=r"bad\.mp4"):
            open_source(tmp_path)
        source = open_source(tmp_path, on_error="skip")
        assert source.skipped == ["bad.mp4", "short.mkv"]
        assert [s.id for s in source.samples] == ["good.mkv#0"]
        assert readable(source)[1] == ["bad.mp4", "short.mkv"]
        (tmp_path / "good.mkv").unlink()
        with pytest.raises(DataError, match="None of the 2 videos"):
            open_source(tmp_path, on_error="skip")

    def test_what_is_missing_at_the_end_fails_by_name(self, tmp_path):
        """The table of contents still says how many frames there were."""
        path = film(tmp_path / "a.mp4", "mpeg4", "yuv420p", frames=40)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        source = open_source(path, frames=8)
        assert len(source.samples) == 5
        source.read(0)
        with pytest.raises(DataError, match=r"a\.mp4 can't be read"):
            source.read(4)
        kept, skipped = readable(source)
        assert [s.id for s in kept.samples] + skipped == [s.id for s in source.samples]
        assert "a.mp4#4" in skipped

    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.floats(0.1, 0.95), st.binary(min_size=1, max_size=400))
    def test_damaged_clips_are_right_or_named(self, films, tmp_path, where, junk):
        """No clip after a damaged place is handed over with wrong pixels that the decoder knew to be damaged."""
        whole = bytearray(films["a.mp4"].read_bytes())
        begin = whole.index(b"mdat") + 8
        start = begin + int((len(whole) - begin) * where * 0.8)
        whole[start : start + len(junk)] = junk
        (tmp_path / "a.mp4").write_bytes(whole)
        try:
            source = open_source(tmp_path / "a.mp4", frames=6)
        except DataError as error:
            assert "a.mp4" in str(error)
            return
        for i in range(len(source.samples)):
            try:
                assert source.read(i).shape == (6, 32, 48, 3)
            except DataError as error:
                assert "a.mp4" in str(error)

    def test_a_file_that_goes_away(self, tmp_path):
        path = film(tmp_path / "a.mkv", frames=20)
        source = open_source(path)
        path.unlink()
        with pytest.raises(DataError, match=r"a\.mkv can't be read: it is not there any more"):
            source.read(0)


def test_stamps_tell_changed_videos(tmp_path):
    for name in ("a", "b"):
        film(tmp_path / f"{name}.mkv", frames=20)
    before = open_source(tmp_path)
    stamps, signature = before.stamps(), before.signature()
    assert open_source(tmp_path).signature() == signature
    film(tmp_path / "b.mkv", frames=21)
    after = open_source(tmp_path)
    assert [a == b for a, b in zip(stamps, after.stamps(), strict=True)] == [True, False]
    assert after.signature() != signature
    assert open_source(tmp_path, frames=8).subset([0]).samples == [Sample("a.mkv#0", str(tmp_path / "a.mkv"))]


@pytest.mark.real
@pytest.mark.parametrize(("name", "frames"), [("bikes.mp4", 250), ("carphone_pristine.mp4", 120)])
def test_real_videos(real, name, frames):
    path = real / "video" / name
    expected = everything(path)
    assert len(expected) == frames
    source = open_source(path, frames=16, stride=2)
    assert len(source.samples) == (frames + 1) // 32
    for i in (len(source.samples) - 1, 0, 1):
        np.testing.assert_array_equal(source.read(i), np.stack(expected[32 * i : 32 * i + 32 : 2]))


@pytest.mark.real
def test_real_folder_of_videos(real):
    source = open_source(real / "video", frames=50)
    assert [s.id for s in source.samples] == [f"bikes.mp4#{k}" for k in range(5)] + [
        f"carphone_pristine.mp4#{k}" for k in range(2)
    ]
    assert source.attributes["fps"] == [25.0, 29.97]
