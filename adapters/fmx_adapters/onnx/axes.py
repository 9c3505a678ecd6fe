"""Following the axes of values through an ONNX graph, by the shapes that the small batch gave.

See `fmx_adapters._axes` for what is followed and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import numpy_helper

from fmx.adapter import InputInfo
from fmx_adapters import _axes
from fmx_adapters._axes import Axes

__all__ = ["follow_axes", "split_values"]

Shape = tuple[int, ...]


def follow_axes(
    graph: onnx.GraphProto,
    constants: Mapping[str, onnx.TensorProto | None],
    shapes: Mapping[str, Shape],
    inputs: Sequence[InputInfo],
    batch: int,
) -> dict[str, Axes]:
    """Tell the axes of the values of a graph.

    Parameters
    ----------
    graph : onnx.GraphProto
    constants : mapping of str to TensorProto or None
        The values that do not depend on the input, None where they are computed.
    shapes : mapping of str to tuple of int
        Shapes of the values that depend on the input, batch included.
    inputs : sequence of InputInfo
    batch : int
        Number of samples that these shapes are of.

    Returns
    -------
    dict of str to Axes
        Without those of which nothing is known.
    """
    found: dict[str, Axes] = {info.name: _axes.input_axes(info, batch) for info in inputs}
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name in shapes:
                axes = _Node(node, constants, found, shapes[name], i).follow()
                if axes is not None and len(axes) == len(shapes[name]):
                    found[name] = axes
    return found


def split_values(axes: Mapping[str, Axes]) -> set[str]:
    """List the values in which an axis of the maps is in several pieces, as windows are made and put together."""
    pieces = {name: [role for role in _axes.roles_of(found) if role in {"z", "y", "x"}] for name, found in axes.items()}
    return {name for name, roles in pieces.items() if len(set(roles)) < len(roles)}


class _Node:
    """A node with what is known around it."""

    def __init__(
        self,
        node: onnx.NodeProto,
        constants: Mapping[str, onnx.TensorProto | None],
        known: Mapping[str, Axes],
        shape: Shape,
        output: int,
    ) -> None:
        self.inputs = [known.get(name) for name in node.input]
        self.shape = shape
        self.output = output
        self.name = node.op_type if node.domain in {"", "ai.onnx", "com.microsoft"} else ""
        self._attributes = {a.name: a for a in node.attribute}
        self._constants = constants
        self._names = list(node.input)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Give the value of an attribute."""
        found = self._attributes.get(name)
        return default if found is None else onnx.helper.get_attribute_value(found)

    def is_constant(self, place: int) -> bool:
        """Say whether an input does not depend on the model's input."""
        return self._names[place] in self._constants

    def integers(self, place: int, name: str) -> list[int] | None:
        """Give integers that are an attribute in older operator sets and a constant input in newer ones."""
        found: list[int] | None = self.attribute(name)
        tensor = self._constants.get(self._names[place]) if place < len(self._names) else None
        if found is None and tensor is not None:
            found = numpy_helper.to_array(tensor).reshape(-1).tolist()
        return found

    @property
    def first(self) -> Axes | None:
        """Axes of the first input, which most operators work on."""
        return self.inputs[0] if self.inputs else None

    def follow(self) -> Axes | None:
        """Tell the axes of the output."""
        is_known = any(axes is not None for axes in self.inputs)
        rule = _RULES.get(self.name, _elementwise) if is_known else _MAKING.get(self.name)
        try:
            return None if rule is None else rule(self)
        except (IndexError, KeyError, TypeError, ValueError):
            return None  # of an operator that is used in an odd way no names of axes are known


# -- rules -----------------------------------------------------------------------------------------

Rule = Callable[[_Node], Axes | None]


def _elementwise(node: _Node) -> Axes | None:
    return _axes.broadcast(node.inputs, node.shape)


def _reshape(node: _Node) -> Axes | None:
    return node.first and _axes.reshaped(node.first, node.shape)


def _resize(node: _Node) -> Axes | None:
    return node.first and _axes.resized(node.first, node.shape)


