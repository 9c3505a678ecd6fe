"""Data from Python: data sets, DataLoaders and iterables, against the samples one by one."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from fmx.data import ArraySource, ItemSource, NamedArrays, StreamSource, open_source, readable
from fmx.errors import DataError

VALUES = np.random.default_rng(0).random((10, 3, 4), dtype=np.float32)
TENSORS = TensorDataset(torch.from_numpy(VALUES), torch.arange(10) % 3)


class Photos(Dataset):
    """As torchvision's data sets are: pictures with class numbers, and the names of the classes."""

    classes = ("cat", "dog")

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index in getattr(self, "broken", ()):
            raise OSError("damaged")
        return Image.new("RGB", (5 + index, 6), (index, 0, 0)), index % 2


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(torch.from_numpy(v), i) for i, v in enumerate(VALUES)])


def labels(source):
    return [s.label for s in source.samples]


def check(source, expected=VALUES):
    assert len(source.samples) == len(expected)
    assert [s.id for s in source.samples] == [str(i) for i in range(len(expected))]
    for i, values in enumerate(expected):
        np.testing.assert_array_equal(source.read(i), values)


class TestLoaders:
    @pytest.mark.parametrize("batch", [1, 3, 10, 64])
    def test_batches_are_taken_apart(self, batch):
        source = open_source(DataLoader(TENSORS, batch_size=batch))
        assert isinstance(source, StreamSource)
        assert (source.streamed, source.shape, source.pictures) == (True, (3, 4), False)
        check(source)
        assert labels(source) == [str(i % 3) for i in range(10)]

    def test_what_is_dropped_at_the_end(self):
        check(open_source(DataLoader(TENSORS, batch_size=4, drop_last=True)), VALUES[:8])

    def test_without_batches(self):
        check(open_source(DataLoader(TENSORS, batch_size=None)))

    def test_a_part_in_an_order_of_its_own(self):
        loader = DataLoader(TENSORS, batch_size=2, sampler=[7, 1, 4])
        source = open_source(loader)
        check(source, VALUES[[7, 1, 4]])
        assert labels(source) == ["1", "1", "1"]

    def test_batches_of_dicts(self):
        loader = DataLoader([{"image": v, "label": i} for i, v in enumerate(VALUES)], batch_size=4)
        source = open_source(loader)
        check(source)
        assert labels(source) == [str(i) for i in range(10)]

    def test_batches_without_labels(self):
        check(open_source(DataLoader(list(torch.from_numpy(VALUES)), batch_size=4)))

    def test_masks_are_no_labels(self):
        source = open_source(DataLoader(TensorDataset(TENSORS.tensors[0], torch.ones(10, 4, 4)), batch_size=4))
        check(source)
        assert set(labels(source)) == {""}

    def test_of_unknown_length_goes_through_a_file(self):
        source = open_source(DataLoader(Endless(), batch_size=4))
        assert isinstance(source, ArraySource)
        check(source)
        assert labels(source) == [str(i) for i in range(10)]
        assert "does not say how many samples it has" in source.notes[0]

    def test_worker_processes(self):
        check(open_source(DataLoader(TENSORS, batch_size=4, num_workers=1)))


