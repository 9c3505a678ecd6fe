"""Signals: Fourier transforms, windows and mel bands."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator

# Weights of the constant, of the cosine of one period and of that of half a period.
_WINDOWS = {
    "BlackmanWindow": (0.42, -0.5, 0.08),
    "HammingWindow": (25 / 46, -21 / 46, 0.0),
    "HannWindow": (0.5, -0.5, 0.0),
}


@operator("DFT")
def _dft(call: Call) -> Value:
    axis = call.integer("axis", 1) if call.version < 20 else call.scalar(2, -2)
    return call.call(dft, call[0], call.scalar(1), axis, call.flag("inverse"), call.flag("onesided"))


@operator("STFT")
def _stft(call: Call) -> Value:
    return call.call(stft, call[0], call.scalar(1), call.get(2), call.scalar(3), call.flag("onesided", True))


@operator(*_WINDOWS)
def _window(call: Call) -> Value:
    dtype, periodic = call.dtype("output_datatype", 1), call.flag("periodic", True)
    return call.call(window, call[0], _WINDOWS[call.node.op_type], periodic, dtype)


@operator("MelWeightMatrix")
def _mel(call: Call) -> Value:
    return call.call(mel_weights, *(call[i] for i in range(5)), call.dtype("output_datatype", 1))


def dft(x: Tensor, length: int | Tensor | None, axis: int | Tensor, inverse: bool, onesided: bool) -> Tensor:
    """Fourier transform along an axis; the last axis holds the real part, or real and imaginary part."""
    dim = int(axis) + 1 if int(axis) < 0 else int(axis)  # the axis in the complex tensor, which lacks the last one
    count = None if length is None else int(length)
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if inverse and onesided:
        real: Tensor = torch.fft.irfft(signal, count, dim)
        return real.unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, count, dim))
    if onesided:
        return torch.view_as_real(torch.fft.rfft(signal, count, dim))
    return torch.view_as_real(torch.fft.fft(signal, count, dim))


def stft(x: Tensor, step: int | Tensor, shape: Tensor | None, length: int | Tensor | None, onesided: bool) -> Tensor:
    """Fourier transforms of frames: (batch, time, channel) → (batch, frame, frequency, 2)."""
    size = int(length) if length is not None else len(shape) if shape is not None else x.shape[1]
    frames = x.unfold(1, size, int(step)).transpose(-1, -2)
    if shape is not None:
        frames = frames * shape.unsqueeze(-1)
    return dft(frames, None, 2, False, onesided and x.shape[-1] == 1)


def window(size: Tensor, weights: tuple[float, float, float], periodic: bool, dtype: torch.dtype) -> Tensor:
    """A window out of cosines: of the size, or the first part of one that is longer by one."""
    count = int(size)
    phase = torch.arange(count, dtype=torch.float64, device=size.device) * (2 * math.pi / (count - (not periodic)))
    constant, first, second = weights
    return (constant + first * torch.cos(phase) + second * torch.cos(2 * phase)).to(dtype)


def mel_weights(bands: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    """Triangles, evenly spaced in mel, that turn a spectrum's bins into bands."""
    bins = int(length) // 2 + 1
    ends = [2595 * math.log10(1 + float(edge) / 700) for edge in (low, high)]
    count = int(bands)
    mel = torch.arange(count + 2, dtype=torch.float64) * ((ends[1] - ends[0]) / (count + 2)) + ends[0]
    hertz = 700 * (10 ** (mel / 2595) - 1)
    points = torch.floor((int(length) + 1) * hertz / int(rate)).unsqueeze(1)
    left, centre, right = points[:-2], points[1:-1], points[2:]
    place = torch.arange(bins, dtype=torch.float64)
    rising = torch.where(centre > left, (place - left) / (centre - left), 1.0)
    falling = torch.where(right > centre, (right - place) / (right - centre), 0.0)
    inside = ((place >= left) & (place < right)) | (place == centre)
    weights = torch.where(place <= centre, rising, falling)
    return torch.where(inside, weights, 0.0).t().to(bands.device, dtype)
