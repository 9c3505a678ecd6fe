"""The feed: every position of every unit once, each as a slow loop over samples makes it, whatever the batch size."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from fmx.data import ArraySource, Perturbation, Preprocess, Sample, Source, open_source, perturbation
from fmx.errors import DataError
from fmx.extraction.feed import Feed

COUNT = 7
PREPARE = Preprocess(resize=12, crop=(10, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), source="a test")
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 14, 16, 3), dtype=np.uint8)
NUMBERS = np.random.default_rng(1).normal(size=(COUNT, 4, 3, 5, 6)).astype(np.float32)


class Pictures(Source):
    """Pictures, or clips of them, that watch how often they are read."""

    pictures = True

    def __init__(self, timesteps):
        super().__init__([Sample(f"{i}.png", f"/data/{i}.png") for i in range(COUNT)])
        self.timesteps = timesteps
        self.reads = []

    def read(self, index):
        self.reads.append(index)
        if self.timesteps == 1:
            return Image.fromarray(PIXELS[index, 0])
        return PIXELS[index, : self.timesteps]


def units(*lengths):
    starts = np.cumsum([0, *lengths]).tolist()
    return [range(a, b) for a, b in pairwise(starts)]


def collect(feed, levels, rows):
    """Put batches together as {level: (position, …)} and check that each position comes once, in order."""
    found, pictures, at = {level: [] for level in range(levels)}, [], 0
    with feed:
        for fed in feed:
            assert fed.rows.start + fed.unit.start * rows == at
            found[fed.level].append(fed.values)
            assert (fed.pictures is not None) == (fed.level == 0 and feed.has_pictures)
            if fed.pictures is not None:
                assert len(fed.pictures) == fed.picture_rows.stop - fed.picture_rows.start
                pictures.append(fed.pictures)
            if fed.level == levels - 1:
                at += fed.rows.stop - fed.rows.start
    return {level: np.concatenate(parts) for level, parts in found.items()}, pictures


class Watched(Feed):
    """A feed that says whether it deals with pictures."""

    def __init__(self, source, preprocess, **settled):
        super().__init__(source, preprocess, **settled)
        self.has_pictures = preprocess is not None


SETTINGS = st.fixed_dictionaries(
    {
        "timesteps": st.sampled_from([1, 3, 4]),
        "batch": st.integers(1, 40),
        "lengths": st.sampled_from([(7,), (4, 3), (2, 2, 2, 1)]),
        "clip": st.booleans(),
    }
)


class TestPictures:
    @settings(deadline=None, max_examples=40)
    @given(SETTINGS, st.sampled_from(["gaussian", "patch", "jpeg"]), st.sampled_from(["CHW", "HWC"]))
    def test_against_a_loop_over_samples(self, case, kind, layout):
        timesteps, clip, levels = case["timesteps"], case["clip"], [0.0, 0.0 + (20 if kind == "jpeg" else 0.3)]
        source, change = Pictures(timesteps), perturbation(kind)
        prepare = Preprocess.from_settings(PREPARE.settings() | {"layout": layout})
        feed = Watched(
            source, prepare, units=units(*case["lengths"]), batch_size=case["batch"], noise=levels, seed=5,
            perturbation=change, clip=clip,
        )  # fmt: skip
        found, pictures = collect(feed, 2, 1 if clip else timesteps)
        assert sorted(source.reads) == list(range(COUNT))
        expected = [
            [frame_by_loop(prepare, change, i, t, level) for i in range(COUNT) for t in range(timesteps)]
            for level in levels
        ]
        for level in range(2):
            values = np.stack(expected[level])
            if clip:
                time = 2 if layout == "CHW" else 1
                values = np.moveaxis(values.reshape(COUNT, timesteps, *values.shape[1:]), 1, time)
            np.testing.assert_array_equal(found[level], values)
        seen = np.concatenate(pictures)
        assert seen.shape == (COUNT * timesteps, 10, 8, 3)
        np.testing.assert_array_equal(seen[timesteps], prepare.picture(Image.fromarray(PIXELS[1, 0])))

    @pytest.mark.parametrize("layout", ["CTHW", "TCHW", "THWC"])
    def test_axes_of_clips(self, layout):
        prepare = Preprocess.from_settings(PREPARE.settings() | {"layout": layout})
        feed = Watched(Pictures(4), prepare, units=units(7), batch_size=3, noise=[0.0], seed=0, clip=True)
        found, _ = collect(feed, 1, 1)
        sizes = {"C": 3, "T": 4, "H": 10, "W": 8}
        assert found[0].shape == (COUNT, *(sizes[axis] for axis in layout))
        frame = np.take(found[0][2], 3, axis=layout.index("T"))
        np.testing.assert_array_equal(frame, frame_by_loop(prepare, perturbation(), 2, 3, 0.0))

    def test_noise_in_the_models_input(self):
        change = perturbation("gaussian", "input")
        feed = Watched(
            Pictures(1), PREPARE, units=units(7), batch_size=4, noise=[0.0, 0.5], seed=2, perturbation=change
        )
        found, _ = collect(feed, 2, 1)
        clean = PREPARE.numbers(PREPARE.picture(Image.fromarray(PIXELS[3, 0])))
        np.testing.assert_array_equal(found[0][3], clean)
        noisy = change.numbers(clean, 0.5, seed=2, sample="3.png", timestep=0)
        np.testing.assert_array_equal(found[1][3], noisy)

    def test_arrays_of_pictures(self):
        for source in (ArraySource(PIXELS[:, 0], "array"), ArraySource(PIXELS[:, 0].transpose(0, 3, 1, 2), "array")):
            feed = Watched(source, PREPARE, units=units(7), batch_size=4, noise=[0.0], seed=0)
            found, _ = collect(feed, 1, 1)
            np.testing.assert_array_equal(found[0][5], frame_by_loop(PREPARE, perturbation(), 5, 0, 0.0))
        clips = ArraySource(PIXELS, "array", clips=True)
        found, _ = collect(Watched(clips, PREPARE, units=units(7), batch_size=3, noise=[0.0], seed=0), 1, 4)
        np.testing.assert_array_equal(found[0][4 * 5 + 2], frame_by_loop(PREPARE, perturbation(), 5, 2, 0.0))
        feed = Feed(ArraySource(NUMBERS[:, 0], "array"), PREPARE, units=units(7), batch_size=3, noise=[0], seed=0)
        with feed, pytest.raises(DataError, match="only uint8 pictures"):
            next(iter(feed))

    def test_pictures_of_a_data_set(self):
        items = [(Image.fromarray(PIXELS[i, 0]), i) for i in range(COUNT)]
        for data in (items, DataLoader(items, batch_size=2, collate_fn=list)):
            source = open_source(data)
            found, _ = collect(Watched(source, PREPARE, units=units(4, 3), batch_size=3, noise=[0.0], seed=0), 1, 1)
            np.testing.assert_array_equal(found[0][6], frame_by_loop(PREPARE, perturbation(), 6, 0, 0.0))
            assert [s.label for s in source.samples] == [str(i) for i in range(COUNT)]


def frame_by_loop(prepare: Preprocess, change: Perturbation, sample: int, timestep: int, level: float):
    pixels = prepare.picture(Image.fromarray(PIXELS[sample, timestep]))
    values = change.picture(pixels, level, seed=5, sample=f"{sample}.png", timestep=timestep)
    one = (values - np.float32(prepare.mean)) / np.float32(prepare.std)
    return one if prepare.layout[-1] == "C" else one.transpose(2, 0, 1)


class TestArrays:
    @settings(deadline=None, max_examples=30)
    @given(SETTINGS, st.sampled_from(["gaussian", "salt-and-pepper"]))
    def test_against_a_loop_over_samples(self, case, kind):
        timesteps, clip, change = case["timesteps"], case["clip"], perturbation(kind)
        data = NUMBERS[:, 0] if timesteps == 1 else NUMBERS[:, :timesteps]
        source = ArraySource(data, "array", clips=timesteps > 1)
        feed = Watched(
            source, None, units=units(*case["lengths"]), batch_size=case["batch"], noise=[0.0, 0.3], seed=5,
            perturbation=change, clip=clip,
        )  # fmt: skip
        found, _ = collect(feed, 2, 1 if clip else timesteps)
        clean = data.swapaxes(1, 2) if clip and timesteps > 1 else data
        keys = [(i, 0) for i in range(COUNT)]
        if timesteps > 1 and not clip:
            clean = data.reshape(-1, *data.shape[2:])
            keys = [(i, t) for i in range(COUNT) for t in range(timesteps)]
        np.testing.assert_array_equal(found[0], clean)
        for row, (sample, timestep) in enumerate(keys):
            noisy = change.numbers(clean[row], 0.3, seed=5, sample=str(sample), timestep=timestep)
            np.testing.assert_array_equal(found[1][row], noisy)

    def test_each_batch_has_memory_of_its_own(self):
        """Models may work in place on what they are given."""
        kept = NUMBERS.copy()
        with Feed(ArraySource(NUMBERS, "array"), None, units=units(7), batch_size=3, noise=[0.0, 0.5], seed=0) as feed:
            for fed in feed:
                assert not np.shares_memory(fed.values, NUMBERS)
                if fed.level:
                    assert abs(fed.values).max() < 50
                fed.values[...] = 100
        np.testing.assert_array_equal(NUMBERS, kept)

    def test_inputs_by_name(self):
        tokens = np.arange(COUNT * 2).reshape(COUNT, 2)
        source = open_source({"x": NUMBERS[:, 0], "z": NUMBERS[:, 0], "tokens": tokens})
        with Feed(source, None, units=units(4, 3), batch_size=4, noise=[0.0, 0.5], seed=1) as feed:
            batches = list(feed)
        clean, noisy = (
            {k: np.concatenate([b.values[k] for b in batches if b.level == n]) for k in "xz"} for n in (0, 1)
        )
        np.testing.assert_array_equal(clean["x"], NUMBERS[:, 0])
        assert all(np.array_equal(b.values["tokens"], tokens[b.unit.start : b.unit.stop]) for b in batches)
        drawn = {k: noisy[k] - clean[k] for k in "xz"}
        assert drawn["x"].std() == pytest.approx(0.5, abs=0.05)
        assert abs(np.corrcoef(drawn["x"].ravel(), drawn["z"].ravel())[0, 1]) < 0.15

    def test_noise_on_tokens_alone_is_refused(self):
        source = open_source({"tokens": np.arange(6).reshape(3, 2), "more": np.arange(3)})
        feed = Feed(source, None, units=[range(3)], batch_size=3, noise=[0.0, 0.5], seed=1)
        with feed, pytest.raises(DataError, match="tokens, more hold whole numbers only"):
            list(feed)

    def test_kinds_for_pictures_are_refused_at_once(self):
        with pytest.raises(DataError, match="blur needs pictures"):
            Feed(
                ArraySource(NUMBERS, "a"), None, units=units(7), batch_size=3, noise=[0.0, 1.0], seed=0,
                perturbation=perturbation("blur"),
            )  # fmt: skip

    def test_streams_are_read_in_order_and_units_that_are_done_are_passed_over(self):
        source = open_source(DataLoader(list(zip(NUMBERS[:, 0], range(COUNT), strict=True)), batch_size=2))
        with Feed(source, None, units=units(2, 2, 3)[1:], batch_size=2, noise=[0.0], seed=0) as feed:
            found = np.concatenate([fed.values for fed in feed])
        np.testing.assert_array_equal(found, NUMBERS[2:, 0])
        assert [s.label for s in source.samples][2:] == ["2", "3", "4", "5", "6"]


class TestThreads:
    @staticmethod
    def ended():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and any(
            t.name.startswith(("fmx-feed", "fmx-read")) for t in threading.enumerate()
        ):
            time.sleep(0.02)
        return not [t.name for t in threading.enumerate() if t.name.startswith(("fmx-feed", "fmx-read"))]

    def test_they_end_when_the_rest_is_not_wanted(self):
        with Feed(Pictures(4), PREPARE, units=units(7), batch_size=1, noise=[0.0, 0.1], seed=0) as feed:
            next(iter(feed))
        assert self.ended()

    def test_a_failure_comes_to_the_one_who_iterates(self):
        class Broken(Pictures):
            def read(self, index):
                if index == 5:
                    raise DataError("5.png is broken.")
                return super().read(index)

        seen = []
        with pytest.raises(DataError, match=r"5\.png is broken"):  # noqa: SIM117
            with Feed(Broken(1), PREPARE, units=units(4, 3), batch_size=2, noise=[0.0], seed=0) as feed:
                seen.extend(fed.rows for fed in feed)
        assert seen == [slice(0, 2), slice(2, 4)]
        assert self.ended()

    @pytest.mark.parametrize("ahead", [1, 2, 4])
    def test_so_many_batches_wait_and_no_more(self, ahead):
        source = Pictures(1)
        with Feed(source, PREPARE, units=units(7), batch_size=1, noise=[0.0], seed=0, ahead=ahead) as feed:
            deadline = time.monotonic() + 60
            while len(source.reads) < min(ahead + 2, COUNT) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.2)
            # Those that wait, the one that is to be handed over, and the one that is read beside it.
            assert len(source.reads) == min(ahead + 2, COUNT)
            assert len(list(feed)) == COUNT
        assert feed.blocked > 0

    def test_who_waits_for_whom(self):
        class Slow(Pictures):
            def read(self, index):
                time.sleep(0.05)
                return super().read(index)

        with Feed(Slow(1), PREPARE, units=units(7), batch_size=1, noise=[0.0], seed=0) as feed:
            list(feed)
        assert feed.waited > feed.blocked
        with Feed(Pictures(1), PREPARE, units=units(7), batch_size=1, noise=[0.0], seed=0) as feed:
            for _ in feed:
                time.sleep(0.05)
        assert feed.blocked > feed.waited

    def test_memory_is_let_go(self):
        """No batch is kept by the feed once the next one was asked for."""
        import weakref

        with Feed(ArraySource(NUMBERS, "a"), None, units=units(7), batch_size=1, noise=[0.0], seed=0) as feed:
            gone = []
            for fed in feed:
                assert all(ref() is None for ref in gone)
                gone = [weakref.ref(fed.values)]
                del fed


@pytest.mark.real
def test_real_clips_frame_by_frame_and_whole(real):
    source = open_source(real / "video", frames=8, stride=4)
    prepare = Preprocess(resize=40, crop=(32, 32), source="a test")
    values = {}
    for clip in (False, True):
        feed = Watched(source, prepare, units=units(6, 4), batch_size=5, noise=[0.0], seed=0, clip=clip)
        values[clip], _ = collect(feed, 1, 1 if clip else 8)
    assert values[True][0].shape == (10, 3, 8, 32, 32)
    frames = values[True][0].swapaxes(1, 2).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(frames, values[False][0])
    alone = prepare.numbers(prepare.picture(Image.fromarray(source.read(9)[5])))
    np.testing.assert_array_equal(values[False][0][9 * 8 + 5], alone)
