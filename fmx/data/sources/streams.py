"""Samples from Python: data sets that are read by position, and iterables such as a DataLoader, read once in order.

An item is an array or a picture, or (it, label), or a dict with the label under label, labels, y or target; a dict
may hold several arrays by the names of the model's inputs. A torch DataLoader's batches are taken apart into samples.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.data.sources.arrays import ArraySource, NamedArrays
from fmx.data.sources.base import Read, Sample, Source
from fmx.data.sources.spool import Spool
from fmx.errors import DataError

__all__ = ["ItemSource", "StreamSource", "is_loader", "open_items"]

_LABEL_KEYS = ("label", "labels", "y", "target", "targets")
_USUAL_KEYS = ("x", "image", "images", "picture", "pixel_values", "data", "input", "inputs")


class ItemSource(Source):
    """A data set with a length whose items are read by position, such as torchvision's; in several threads."""

    def __init__(self, items: Any, name: str) -> None:
        names = getattr(items, "classes", None)
        self._classes = list(names) if isinstance(names, Sequence) else []
        targets = getattr(items, "targets", None)
        labels = [""] * len(items)
        if targets is not None and len(targets) == len(items):
            labels = [_label(t, self._classes) for t in targets]
        super().__init__([Sample(str(i), name, label) for i, label in enumerate(labels)])
        self.name, self._items = name, items
        self._kept = list(range(len(items)))
        first = self._first()
        self.pictures = isinstance(first, Image.Image)
        self.shape = None if self.pictures or isinstance(first, Mapping) else np.asarray(first).shape

    def _first(self) -> Read:
        """Read the first item that can be read, to learn what items are."""
        for index in range(len(self.samples) - 1):
            with suppress(DataError):
                return self.read(index)
        return self.read(len(self.samples) - 1)

    def read(self, index: int) -> Read:
        """Read one item."""
        where = f"Item {self._kept[index]} of {self.name}"
        try:
            item = self._items[self._kept[index]]
        except Exception as error:  # whatever the user's own code does
            raise DataError(f"{where} can't be read: it raises {type(error).__name__} ({error}).") from error
        value, label = _taken(item, where)
        if label is not None and not self.samples[index].label:
            self.samples[index] = replace(self.samples[index], label=_label(label, self._classes))
        return value

    def stamp(self, index: int) -> str:  # noqa: ARG002
        """Nothing can tell."""
        return ""

    def subset(self, kept: Sequence[int]) -> ItemSource:
        """Return the same source with some of its samples."""
        some = copy(self)
        some.samples, some._kept = [self.samples[i] for i in kept], [self._kept[i] for i in kept]
        return some


class StreamSource(Source):
    """An iterable whose length is known, read in order, from one thread at a time; what is behind is iterated anew."""

    streamed = True

    def __init__(self, begin: Callable[[], Iterator[Any]], total: int, name: str, classes: Sequence[str] = ()) -> None:
        super().__init__([Sample(str(i), name) for i in range(total)])
        self.name, self._classes, self._begin = name, classes, begin
        self._lock = threading.Lock()
        self._values, self._next = begin(), 0
        first = next(self._values, None)
        if first is None:
            raise DataError(f"{name} gives no samples.")
        value, _ = _taken(first, f"Sample 0 of {name}")
        self.pictures = isinstance(value, Image.Image)
        self.shape = None if self.pictures or isinstance(value, Mapping) else np.asarray(value).shape
        self._values = chain([first], self._values)

    def read(self, index: int) -> Read:
        """Read the next sample; those before it that were not asked for are passed over."""
        with self._lock:
            if index < self._next:
                self._values, self._next = self._begin(), 0
            item = None
            while self._next <= index:
                item = next(self._values, None)
                if item is None:
                    total = len(self.samples)
                    raise DataError(f"{self.name} gave {self._next} samples, where its length says {total}.")
                self._next += 1
        value, label = _taken(item, f"Sample {index} of {self.name}")
        if label is not None:
            self.samples[index] = replace(self.samples[index], label=_label(label, self._classes))
        return value

    def stamp(self, index: int) -> str:  # noqa: ARG002
        """Nothing can tell before it is read."""
        return ""

    def close(self) -> None:
        """Stop iterating, which ends a DataLoader's workers; reading begins anew."""
        with self._lock:
            if self._next:
                self._values, self._next = _later(self._begin), 0


