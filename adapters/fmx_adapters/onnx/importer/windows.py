"""The windows that convolutions and poolings slide over the spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fmx_adapters.onnx.importer.call import Call
from fmx_adapters.onnx.importer.kernels import pad_axes

__all__ = ["Window", "fit", "pad_same", "window_of"]


class Window(NamedTuple):
    """Kernel, strides, dilations and padding, one number an axis; an argument that nodes of a graph can have.

    ``same`` is ``upper`` or ``lower`` where the padding depends on the input's size: as much as gives ``size / stride``
    windows, the odd one at the end or the start.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    same: str = ""

    @property
    def extents(self) -> tuple[int, ...]:
        """What the window covers on each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether the padding is a number an axis, as modules of `torch.nn` take it."""
        return not self.same and self.before == self.after and min(self.before, default=0) >= 0

    @property
    def poolable(self) -> bool:
        """Whether the poolings of `torch.nn` take it: they pad half a kernel at most."""
        return self.symmetric and all(2 * p <= k for p, k in zip(self.before, self.kernel, strict=True))


def window_of(call: Call, kernel: Sequence[int]) -> Window:
    """Read the attributes of a window."""
    n = len(kernel)
    strides, dilations = call.integers("strides") or (1,) * n, call.integers("dilations") or (1,) * n
    pads = call.integers("pads") or (0,) * (2 * n)
    auto = call.one_of("auto_pad", "NOTSET", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))
    if len(pads) != 2 * n or len(strides) != n or len(dilations) != n:
        call.unsupported(f"a window of {n} axes with pads {pads}, strides {strides} and dilations {dilations}")
    if auto != "NOTSET":
        pads = (0,) * (2 * n)
    same = auto.removeprefix("SAME_").lower() if auto.startswith("SAME") else ""
    window = Window(tuple(kernel), strides, dilations, pads[:n], pads[n:], same)
    return _settled(window) if same and set(strides) == {1} else window


def _settled(window: Window) -> Window:
    """At stride 1 the padding does not depend on the input."""
    pads = [_shares(extent - 1, window.same) for extent in window.extents]
    before, after = zip(*pads, strict=True)
    return Window(window.kernel, window.strides, window.dilations, tuple(before), tuple(after))


def _shares(total: int, same: str) -> tuple[int, int]:
    small, large = total // 2, total - total // 2
    return (small, large) if same == "upper" else (large, small)


def same_padding(
    sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int], same: str
) -> tuple[list[int], list[int]]:
    """Padding before and after each axis that gives ``ceil(size / stride)`` windows."""
    shares = []
    for size, extent, stride in zip(sizes, extents, strides, strict=True):
        windows = -(-size // stride)
        shares.append(_shares(max((windows - 1) * stride + extent - size, 0), same))
    return [share[0] for share in shares], [share[1] for share in shares]


def pad_same(x: Tensor, extents: Sequence[int], strides: Sequence[int], same: str) -> Tensor:
    """Pad with zeros so that there are ``ceil(size / stride)`` windows."""
    before, after = same_padding(x.shape[-len(extents) :], extents, strides, same)
    return pad_axes(x, before, after)


def fit(sizes: Sequence[int], window: Window, *, round_up: bool) -> tuple[list[int], list[int], list[int]]:
    """Fit windows into axes of given sizes.

    Returns
    -------
    before, after, needed : list of int
        Padding that the graph asks for, and the length that the windows reach, counted from the padding's start. A
        window that would start in the padding at the end is left out.
    """
    before, after = list(window.before), list(window.after)
    if window.same:
        before, after = same_padding(sizes, window.extents, window.strides, window.same)
    needed = []
    for size, extent, stride, left, right in zip(sizes, window.extents, window.strides, before, after, strict=True):
        room = size + left + right - extent
        steps = -(-room // stride) if round_up else room // stride
        if steps * stride >= size + left:
            steps -= 1
        needed.append(steps * stride + extent)
    return before, after, needed
