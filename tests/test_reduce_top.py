"""Top samples and histograms between given edges: against sorting and plain loops, whatever the blocks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.reduce import EdgeHistogram, ReducerSet, TopSamples

# -- top samples -----------------------------------------------------------------------------------

AXES = ("timestep", "y", "x")
SHAPE = (6, 2, 3, 4, 2)  # sample, timestep, channel, y, x


def slow_top(values, k, *, weakest=False):
    """Sort all samples of each channel by their largest finite value, found one value at a time."""
    found = []
    for channel in range(values.shape[2]):
        scores = []
        for sample in range(values.shape[0]):
            best = None
            for place in itertools.product(*(range(values.shape[i]) for i in (1, 3, 4))):
                x = float(values[sample, place[0], channel, place[1], place[2]])
                if math.isfinite(x) and (best is None or x > best[0]):
                    best = (x, sample, *place)
            if best is not None:
                scores.append(best)
        scores.sort(key=lambda row: (row[0] if weakest else -row[0], row[1]))
        found.append(scores[:k])
    return found


def check_top(state, reducer, values):
    results = reducer.finalize(state)
    for channel, wanted in enumerate(slow_top(values, reducer.k, weakest=reducer.weakest)):
        rows = list(zip(*(results[name][channel].tolist() for name in ("value", "sample", *AXES)), strict=True))
        assert rows[: len(wanted)] == wanted
        for row in rows[len(wanted) :]:
            assert math.isnan(row[0])
            assert row[1:] == (-1, -1, -1, -1)


ELEMENTS = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 65504.0, math.nan, math.inf, -math.inf])


@st.composite
def blocks(draw):
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]))
    if draw(st.booleans()):
        values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=SHAPE)
    else:
        flat = draw(st.lists(ELEMENTS, min_size=math.prod(SHAPE), max_size=math.prod(SHAPE)))
        values = np.reshape(flat, SHAPE)
    return values.astype(dtype)


class TestTopSamples:
    @settings(deadline=None, max_examples=60)
    @given(values=blocks(), k=st.integers(1, 8), weakest=st.booleans())
    def test_against_sorting(self, values, k, weakest):
        reducer = TopSamples(k, AXES, weakest=weakest)
        state = reducer.update(reducer.identity((3,)), values, (0, 1, 3, 4))
        check_top(state, reducer, values)

    @settings(deadline=None, max_examples=60)
    @given(values=blocks(), k=st.integers(1, 4), weakest=st.booleans(), data=st.data())
    def test_any_blocks_in_any_order(self, values, k, weakest, data):
        """Samples in any groups; for the strongest, samples in parts too."""
        reducer = TopSamples(k, AXES, weakest=weakest)
        ranges = []
        for n in (6, 2, 1, 4, 2):
            cut = data.draw(st.integers(0, n)) if n == 6 or not weakest else 0
            ranges.append([slice(0, cut), slice(cut, n)])
        ranges[2] = [slice(0, 3)]
        states = [reducer.identity((3,))]
        for where in data.draw(st.permutations(list(itertools.product(*ranges)))):
            start = [part.start for part in where]
            if data.draw(st.booleans()):
                start[0] = np.arange(where[0].start, where[0].stop)
            if data.draw(st.booleans()):
                states.append(reducer.identity((3,)))
            reducer.update(states[-1], values[where], (0, 1, 3, 4), start=start)
        while len(states) > 1:
            first = states.pop(data.draw(st.integers(0, len(states) - 1)))
            place = data.draw(st.integers(0, len(states) - 1))
            states[place] = reducer.merge(first, states[place])
        check_top(states[0], reducer, values)

    @pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (0, 1, 3, 4, 2), (4, 3, 2, 1, 0)], ids=str)
    def test_layouts(self, order):
        values = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.float32)
        block = np.ascontiguousarray(values.transpose(order)).transpose(np.argsort(order))
        for view, same in [(block, values), (block[::-1], values[::-1]), (block[:, :, :, 1:3], values[:, :, :, 1:3])]:
            reducer = TopSamples(3, AXES)
            check_top(reducer.update(reducer.identity((3,)), view, (0, 1, 3, 4)), reducer, same)

    def test_many_channels_side_by_side(self):
        values = np.random.default_rng(2).normal(size=(5, 1, 150, 3, 3)).astype(np.float32)
        block = np.ascontiguousarray(values.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)
        reducer = TopSamples(2, AXES)
        for view in (block, values):
            check_top(reducer.update(reducer.identity((150,)), view, (0, 1, 3, 4)), reducer, values)

    def test_only_samples(self):
        reducer = TopSamples(2)
        state = reducer.update(reducer.identity((2,)), np.array([[1, 5], [3, 4], [2, 9]]), (0,), start=(10, 0))
        assert reducer.finalize(state)["sample"].tolist() == [[11, 12], [12, 10]]

    def test_kept_axes_before_the_samples(self):
        values = np.random.default_rng(3).normal(size=(2, 5, 4))
        reducer = TopSamples(1, ("x",))
        results = reducer.finalize(reducer.update(reducer.identity((2,)), values, (1, 2)))
        flat = values.reshape(2, -1).argmax(axis=1)
        assert results["sample"][:, 0].tolist() == (flat // 4).tolist()
        assert results["x"][:, 0].tolist() == (flat % 4).tolist()

    def test_empty_blocks(self):
        reducer = TopSamples(2, AXES)
        empty = reducer.identity((3,))
        state = reducer.update(reducer.identity((3,)), np.zeros((0, 2, 3, 4, 2)), (0, 1, 3, 4))
        assert state.tobytes() == empty.tobytes()
        assert np.isnan(reducer.finalize(empty)["value"]).all()

    def test_mistakes(self):
        with pytest.raises(ValueError, match="at least one sample"):
            TopSamples(0)
        with pytest.raises(ValueError, match="2 axes are summed up, and positions are named"):
            TopSamples(1).update(TopSamples(1).identity((2,)), np.zeros((3, 2, 4)), (0, 2))

    def test_beside_others(self):
        values = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
        top, edges = TopSamples(3, AXES), EdgeHistogram.linear(-1, 1, 8)
        together = ReducerSet({"top": top, "edges": edges, "weak": TopSamples(2, AXES, weakest=True)})
        halves = [together.update(together.identity((3,)), v, (0, 1, 3, 4), start=(i, 0, 0, 0, 0))
                  for i, v in ((0, values[:4]), (4, values[4:]))]  # fmt: skip
        state = together.merge(*halves)
        check_top(state["top"], top, values)
        check_top(state["weak"], together.reducers["weak"], values)
        assert together.dims["top.value"] == ("rank",)
        check_edges(state["edges"], edges, values.transpose(2, 0, 1, 3, 4).reshape(3, -1))


# -- given edges -----------------------------------------------------------------------------------


def check_edges(state, reducer, values):
    """Compare with one comparison after the other; values (label, value)."""
    results = reducer.finalize(state)
    edges = reducer.edges.tolist()
    for label, row in enumerate(values):
        counts, under, over, nan, inf = [0] * (len(edges) - 1), 0, 0, 0, 0
        for value in map(float, row):
            if math.isnan(value):
                nan += 1
            elif math.isinf(value):
                inf += 1
            elif value < edges[0]:
                under += 1
            elif value > edges[-1]:
                over += 1
            else:
                counts[next((i for i, right in enumerate(edges[1:]) if value < right), len(edges) - 2)] += 1
        assert results["counts"][label].tolist() == counts
        found = [int(results[name][label]) for name in ("under", "over", "nan", "inf")]
        assert found == [under, over, nan, inf]
        np.testing.assert_array_equal(results["edges"][label], edges)


class TestEdges:
    @settings(deadline=None)
    @given(
        values=st.lists(st.one_of(st.floats(width=32), st.integers(-4, 4).map(float)), min_size=1, max_size=40),
        edges=st.lists(st.floats(-4, 4, width=16), min_size=2, max_size=12, unique=True).map(sorted),
        dtype=st.sampled_from(["float32", "float64"]),
        cut=st.integers(0, 40),
    )
    def test_against_loops(self, values, edges, dtype, cut):
        if np.unique(edges).size < len(edges):  # -0.0 and 0.0
            return
        reducer, block = EdgeHistogram(edges), np.array([values], dtype)
        states = [reducer.update(reducer.identity((1,)), part, (1,)) for part in (block[:, :cut], block[:, cut:])]
        check_edges(reducer.merge(*states), reducer, block)

    @pytest.mark.parametrize("bins", [1, 2, 7, 64, 100])
    @pytest.mark.parametrize("kind", ["linear", "log"])
    def test_numpy_counts_the_same(self, bins, kind):
        block = np.exp(np.random.default_rng(5).normal(size=(20, 3, 30))).astype(np.float32)
        reducer = getattr(EdgeHistogram, kind)(0.2, 3, bins)
        state = reducer.update(reducer.identity((3,)), np.asfortranarray(block), (0, 2))
        for channel, counts in enumerate(reducer.finalize(state)["counts"]):
            np.testing.assert_array_equal(counts, np.histogram(block[:, channel], reducer.edges)[0])

    @pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0], [0.0, math.nan], [0.0, math.inf], [[0.0, 1.0]]])
    def test_edges_ascend(self, edges):
        with pytest.raises(ValueError, match=r"at least two edges|ascend"):
            EdgeHistogram(edges)

    def test_logarithmic_bins_are_above_zero(self):
        with pytest.raises(ValueError, match="above 0, not 0 and 1"):
            EdgeHistogram.log(0, 1)
