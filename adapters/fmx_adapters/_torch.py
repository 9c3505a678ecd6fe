"""What the PyTorch-based adapters share: evaluation mode for a while, fingerprints, and guessing an input shape."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray

from fmx.adapter import InputInfo
from fmx.errors import ModelError
from fmx.layers import LayerInfo, native_dims

T = TypeVar("T")
I = TypeVar("I", InputInfo, tuple[InputInfo, ...])  # noqa: E741

PROBE_BATCH = 2
_TOKENS = 16
_SIZES = (224, 32, 28, 64, 96, 128, 256, 299, 384, 512)


@contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode and every submodule back into its own mode afterwards."""
    # Frozen TorchScript modules have no mode to be in.
    modes = [(m, m.training) for m in module.modules() if hasattr(m, "training")]
    if any(training for _, training in modes):
        module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            if m.training != training:
                m.training = training


def fingerprint(state: Iterable[tuple[str, Any]], graph: str) -> str:
    """Hash weights (name, type, shape, bytes) and a text that stands for the graph with sha256."""
    digest = hashlib.sha256(graph.encode())
    for name, value in state:
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            if tensor.numel():
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Hand a tensor over as an array, without a copy where it is on the CPU; bfloat16 becomes float32."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    # Torch puts channels-last values in order with all threads; NumPy would use one.
    return tensor.cpu().contiguous().numpy()


def dtype_name(dtype: torch.dtype) -> str:
    """Give NumPy's name of a torch element type, as `to_array` hands it over."""
    return "float32" if dtype == torch.bfloat16 else str(dtype).removeprefix("torch.")


def tensors_in(value: object, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Find the tensors in what a module returned, with where they lie: ``("1.0", tensor)`` for ``value[1][0]``.

    Goes into tuples, lists, mappings and dataclasses.
    """
    if isinstance(value, torch.Tensor):
        yield place, value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    else:
        return
    for key, inner in items:
        yield from tensors_in(inner, f"{place}.{key}" if place else str(key))


class Key(NamedTuple):
    """Where in a pass a value arises; `place` is where it lies in what a module returned."""

    path: str
    call: int
    op: str = ""
    nth: int = 0
    place: str = ""


def output_tensors(result: Any) -> dict[str, torch.Tensor]:
    """Name the tensors that a model returned: ``output``, or by key or position where there are several."""
    return {f"output.{place}" if place else "output": value for place, value in tensors_in(result)}


def reason_of(error: BaseException) -> str:
    """Give the sentence in what torch says; TorchScript puts a traceback of its own in front of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    is_wrapped = lines[0].startswith("The following operation failed")
    return lines[-1 if is_wrapped else 0].removeprefix("RuntimeError: ").rstrip(".")


def is_layer_value(value: object) -> bool:
    """Say whether a value of the probe pass can be a layer: floating point, with the batch as its first axis."""
    return (
        isinstance(value, torch.Tensor)
        and value.dim() > 0
        and value.shape[0] == PROBE_BATCH
        and value.is_floating_point()
    )


def layer_info(name: str, kind: str, value: torch.Tensor, roles: Sequence[str] = ()) -> LayerInfo:
    """Describe a probed value (batch, …native), with what is known of its native axes."""
    shape = tuple(value.shape[1:])
    return LayerInfo(name, kind, native_dims(shape, kind, roles), shape, dtype_name(value.dtype))


def probe_batch(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make the small batch on which a model is looked at; the same every time."""
    generator = torch.Generator().manual_seed(0)
    if not dtype.is_floating_point:
        return torch.randint(0, 2, (PROBE_BATCH, *shape), generator=generator).to(device=device, dtype=dtype)
    return torch.rand(PROBE_BATCH, *shape, generator=generator).to(device=device, dtype=dtype)


def candidate_inputs(module: torch.nn.Module) -> list[InputInfo]:
    """List the inputs that a model may take, told from the first weight that it has, the likeliest first."""
    kind, weight = next(_weights(module), ("", torch.empty(0, 3, 0, 0)))
    if kind == "Embedding":
        return [InputInfo("input", (_TOKENS,), "int64", assumed=f"{_TOKENS} tokens")]
    if kind in {"LSTM", "GRU", "RNN"}:
        return [_assumed(_TOKENS, int(weight.shape[1]))]
    return _BY_RANK[min(weight.dim(), 5)](int(weight.shape[1]))


# What a first weight of so many axes takes, by its number of input channels.
_BY_RANK: dict[int, Callable[[int], list[InputInfo]]] = {
    5: lambda channels: [_assumed(channels, 16, size, size) for size in (112, 64, 32)],
    4: lambda channels: [_picture(channels, size) for size in _SIZES],
    3: lambda channels: [_assumed(channels, length) for length in (256, 64, 1024, 16000)],
    # A linear layer takes plain numbers or tokens.
    2: lambda channels: [_assumed(channels), _assumed(_TOKENS, channels)],
}


def _weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """List the weights in the order of the modules, with the kind of the module that each belongs to."""
    for owner in module.modules():
        for name, weight in owner.named_parameters(recurse=False):
            is_settled = not isinstance(weight, torch.nn.parameter.UninitializedParameter)
            if name.startswith(("weight", "in_proj_weight")) and is_settled and weight.dim() > 1:
                yield getattr(owner, "original_name", type(owner).__name__), weight


def _assumed(*shape: int) -> InputInfo:
    return InputInfo("input", shape, assumed="×".join(map(str, shape)))


def _picture(channels: int, size: int) -> InputInfo:
    return InputInfo("input", (channels, size, size), layout="CHW", assumed=f"{channels}×{size}×{size}")


def first_working(inputs: Sequence[I], attempt: Callable[[I], T], source: str) -> T:
    """Return the first attempt that works.

    Raises
    ------
    ModelError
        No input works; quotes what the first one said and names the options that help.
    """
    said = ""
    for info in inputs:
        try:
            return attempt(info)
        except Exception as error:  # whatever the model's own code does on an input that it does not take
            said = said or _first_line(error)
    first = inputs[0] if isinstance(inputs[0], tuple) else (inputs[0],)
    shapes = " and ".join("×".join(map(str, info.shape)) for info in first)
    more = f" (and {len(inputs) - 1} other sizes)" if len(inputs) > 1 else ""
    raise ModelError(
        f"{source} does not run on a sample of shape {shapes}{more}: {said.rstrip('.')}; "
        "say what it takes with --input-shape, for example --input-shape 3,32,32."
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TorchScript wraps the message in a traceback of its own; the message is its last line.
    chosen = lines[-1] if lines and lines[0].startswith("The following operation failed") else (lines or [""])[0]
    return chosen.removeprefix("RuntimeError: ") or type(error).__name__


def picture_input(shape: Sequence[int], layout: str | None) -> InputInfo:
    """Describe an input whose shape the user gave."""
    if len(shape) != 3:
        return InputInfo("input", tuple(shape))
    hwc = layout == "NHWC" if layout else shape[-1] in {1, 3, 4} and shape[0] not in {1, 3, 4}
    return InputInfo("input", tuple(shape), layout="HWC" if hwc else "CHW")


def input_dtype(info: InputInfo, module: torch.nn.Module) -> torch.dtype:
    """Give the element type that a module takes: its weights' own for floating point, else what the input says."""
    wanted: torch.dtype = getattr(torch, info.dtype)
    return own_dtype(module, wanted) if wanted.is_floating_point else wanted


def own_dtype(module: torch.nn.Module, otherwise: torch.dtype = torch.float32) -> torch.dtype:
    """Give the element type of a module's first floating-point weight."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), otherwise)