def _transpose(node: _Node) -> Axes | None:
    if node.first is None:
        return None
    order = node.attribute("perm", range(len(node.first) - 1, -1, -1))
    return tuple(node.first[i] for i in order)


def _concat(node: _Node) -> Axes | None:
    return _axes.joined(node.inputs, node.attribute("axis"), node.shape)


def _gather(node: _Node) -> Axes | None:
    """Follow the choice of one or of some elements of an axis, or a table of vectors."""
    axes, place = node.first, node.attribute("axis", 0)
    if axes is None:
        return _axes.embedded(node.inputs[1], node.shape) if place == 0 and node.is_constant(0) else None
    if len(node.shape) == len(axes) - 1:
        return _axes.without(axes, {place % len(axes)})
    return _axes.resized(axes, node.shape)


def _reduce(node: _Node) -> Axes | None:
    axes = node.first
    if axes is None or len(node.shape) == len(axes):
        return axes and _axes.resized(axes, node.shape)
    dims = node.integers(1, "axes")
    return None if dims is None else _axes.reduced(axes, dims, keep=False)


def _convolve(node: _Node) -> Axes | None:
    return _axes.convolved(node.first, node.shape)


def _pool(node: _Node) -> Axes | None:
    return _axes.pooled(node.first, node.shape)


def _normalise(node: _Node) -> Axes | None:
    rank = len(node.shape)
    return None if node.output else _axes.normalised(node.first, node.shape, rank - node.attribute("axis", -1) % rank)


def _multiply(node: _Node) -> Axes | None:
    if len(node.shape) < 2 or any(axes is not None and len(axes) < 2 for axes in node.inputs):
        return None
    return _axes.multiplied(node.inputs[0], node.inputs[1], node.shape)


def _gemm(node: _Node) -> Axes | None:
    return None if node.attribute("transA", 0) else _axes.multiplied(node.inputs[0], node.inputs[1], node.shape)


def _recur(node: _Node) -> Axes | None:
    """Follow a recurrent layer: it takes (token, sample, channel) and gives (token, direction, sample, channel)."""
    axes = node.first
    if axes is None or len(axes) != 3 or node.output or node.attribute("layout", 0):
        return None
    return axes[0], (("", node.shape[1]),), axes[1], (("channel", node.shape[3]),)


def _attend(node: _Node) -> Axes | None:
    return None if node.output else _resize(node)


def _einsum(node: _Node) -> Axes | None:
    equation = node.attribute("equation").decode().replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation or len(result) != len(node.shape):
        return None
    return _axes.contracted(node.inputs, terms.split(","), result, node.shape)


def _forget(_: _Node) -> Axes | None:
    return None


def _table(words: Mapping[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in words.items() for name in names.split()}


# What tells the axes of its value even if nothing is known of what it reads.
_MAKING = _table(
    {
        _convolve: "Conv ConvTranspose ConvInteger QLinearConv DeformConv",
        _pool: """
            MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool BatchNormalization
            InstanceNormalization GroupNormalization LRN DepthToSpace SpaceToDepth GridSample
        """,
        _normalise: "LayerNormalization RMSNormalization SimplifiedLayerNormalization",
        _gather: "Gather",
    }
)
_RULES = _MAKING | _table(
    {
        _reshape: "Reshape Flatten Squeeze Unsqueeze",
        _resize: "Slice Split Pad Resize Upsample Tile TopK",
        _transpose: "Transpose",
        _concat: "Concat",
        _reduce: """
            ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd
            ReduceSumSquare ArgMax ArgMin
        """,
        _multiply: "MatMul",
        _gemm: "Gemm",
        _einsum: "Einsum",
        _recur: "LSTM GRU RNN",
        _attend: "Attention MultiHeadAttention",
        # Of these, shapes alone would tell a wrong story.
        _forget: "GatherElements GatherND ScatterElements ScatterND Scatter Col2Im NonZero Compress OneHot Shape",
    }
)
