"""What an ONNX graph says of its inputs, and what has to be settled besides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from fmx.adapter import InputInfo, OpenOptions
from fmx.errors import ModelError

__all__ = ["DeclaredInput", "settle_inputs"]

_ASSUMED_SIZE = 224
_PICTURE_CHANNELS = {1, 3, 4}
_WORDS = {"NCHW": "CHW", "NHWC": "HWC"}


class DeclaredInput:
    """An input as the graph declares it.

    Attributes
    ----------
    name : str
    dtype : numpy.dtype
    batch : int or None
        Length of the batch axis, None where the graph leaves it open.
    shape : tuple of int or None
        Shape of one sample; None stands for a length that is left open.
    """

    def __init__(self, value: onnx.ValueInfoProto, source: str) -> None:
        tensor = value.type.tensor_type
        self.name = value.name
        self.source = source
        self.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        dims = tensor.shape.dim
        sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
        if not sizes:
            raise ModelError(f"{source} takes {value.name} without a batch axis: export it with one.")
        self.batch, self.shape = sizes[0], tuple(sizes[1:])

    def settle(self, given: Sequence[int] | None, layout: str | None) -> InputInfo:
        """Settle the shape of a sample, with the user's word where the graph leaves it open.

        Raises
        ------
        ModelError
            The user's word contradicts the graph.
        """
        if given is not None:
            given = self._in_order(given)
        sizes = tuple(given or self.shape)
        hwc = layout == "NHWC" if layout else self._channels_last(sizes)
        is_picture = len(sizes) == 3
        channel = (2 if hwc else 0) if is_picture else -1
        shape = tuple(
            size if size is not None else 3 if i == channel else _ASSUMED_SIZE for i, size in enumerate(sizes)
        )
        assumed = "×".join(map(str, shape)) if None in sizes else ""
        return InputInfo(self.name, shape, str(self.dtype), ("HWC" if hwc else "CHW") if is_picture else "", assumed)

    def _in_order(self, given: Sequence[int]) -> Sequence[int]:
        """Give the shape as the graph has it; of a picture, its channels may have been given first or last."""
        orders = [given]
        if len(given) == 3:
            orders += [[given[1], given[2], given[0]], [given[2], given[0], given[1]]]
        for order in orders:
            if len(order) == len(self.shape) and all(
                size in {None, want} for size, want in zip(self.shape, order, strict=True)
            ):
                return order
        takes = "×".join("any" if s is None else str(s) for s in self.shape)
        raise ModelError(
            f"{self.source} takes samples of shape {takes}, not {'×'.join(map(str, given))}: prepare the data for it."
        )

    @staticmethod
    def _channels_last(shape: Sequence[int | None]) -> bool:
        return len(shape) == 3 and shape[2] in _PICTURE_CHANNELS and shape[0] not in _PICTURE_CHANNELS


def settle_inputs(declared: Sequence[DeclaredInput], options: OpenOptions) -> list[InputInfo]:
    """Settle all inputs of a graph.

    Raises
    ------
    ModelError
        The user named inputs that the graph does not have, or gave one shape for several inputs.
    """
    given = {info.name: info.shape for info in options.inputs}
    names = [d.name for d in declared]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ModelError(f"{declared[0].source} has no input {unknown[0]}: it takes {', '.join(names)}.")
    if options.input_shape is not None:
        if len(declared) > 1:
            raise ModelError(f"{declared[0].source} takes {', '.join(names)}: give the shape of each by its name.")
        given = {names[0]: options.input_shape}
    return [d.settle(given.get(d.name), options.layout) for d in declared]
