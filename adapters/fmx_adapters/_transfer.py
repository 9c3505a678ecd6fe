"""Batches to the device and values back, beside the computation where the device allows it.

On CUDA the input is copied from page-locked memory on a stream of its own, and the captured values are copied into
page-locked memory on another, so that the next batch is computed meanwhile. Page-locked memory comes from torch's own
cache, which gives a block out again only when the copies that read or wrote it are done: after the first batches it is
a ring of blocks that are used in turn. Elsewhere copies are made on the spot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmx_adapters._torch import to_array

__all__ = ["Cuda", "Link", "open_link"]

Arrays = dict[str, NDArray[Any]]


class Link:
    """The way to a device without streams of its own: the CPU, where nothing is copied, and MPS.

    Attributes
    ----------
    overlaps : bool
        Whether work goes on while values are still on their way back.
    """

    overlaps = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def send(self, array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
        """Bring an array (any shape) to the device as a tensor of `dtype`."""
        return _tensor(array).to(device=self.device, dtype=dtype)

    def fetch(self, values: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]) -> Callable[[], Arrays]:
        """Start to bring values back; what is returned waits for them and gives them as arrays of `dtypes`.

        The arrays belong to the caller: nothing that runs later writes to them.
        """
        arrays = {name: _array(value, dtypes.get(name)) for name, value in values.items()}
        return lambda: arrays


class Cuda:
    """What `CudaLink` asks of torch.cuda; a class of its own, so that the order of its calls can be tested anywhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def stream(self) -> Any:
        """Make a stream."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def current(self) -> Any:
        """Give the stream that computes."""
        return torch.cuda.current_stream(self.device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Let what is done inside go to a stream."""
        return torch.cuda.stream(stream)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Give page-locked memory on the host."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def keep(self, tensor: torch.Tensor, stream: Any) -> None:
        """Let the memory of a tensor not be used again before a stream is done with it."""
        tensor.record_stream(stream)


class CudaLink(Link):
    """The way to a CUDA device, with a stream for each direction."""

    overlaps = True

    def __init__(self, device: torch.device, cuda: Cuda | None = None) -> None:
        super().__init__(device)
        self._cuda = cuda or Cuda(device)
        self._up, self._down = self._cuda.stream(), self._cuda.stream()

    def send(self, array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
        """See `Link`."""
        cuda = self._cuda
        given = _tensor(array)
        staged = cuda.pinned(tuple(given.shape), given.dtype)
        staged.copy_(given)
        with cuda.on(self._up):
            sent = staged.to(self.device, non_blocking=True)
        computing = cuda.current()
        computing.wait_stream(self._up)
        cuda.keep(sent, computing)
        return sent.to(dtype)

    def fetch(self, values: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]) -> Callable[[], Arrays]:
        """See `Link`."""
        cuda = self._cuda
        self._down.wait_stream(cuda.current())
        hosts: dict[str, torch.Tensor] = {}
        with cuda.on(self._down):
            for name, value in values.items():
                value = value.detach()  # noqa: PLW2901
                cuda.keep(value, self._down)
                hosts[name] = cuda.pinned(tuple(value.shape), value.dtype)
                hosts[name].copy_(value.contiguous(), non_blocking=True)
            done = self._down.record_event()

        def arrived() -> Arrays:
            done.synchronize()
            return {name: _array(host, dtypes.get(name)) for name, host in hosts.items()}

        return arrived


def open_link(device: torch.device) -> Link:
    """Give the way to a device."""
    return CudaLink(device) if device.type == "cuda" else Link(device)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    # Torch can't hold read-only arrays and those that run backwards.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = np.array(array)
    return torch.from_numpy(array)


def _array(tensor: torch.Tensor, dtype: torch.dtype | None) -> NDArray[Any]:
    # Widened on the host: half as much has to be copied there.
    return to_array(tensor.cpu() if dtype is None else tensor.cpu().to(dtype))