def _later(begin: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Begin to iterate when the first item is asked for."""
    yield from begin()


def is_loader(data: Any) -> bool:
    """Tell a torch DataLoader, or what looks like one, without importing torch."""
    return all(hasattr(data, name) for name in ("dataset", "batch_size", "collate_fn"))


def open_items(data: Any) -> Source:
    """Open a data set, an iterable or a DataLoader.

    Where the number of samples can't be known beforehand, they are put into a temporary file first.

    Raises
    ------
    DataError
        Something that gives no arrays.
    """
    name = type(data).__name__
    if is_loader(data):
        return _open_loader(data, name)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping):
        if not len(data):
            raise DataError(f"The {name} is empty: it has no samples.")
        return ItemSource(data, name)
    # What is its own iterator can't be iterated twice.
    total = len(data) if hasattr(data, "__len__") and iter(data) is not data else None
    return _in_order(lambda: _each(data, name), total, name, ())


def _open_loader(loader: Any, name: str) -> Source:
    def begin() -> Iterator[Any]:
        return (sample for batch in _each(loader, name) for sample in _samples(batch, name, loader.batch_size))

    source = _in_order(begin, _loader_length(loader), name, getattr(loader.dataset, "classes", ()))
    if type(getattr(loader, "sampler", None)).__name__ == "RandomSampler":
        source.notes.append(f"{name} shuffles: the ids of samples are their positions in this run, and in no other")
    return source


def _each(data: Iterable[Any], name: str) -> Iterator[Any]:
    """Iterate over what the user's own code gives, and name it where that fails."""
    try:
        yield from data
    except Exception as error:  # whatever the user's own code does
        raise DataError(f"{name} fails: it raises {type(error).__name__} ({error}).") from error


def _in_order(begin: Callable[[], Iterator[Any]], total: int | None, name: str, classes: Sequence[str]) -> Source:
    return _spooled(begin(), name, classes) if total is None else StreamSource(begin, total, name, classes)


# -- items -----------------------------------------------------------------------------------------


def _taken(item: Any, where: str) -> tuple[Read, Any]:
    """Take an item apart into the sample and its label, None where there is none."""
    if isinstance(item, Mapping):
        label = next((item[k] for k in _LABEL_KEYS if k in item and _is_label(item[k])), None)
        values = {str(k): v for k, v in item.items() if k not in _LABEL_KEYS and (_is_array(v) or _is_picture(v))}
        usual = next((k for k in _USUAL_KEYS if k in values), None)
        if len(values) == 1 or usual:
            return _value(values[usual or next(iter(values))], where), label
        if values and all(_is_array(v) for v in values.values()):
            return {k: np.asarray(v) for k, v in values.items()}, label
    elif isinstance(item, tuple | list) and item and (_is_array(item[0]) or _is_picture(item[0])):
        return _value(item[0], where), item[1] if len(item) > 1 and _is_label(item[1]) else None
    return _value(item, where), None


def _value(value: Any, where: str) -> Read:
    if _is_picture(value):
        return value  # type: ignore[no-any-return]
    if not _is_array(value):
        raise DataError(
            f"{where} is a {type(value).__name__}: give a picture, a folder or an array, (array, label) or a dict."
        )
    return _plain(value)


def _plain(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and len(getattr(value, "shape", ())) > 0


def _is_picture(value: Any) -> bool:
    return isinstance(value, Image.Image)


def _is_label(value: Any) -> bool:
    return isinstance(value, str | bytes | int | float | np.generic) or (
        hasattr(value, "__array__") and len(getattr(value, "shape", (0,))) == 0
    )


def _label(value: Any, classes: Sequence[str]) -> str:
    plain = _plain(value).item() if hasattr(value, "__array__") else value
    if isinstance(plain, bytes):
        return plain.decode(errors="replace")
    if isinstance(plain, int) and not isinstance(plain, bool) and 0 <= plain < len(classes):
        return str(classes[plain])
    return str(plain)


# -- batches ---------------------------------------------------------------------------------------


def _loader_length(loader: Any) -> int | None:
    """Count the samples that a DataLoader gives, where it can be known."""
    try:
        if loader.batch_size is None:
            return len(loader) if not hasattr(loader, "batch_sampler") or loader.batch_sampler is None else None
        count = len(loader.sampler)
        return count - count % loader.batch_size if loader.drop_last else count
    except (TypeError, AttributeError, NotImplementedError):
        return None


def _samples(batch: Any, name: str, size: int | None) -> Iterator[Any]:
    """Split a batch into samples; a loader without batches gives samples already."""
    if size is None:
        yield batch
        return
    if isinstance(batch, Mapping):
        length = max((len(v) for v in batch.values() if hasattr(v, "__len__")), default=0)
        yield from ({k: v[i] for k, v in batch.items() if hasattr(v, "__getitem__")} for i in range(length))
    elif isinstance(batch, tuple | list) and batch and _is_array(batch[0]):
        parts = [part for part in batch[:2] if hasattr(part, "__getitem__") and len(part) == len(batch[0])]
        yield from (tuple(part[i] for part in parts) for i in range(len(batch[0])))
    elif _is_array(batch) or isinstance(batch, list):
        yield from batch
    else:
        raise DataError(f"{name} gives batches of {type(batch).__name__}: give arrays, (arrays, labels) or dicts.")


# -- unknown length --------------------------------------------------------------------------------


def _spooled(values: Iterator[Any], name: str, classes: Sequence[str]) -> Source:
    """Write samples to a temporary file, one at a time, to learn how many there are."""
    labels, picture = [], False
    with Spool() as spool:
        for number, item in enumerate(values):
            where = f"Sample {number} of {name}"
            value, label = _taken(item, where)
            labels.append("" if label is None else _label(label, classes))
            picture = isinstance(value, Image.Image)
            spool.add(value if isinstance(value, Mapping) else {"": np.asarray(value)}, where)
        if not labels:
            raise DataError(f"{name} gives no samples.")
        arrays = {key: ArraySource(a, name, labels=labels, pictures=picture) for key, a in spool.arrays().items()}
    source: Source = arrays[""] if "" in arrays else NamedArrays(arrays)
    source.notes.append(f"{name} does not say how many samples it has: all were put into a temporary file first")
    return source