class TestStreams:
    def test_what_is_not_asked_for_is_passed_over(self):
        source = open_source(DataLoader(TENSORS, batch_size=4))
        np.testing.assert_array_equal(source.read(6), VALUES[6])
        np.testing.assert_array_equal(source.read(5), VALUES[5])  # iterated anew
        source.close()
        np.testing.assert_array_equal(source.read(8), VALUES[8])
        with pytest.raises(DataError, match="can't be looked at first"):
            open_source(DataLoader(TENSORS)).subset([0])

    def test_shuffling_is_said(self):
        assert "DataLoader shuffles" in open_source(DataLoader(TENSORS, shuffle=True)).notes[0]
        assert not open_source(DataLoader(TENSORS)).notes

    def test_a_length_of_what_can_be_iterated_once(self):
        class Once:
            def __init__(self):
                self.rest = list(VALUES)

            def __len__(self):
                return len(self.rest)

            def __iter__(self):
                return self

            def __next__(self):
                if not self.rest:
                    raise StopIteration
                return self.rest.pop(0)

        source = open_source(Once())
        assert isinstance(source, ArraySource)
        check(source)

    def test_a_length_that_is_not_kept(self):
        class Liar:
            def __len__(self):
                return 5

            def __iter__(self):
                return iter(VALUES[:3])

        source = open_source(Liar())
        with pytest.raises(DataError, match="Liar gave 3 samples, where its length says 5"):
            source.read(4)

    def test_failures_of_the_users_own_code_are_named(self):
        def broken():
            yield VALUES[0]
            raise KeyError("mine")

        with pytest.raises(DataError, match=r"generator fails: it raises KeyError \('mine'\)"):
            open_source(broken())

    @pytest.mark.parametrize("make", [iter, lambda v: (x for x in v), lambda v: map(np.copy, v)])
    def test_iterators_go_through_a_file(self, make):
        source = open_source(make(VALUES))
        check(source)
        assert isinstance(source.array, np.memmap)

    def test_the_file_goes_with_the_source(self):
        from pathlib import Path

        source = open_source(iter(VALUES))
        folder = Path(source.array.filename).parent
        assert folder.is_dir()
        del source
        gc.collect()
        assert not folder.exists()

    def test_dicts_of_several_inputs(self):
        source = open_source({"tokens": np.arange(3) + i, "scale": VALUES[i, 0]} for i in range(4))
        assert isinstance(source, NamedArrays)
        assert source.block(range(1, 3))["tokens"].tolist() == [[1, 2, 3], [2, 3, 4]]

    @pytest.mark.parametrize(
        ("items", "sentence"),
        [
            ([], "gives no samples"),
            ([VALUES[0], VALUES[1][:2]], r"Sample 1 of .* is float32 of shape \(2, 4\), the first was"),
            (["a"], "Sample 0 of .* is a str: give"),
            ([VALUES[0], None], "Sample 1 of .* is a NoneType"),
        ],
    )
    def test_mistakes(self, items, sentence):
        with pytest.raises(DataError, match=sentence):
            open_source(iter(items))


class TestDataSets:
    def test_read_by_position(self):
        source = open_source(TENSORS)
        assert isinstance(source, ItemSource)
        assert not source.streamed
        np.testing.assert_array_equal(source.read(7), VALUES[7])
        check(source)
        assert labels(source) == [str(i % 3) for i in range(10)]
        np.testing.assert_array_equal(source.block(range(2, 5)), VALUES[2:5])

    def test_pictures_with_classes(self):
        source = open_source(Photos())
        assert source.pictures
        assert [source.read(i).size for i in range(4)] == [(5, 6), (6, 6), (7, 6), (8, 6)]
        assert labels(source) == ["cat", "dog", "cat", "dog"]

    def test_labels_are_known_beforehand_where_the_data_set_lists_them(self):
        data = Photos()
        data.targets = [0, 1, 0, 1]
        assert labels(open_source(data)) == ["cat", "dog", "cat", "dog"]

    def test_lists_of_arrays(self):
        check(open_source(list(VALUES)))
        assert labels(open_source([(v, "x") for v in VALUES])) == ["x"] + [""] * 9  # the others are not read yet

    def test_what_fails_is_named_or_left_out(self):
        data = Photos()
        data.broken = (2,)
        with pytest.raises(DataError, match=r"Item 2 of Photos can't be read: it raises OSError \(damaged\)"):
            open_source(data).read(2)
        kept, skipped = readable(open_source(data))
        assert skipped == ["2"]
        assert [kept.read(i).size for i in range(3)] == [(5, 6), (6, 6), (8, 6)]
        assert [s.id for s in kept.samples] == ["0", "1", "3"]
        data.broken = (0, 1, 3)
        assert readable(open_source(data))[1] == ["0", "1", "3"]

    def test_arrays_of_different_shapes(self):
        source = open_source([np.zeros((2, 3)), np.zeros((2, 4))])
        with pytest.raises(DataError, match="Samples 0 and 1 have different shapes"):
            source.block(range(2))

    def test_gradients_are_left_behind(self):
        tensor = torch.ones(3, 2, requires_grad=True)
        np.testing.assert_array_equal(open_source(tensor).read(1), [1, 1])
