"""Appending: samples, layers and noise levels are added, what was there stays, and half an append is not to be seen."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.errors import StoreError
from fmx.layers import LayerInfo, native_dims
from fmx.store import (
    AppendWriter,
    StorePlan,
    UnitWriter,
    append_plan,
    create_store,
    finish_append,
    finish_store,
    open_store,
    pending_units,
    schema,
    unusual_values,
)
from fmx.store.places import FolderPlace

LAYERS = [
    LayerInfo("conv", "Conv2d", ("channel", "y", "x"), (5, 3, 4), "float32"),
    LayerInfo("tokens", "Linear", ("token", "channel"), (2, 7), "float16"),
    LayerInfo("fc", "Linear", ("channel",), (6,), "float32"),
]


def names(start, stop):
    return [f"s{i}" for i in range(start, stop)]


def a_plan(ids, layers=LAYERS, **changes):
    about = {"fingerprint": "f" * 64, "layers": [i.name for i in layers], "seed": 7}
    settings = {"noise": [0.0], "timesteps": 1, "picture": (2, 2, 3), "outputs": {"out": ((3,), "float32")}}
    return StorePlan(
        ids, [f"/{i}" for i in ids], ["c"] * len(ids), layers=layers, attributes=about, **(settings | changes)
    )


def value(key, sample, level, step, shape, dtype):
    """Give what the model makes of a sample: settled by names, wherever in the store they lie."""
    drawn = np.random.default_rng(zlib.crc32(repr((key, sample, level, step)).encode())).normal(size=shape)
    return (drawn * 100 % 256 if dtype == "uint8" else drawn).astype(dtype)


def rows(key, ids, level, steps, layers, plan, noise):
    """Give a block (sample·timestep, …native)."""
    shape, dtype = shape_of(key, layers, plan)
    levels = None if key == "inputs" else noise[level]
    return np.stack([value(key, s, levels, t, shape, dtype) for s in ids for t in range(steps)])


def shape_of(key, layers, plan):
    if key == "inputs":
        return plan.picture, "uint8"
    if key.startswith("outputs/"):
        return plan.outputs[key.partition("/")[2]]
    return next((i.shape, i.dtype) for i in layers if i.name == key)


def fill(writer, unit, parts, ids, noise, layers, plan, batch=2):
    """Put all parts of a unit, a few samples at a time."""
    writer.start_unit(unit)
    for samples, levels, keys in parts:
        for start in range(samples.start, samples.stop, batch):
            some = range(start, min(start + batch, samples.stop))
            at = slice((some.start - unit.start) * plan.timesteps, (some.stop - unit.start) * plan.timesteps)
            chosen = [ids[i] for i in some]
            for key in keys:
                if key == "inputs":
                    writer.put(key, at, rows(key, chosen, 0, plan.timesteps, layers, plan, noise))
                    continue
                for level in levels:
                    writer.put(key, at, rows(key, chosen, level, plan.timesteps, layers, plan, noise), noise=level)
    writer.finish_unit(unit)


def make(path, plan, batch=2):
    place = create_store(path, plan)
    every = tuple(range(len(plan.noise)))
    with UnitWriter(place) as writer:
        for unit in pending_units(place):
            parts = [(unit, every, tuple(writer.layout.arrays))]
            fill(writer, unit, parts, plan.samples, plan.noise, plan.layers, plan, batch)
    finish_store(place)


def append(path, plan, batch=2, most=None):
    """Append, at most so many units of it; gives whether it was finished."""
    settled = append_plan(path, plan)
    if settled.units:
        with AppendWriter(path) as writer:
            for unit in settled.units[:most]:
                parts = [(p.samples, p.levels, p.keys) for p in unit.parts]
                fill(writer, unit.unit, parts, settled.samples, settled.noise, LAYERS, plan, batch)
    if most is not None and most < len(settled.units):
        return False
    finish_append(path)
    return True


def check(path, ids, noise, layers, plan):
    """See that the store holds what the model makes of each sample."""
    store = open_store(path)
    assert store.samples == list(ids)
    assert store.complete.all()
    assert [i.name for i in store.layers] == [i.name for i in layers]
    assert store.tree["path"].values.tolist() == [f"/{i}" for i in ids]
    steps = range(plan.timesteps)
    for key in [*(i.name for i in layers), "outputs/out"]:
        found = store.tree[key] if key.startswith("outputs") else store.activation(key)
        assert found["noise"].values.tolist() == list(noise)
        shape, dtype = shape_of(key, layers, plan)
        wanted = [[[value(key, s, n, t, shape, dtype) for t in steps] for n in noise] for s in ids]
        np.testing.assert_array_equal(found.values, np.array(wanted, dtype))
    pictures = [[value("inputs", s, None, t, plan.picture, "uint8") for t in steps] for s in ids]
    np.testing.assert_array_equal(store.pictures.values, np.array(pictures))
    return store


class TestWhatIsAdded:
    @pytest.mark.parametrize("unit", [1, 4, 512])
    def test_samples(self, tmp_path, monkeypatch, unit):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", unit)
        make(tmp_path / "s", a_plan(names(0, 6), noise=[0.0, 0.5]))
        plan = a_plan(names(3, 9), noise=[0.0, 0.5])
        assert append(tmp_path / "s", plan)
        check(tmp_path / "s", names(0, 9), [0.0, 0.5], LAYERS, plan)
        xr.testing.assert_identical(
            xr.open_datatree(tmp_path / "s", engine="zarr", consolidated=True).load(),
            xr.open_datatree(tmp_path / "s", engine="zarr", consolidated=False).load(),
        )

    def test_layers_come_in_the_order_of_computation(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
        ids = names(0, 6)
        make(tmp_path / "s", a_plan(ids, [LAYERS[0], LAYERS[2]], noise=[0.0, 0.5]))
        settled = append_plan(tmp_path / "s", a_plan(ids))
        assert settled.layers == ["conv", "tokens", "fc"]
        assert [(u.unit, [(p.samples, p.levels, p.keys) for p in u.parts]) for u in settled.units] == [
            (range(0, 4), [(range(0, 4), (0, 1), ("tokens",))]),
            (range(4, 6), [(range(4, 6), (0, 1), ("tokens",))]),
        ]
        assert append(tmp_path / "s", a_plan(ids))
        check(tmp_path / "s", ids, [0.0, 0.5], LAYERS, a_plan(ids))

    def test_noise_levels_come_last(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
        ids = names(0, 6)
        make(tmp_path / "s", a_plan(ids, noise=[0.0, 0.5]))
        assert append(tmp_path / "s", a_plan(ids, noise=[0.0, 0.25]))
        check(tmp_path / "s", ids, [0.0, 0.5, 0.25], LAYERS, a_plan(ids))

    def test_nothing_new_is_nothing_to_do(self, tmp_path):
        make(tmp_path / "s", a_plan(names(0, 3)))
        before = contents(tmp_path / "s")
        assert append_plan(tmp_path / "s", a_plan(names(1, 3))).units == []
        finish_append(tmp_path / "s")
        assert contents(tmp_path / "s") == before

    def test_unusual_values_of_old_and_new_samples_are_counted_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
        layers = [LayerInfo("fc", "Linear", ("channel",), (2,), "float32")]
        about = {"picture": None, "outputs": {}, "dtype": "float16"}
        odd = np.array([[np.nan, 1e6], [np.inf, -1e6], [1, 2]], np.float32)
        place = create_store(tmp_path / "s", a_plan(names(0, 3), layers, **about))
        with UnitWriter(place) as writer:
            writer.start_unit(range(0, 3))
            writer.put("fc", slice(0, 3), odd, noise=0)
            writer.finish_unit(range(0, 3))
        finish_store(place)
        assert unusual_values(place) == {"fc": {"nan": 1, "inf": 3, "overflow": 2}}
        append_plan(place, a_plan(names(0, 6), layers, **about))
        with AppendWriter(place) as writer:
            for unit, at, block in ((range(0, 4), slice(3, 4), odd[:1]), (range(4, 6), slice(0, 2), odd[1:])):
                writer.start_unit(unit)
                writer.put("fc", at, block, noise=0)
                writer.finish_unit(unit)
        finish_append(place)
        assert unusual_values(place) == {"fc": {"nan": 2, "inf": 6, "overflow": 4}}

    def test_channels_that_are_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
        kept = {"channels": {"conv": [4, 1]}}
        make(tmp_path / "s", a_plan(names(0, 2), **kept))
        assert append(tmp_path / "s", a_plan(names(0, 5), **kept), batch=1)
        wanted = np.stack([value("conv", s, 0.0, 0, (5, 3, 4), "float32")[[4, 1]] for s in names(0, 5)])
        found = open_store(tmp_path / "s").activation("conv")
        np.testing.assert_array_equal(found.values[:, 0, 0], wanted)
        assert found["channel"].values.tolist() == [4, 1]


def contents(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


class TestInterrupted:
    def test_half_an_append_is_not_to_be_seen_and_goes_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
        old, new = a_plan(names(0, 6), LAYERS[:2]), a_plan(names(0, 11), noise=[0.0, 0.5])
        make(tmp_path / "whole", old)
        assert append(tmp_path / "whole", new)
        make(tmp_path / "s", old)
        for most in (0, 1, 1):
            assert not append(tmp_path / "s", new, most=most)
            check(tmp_path / "s", names(0, 6), [0.0], LAYERS[:2], old)
        assert len(append_plan(tmp_path / "s", new).units) == 1
        assert append(tmp_path / "s", new)
        check(tmp_path / "s", names(0, 11), [0.0, 0.5], LAYERS, new)
        assert contents(tmp_path / "s") == contents(tmp_path / "whole")

    def test_every_write_may_be_the_last(self, tmp_path, monkeypatch):
        """The process ends before any one of the writes and deletions: the same command brings the same store."""
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        old, new = a_plan(names(0, 3), LAYERS[2:]), a_plan(names(0, 4), LAYERS[1:], noise=[0.0, 0.5])
        make(tmp_path / "old", old)
        shutil.copytree(tmp_path / "old", tmp_path / "whole")
        assert append(tmp_path / "whole", new)
        wanted = contents(tmp_path / "whole")

        class Ended(Exception):
            pass

        for steps in range(0, 1000, 4):
            shutil.rmtree(tmp_path / "s", ignore_errors=True)
            shutil.copytree(tmp_path / "old", tmp_path / "s")
            left = steps

            def spend(real):
                def call(self, name, *rest):
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise Ended
                    return real(self, name, *rest)

                return call

            with monkeypatch.context() as patch:
                patch.setattr(FolderPlace, "_name", spend(FolderPlace._name))
                patch.setattr(FolderPlace, "delete_below", spend(FolderPlace.delete_below))
                try:
                    append(tmp_path / "s", new)
                except Ended:
                    pass
                else:
                    break
            seen = open_store(tmp_path / "s").samples
            assert seen in (names(0, 3), names(0, 4))
            check(
                tmp_path / "s",
                seen,
                [0.0] if len(seen) == 3 else [0.0, 0.5],
                LAYERS[2:] if len(seen) == 3 else LAYERS[1:],
                new,
            )
            assert append(tmp_path / "s", new)
            assert contents(tmp_path / "s") == wanted
        assert 20 < steps < 999

    def test_another_append_is_refused_until_it_is_told_to_begin_anew(self, tmp_path):
        make(tmp_path / "s", a_plan(names(0, 3)))
        assert not append(tmp_path / "s", a_plan(names(0, 5)), most=0)
        other = a_plan(names(0, 4))
        with pytest.raises(StoreError, match=r"Another append .* was interrupted \(2 samples new\): run its command"):
            append_plan(tmp_path / "s", other)
        append_plan(tmp_path / "s", other, restart=True)
        assert append(tmp_path / "s", other)
        check(tmp_path / "s", names(0, 4), [0.0], LAYERS, other)


class TestRefused:
    def test_other_settings(self, tmp_path):
        make(tmp_path / "s", a_plan(names(0, 3)))
        plan = a_plan(names(0, 4), dtype="bfloat16")
        plan = replace(plan, attributes=plan.attributes | {"seed": 8})
        with pytest.raises(
            StoreError, match="made differently: seed: 7 in the store, 8 wanted; conv is stored as float32"
        ):
            append_plan(tmp_path / "s", plan)

    def test_samples_that_new_layers_need(self, tmp_path):
        make(tmp_path / "s", a_plan(names(0, 3), LAYERS[:1]))
        with pytest.raises(
            StoreError, match=r"need all samples of .* 1 are not in the data .first: s0.: give the same"
        ):
            append_plan(tmp_path / "s", a_plan(names(1, 4)))

    def test_a_store_that_is_not_finished(self, tmp_path):
        create_store(tmp_path / "s", a_plan(names(0, 3)))
        with pytest.raises(StoreError, match="is not finished: run the command that made it again"):
            append_plan(tmp_path / "s", a_plan(names(0, 4)))

    def test_a_unit_that_lacks_something(self, tmp_path):
        make(tmp_path / "s", a_plan(names(0, 3)))
        settled = append_plan(tmp_path / "s", a_plan(names(0, 4)))
        with pytest.raises(ValueError, match="has 0 of 1 rows"), AppendWriter(tmp_path / "s") as writer:
            writer.start_unit(settled.units[0].unit)
            writer.finish_unit(settled.units[0].unit)
        with pytest.raises(StoreError, match="is not finished"):
            finish_append(tmp_path / "s")


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_what_is_read_is_what_was_put(tmp_path_factory, data):
    """Any shapes, units, batches and ways of appending."""
    draw = data.draw
    shapes = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=3), label="shapes")
    dtypes = [draw(st.sampled_from(["float32", "float16", "int16"])) for _ in shapes]
    layers = [
        LayerInfo(f"l{i}", "ReLU", native_dims(s), tuple(s), d)
        for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    steps, unit, batch = (
        draw(st.integers(1, most), label=what) for what, most in (("t", 3), ("unit", 8), ("batch", 7))
    )
    samples = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=3), label="samples"))
    levels = sorted(draw(st.sets(st.sampled_from([0.25, 0.5]), max_size=2), label="levels"))
    path = tmp_path_factory.mktemp("a") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MOST_UNIT_SAMPLES", 1 << (unit.bit_length() - 1))
        patch.setattr(schema, "CHUNK_BYTES", 64)
        patch.setattr("test_store_append.LAYERS", layers)
        first = draw(st.integers(1, len(layers)), label="first layers")
        now, noise = layers[:first], [0.0]
        make(path, a_plan(names(0, samples[0]), now, timesteps=steps), batch)
        check(path, names(0, samples[0]), noise, now, a_plan([], now, timesteps=steps))
        for count in samples[1:] or samples:
            if draw(st.booleans(), label="more layers"):
                now = layers
            if levels and draw(st.booleans(), label="more levels"):
                noise = [*noise, levels.pop()]
            plan = a_plan(names(0, count), now, timesteps=steps, noise=noise)
            assert append(path, plan, batch)
            check(path, names(0, count), noise, now, plan)
