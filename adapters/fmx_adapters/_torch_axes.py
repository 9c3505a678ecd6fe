"""Following the axes of tensors through a pass of torch, whatever runs it: Python, TorchScript or a torch.fx graph.

All of them come down to the same operators, which a dispatch mode sees with their arguments. A tensor is known by the
memory that it takes up: the same tensor may be handed out as another object, while views of one memory differ in their
shapes and strides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fmx.adapter import InputInfo
from fmx_adapters import _axes
from fmx_adapters._axes import Axes
from fmx_adapters._torch import tensors_in

__all__ = ["AxisTracker"]

Place = tuple[int, int, tuple[int, ...], tuple[int, ...]]


class AxisTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows the axes of the tensors of a pass that runs in its context.

    Parameters
    ----------
    inputs : sequence of InputInfo
    batch : mapping of str to tensor
        The inputs of the pass by their names.
    """

    def __init__(self, inputs: Sequence[InputInfo], batch: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._axes: dict[Place, Axes | None] = {}
        # Kept, so that no memory is used twice.
        self._alive: list[torch.Tensor] = []
        for info in inputs:
            tensor = batch[info.name]
            self._set(tensor, _axes.input_axes(info, len(tensor)))

    def of(self, value: object) -> Axes | None:
        """Give the axes of a tensor, None where they are not known."""
        place = _place(value)
        return None if place is None else self._axes.get(place)

    def roles(self, value: object) -> tuple[str, ...]:
        """Give the roles of a tensor's axes behind the batch axis, for `fmx.layers.native_dims`."""
        return _axes.roles_of(self.of(value))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and tell the axes of what it gives."""
        keywords = dict(kwargs or {})
        arguments = _as_tensors(func._schema.arguments, args)
        result = func(*arguments, **keywords)
        names = (argument.name for argument in func._schema.arguments)
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        found = self._follow(func._schema.name, given, result)
        for (_, tensor), axes in zip(tensors_in(result), found, strict=False):
            self._set(tensor, axes)
        return result

    def _follow(self, name: str, given: Mapping[str, Any], result: Any) -> list[Axes | None]:
        outputs = [tensor for _, tensor in tensors_in(result)]
        if not outputs or all(self.of(tensor) is None for tensor in _tensors(given.values())):
            rule = _MAKING.get(_plain(name))
        else:
            rule = _RULES.get(_plain(name), _elementwise)
        try:
            return [] if rule is None else [rule(_Call(self, given, tensor)) for tensor in outputs]
        except (IndexError, KeyError, TypeError, ValueError):
            return []  # of an operator that is used in an odd way no names of axes are known

    def _set(self, tensor: torch.Tensor, axes: Axes | None) -> None:
        place = _place(tensor)
        # What nobody knows anything of may be a view of what is known, and stays that.
        if place is not None and (axes is not None or place not in self._axes):
            self._alive.append(tensor)
            self._axes[place] = axes if axes is not None and len(axes) == tensor.dim() else None


def _place(value: object) -> Place | None:
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    return value.untyped_storage().data_ptr(), int(value.storage_offset()), tuple(value.shape), tuple(value.stride())


def _plain(name: str) -> str:
    """``aten::_unsafe_view`` and ``aten::view`` are one operation, and so are ``aten::relu`` and ``aten::relu_``."""
    return name.rpartition("::")[2].strip("_")


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _as_tensors(schema: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Give tensors where an operator takes them: the numbers of a TorchScript graph come as Python's."""
    wanted = [str(argument.type) in {"Tensor", "Optional[Tensor]"} for argument in schema]
    return [
        torch.tensor(value) if is_tensor and isinstance(value, int | float) else value
        for value, is_tensor in zip(args, wanted, strict=False)
    ]


# -- rules -----------------------------------------------------------------------------------------


class _Call:
    """A call of an operator: what was given for its arguments, by their names, and one tensor that came out."""

    def __init__(self, tracker: AxisTracker, given: Mapping[str, Any], out: torch.Tensor) -> None:
        self._tracker = tracker
        self.given = given
        self.shape = tuple(out.shape)

    def of(self, *names: str) -> Axes | None:
        """Give the axes of the first of some arguments that there is."""
        return self._tracker.of(next((self.given[name] for name in names if name in self.given), None))

    def all_of(self, *values: Any) -> list[Axes | None]:
        """Give the axes of tensors, also of those in lists."""
        return [self._tracker.of(tensor) for tensor in _tensors(values)]

    @property
    def first(self) -> Axes | None:
        """Axes of the first tensor, which most operators work on."""
        return next(iter(self.all_of(*self.given.values())), None)


Rule = Callable[[_Call], Axes | None]


def _elementwise(call: _Call) -> Axes | None:
    return _axes.broadcast(call.all_of(*call.given.values()), call.shape)


def _reshape(call: _Call) -> Axes | None:
    return call.first and _axes.reshaped(call.first, call.shape)


def _resize(call: _Call) -> Axes | None:
    return call.first and _axes.resized(call.first, call.shape)


def _permute(call: _Call) -> Axes | None:
    axes = call.first
    return axes and tuple(axes[dim] for dim in call.given["dims"])


def _transpose(call: _Call) -> Axes | None:
    axes = call.first
    if axes is None or len(axes) < 2:
        return axes
    order = list(range(len(axes)))
    one, two = call.given.get("dim0", 0), call.given.get("dim1", 1)
    order[one], order[two] = order[two], order[one]
    return tuple(axes[i] for i in order)


def _select(call: _Call) -> Axes | None:
    axes = call.first
    return axes and _axes.without(axes, {call.given.get("dim", 0) % len(axes)})


def _stack(call: _Call) -> Axes | None:
    place = call.given.get("dim", 0) % len(call.shape)
    shape = [n for i, n in enumerate(call.shape) if i != place]
    axes = _axes.broadcast(call.all_of(call.given["tensors"]), shape)
    return axes and (*axes[:place], (("", call.shape[place]),), *axes[place:])


def _cat(call: _Call) -> Axes | None:
    return _axes.joined(call.all_of(call.given["tensors"]), call.given.get("dim", 0), call.shape)


def _index(call: _Call) -> Axes | None:
    used = [index for index in call.given["indices"] if index is not None]
    return _resize(call) if len(used) == 1 and used[0].dim() == 1 else None


def _reduce(call: _Call) -> Axes | None:
    axes, dims = call.first, call.given.get("dim")
    if axes is None or (dims is None and not call.shape):
        return None
    wanted = [dims] if isinstance(dims, int) else dims or range(len(axes))
    return _axes.reduced(axes, [dim % len(axes) for dim in wanted], keep=len(call.shape) == len(axes))


def _convolve(call: _Call) -> Axes | None:
    return _axes.convolved(call.first, call.shape)


def _pool(call: _Call) -> Axes | None:
    return _axes.pooled(call.first, call.shape)


def _normalise(call: _Call) -> Axes | None:
    if call.shape != tuple(call.given["input"].shape):
        return None  # the statistics
    return _axes.normalised(call.of("input"), call.shape, len(call.given["normalized_shape"]))


def _multiply(call: _Call) -> Axes | None:
    # addmm(self, mat1, mat2), mm(self, mat2), baddbmm(self, batch1, batch2), bmm(self, mat2)
    return _axes.multiplied(call.of("mat1", "batch1", "self"), call.of("mat2", "batch2"), call.shape)


def _embed(call: _Call) -> Axes | None:
    return _axes.embedded(call.of("indices"), call.shape)


def _linear(call: _Call) -> Axes | None:
    """Follow what makes features of the last axis as a linear layer does, recurrent layers among it."""
    axes = call.first
    if axes is None or _axes.resized(axes, (*call.shape[:-1], _axes.length(axes[-1]))) != axes:
        return None
    return _axes.transformed(axes, call.shape[-1])


def _attend(call: _Call) -> Axes | None:
    axes = call.of("query")
    return axes and _axes.resized(axes, call.shape)


def _forget(_: _Call) -> Axes | None:
    return None


def _table(words: Mapping[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in words.items() for name in names.split()}


# What tells the axes of its value even if nothing is known of what it reads.
_MAKING = _table(
    {
        _convolve: """
            convolution mkldnn_convolution cudnn_convolution cudnn_convolution_relu cudnn_convolution_transpose
            convolution_overrideable thnn_conv2d slow_conv_dilated2d slow_conv3d_forward mps_convolution
            miopen_convolution conv_depthwise2d conv_depthwise3d deform_conv2d
        """,
        _pool: """
            max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices max_pool1d max_pool2d max_pool3d
            mkldnn_max_pool2d mkldnn_max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
            adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d
            native_batch_norm native_batch_norm_legit_no_training native_batch_norm_legit cudnn_batch_norm batch_norm
            miopen_batch_norm batch_norm_with_update batch_norm_no_update native_group_norm
            upsample_nearest1d upsample_linear1d upsample_nearest2d upsample_nearest_exact1d upsample_nearest_exact2d
            upsample_bilinear2d upsample_bilinear2d_aa upsample_bicubic2d upsample_bicubic2d_aa upsample_nearest3d
            upsample_nearest_exact3d upsample_trilinear3d pixel_shuffle pixel_unshuffle grid_sampler_2d grid_sampler_3d
            channel_shuffle native_channel_shuffle
        """,
        _normalise: "native_layer_norm fused_rms_norm",
        _embed: "embedding",
    }
)
_RULES = _MAKING | _table(
    {
        _reshape: "view unsafe_view reshape_alias reshape unsqueeze squeeze squeeze_copy view_copy",
        _resize: """
            slice narrow split split_with_sizes unsafe_split chunk unsafe_chunk roll flip constant_pad_nd
            reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
            index_select cumsum cumprod sort topk repeat_interleave
        """,
        _permute: "permute",
        _transpose: "transpose t",
        _select: "select unbind",
        _stack: "stack",
        _cat: "cat",
        _index: "index",
        _reduce: """
            mean sum amax amin max min prod std var median linalg_vector_norm norm logsumexp argmax argmin any all
        """,
        _multiply: "mm addmm bmm baddbmm",
        _linear: """
            linear linear_relu linear_dynamic mkldnn_linear mkldnn_rnn_layer lstm gru rnn_tanh rnn_relu cudnn_rnn
        """,
        _attend: """
            scaled_dot_product_flash_attention_for_cpu scaled_dot_product_flash_attention
            scaled_dot_product_efficient_attention scaled_dot_product_cudnn_attention
            scaled_dot_product_attention_math_for_mps scaled_dot_product_fused_attention_overrideable
        """,
        # Of these, shapes alone would tell a wrong story.
        _forget: "as_strided unfold im2col col2im gather scatter index_put take_along_dim diagonal",
    }
)
