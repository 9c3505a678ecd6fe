"""What ONNX calls operations, in PyTorch's words: the operation's canonical name and the kind of the module."""

from __future__ import annotations

from typing import Any

__all__ = ["words_of"]

# ONNX operator: (operation of fmx.ops, kind of the module that does nothing else); # stands for the number of
# spatial axes.
_WORDS = {
    "Add": ("add", "add"),
    "Sub": ("sub", "sub"),
    "Mul": ("mul", "mul"),
    "Div": ("div", "div"),
    "Pow": ("pow", "pow"),
    "Sqrt": ("sqrt", "sqrt"),
    "Exp": ("exp", "exp"),
    "Log": ("log", "log"),
    "Abs": ("abs", "abs"),
    "Neg": ("neg", "neg"),
    "Max": ("maximum", "maximum"),
    "Min": ("minimum", "minimum"),
    "Concat": ("cat", "cat"),
    "MatMul": ("matmul", "matmul"),
    "Gemm": ("linear", "Linear"),
    "Einsum": ("einsum", "einsum"),
    "Conv": ("conv#d", "Conv#d"),
    "ConvTranspose": ("conv_transpose#d", "ConvTranspose#d"),
    "Relu": ("relu", "ReLU"),
    "LeakyRelu": ("leaky_relu", "LeakyReLU"),
    "PRelu": ("prelu", "PReLU"),
    "Elu": ("elu", "ELU"),
    "Selu": ("selu", "SELU"),
    "Celu": ("celu", "CELU"),
    "Gelu": ("gelu", "GELU"),
    "Mish": ("mish", "Mish"),
    "HardSwish": ("hardswish", "Hardswish"),
    "HardSigmoid": ("hardsigmoid", "Hardsigmoid"),
    "Sigmoid": ("sigmoid", "Sigmoid"),
    "Tanh": ("tanh", "Tanh"),
    "Softplus": ("softplus", "Softplus"),
    "Softmax": ("softmax", "Softmax"),
    "LogSoftmax": ("log_softmax", "LogSoftmax"),
    "MaxPool": ("max_pool#d", "MaxPool#d"),
    "AveragePool": ("avg_pool#d", "AvgPool#d"),
    "GlobalAveragePool": ("adaptive_avg_pool#d", "AdaptiveAvgPool#d"),
    "GlobalMaxPool": ("adaptive_max_pool#d", "AdaptiveMaxPool#d"),
    "BatchNormalization": ("batch_norm", "BatchNorm#d"),
    "LayerNormalization": ("layer_norm", "LayerNorm"),
    "GroupNormalization": ("group_norm", "GroupNorm"),
    "InstanceNormalization": ("instance_norm", "InstanceNorm#d"),
    "LRN": ("local_response_norm", "LocalResponseNorm"),
    "ReduceMean": ("mean", "mean"),
    "ReduceSum": ("sum", "sum"),
    "ReduceMax": ("amax", "amax"),
    "ReduceMin": ("amin", "amin"),
    "Resize": ("interpolate", "Upsample"),
    "Upsample": ("interpolate", "Upsample"),
    "DepthToSpace": ("pixel_shuffle", "PixelShuffle"),
    "GridSample": ("grid_sample", "grid_sample"),
    "Clip": ("clamp", "Hardtanh"),
    "Flatten": ("", "Flatten"),
    "Identity": ("", "Identity"),
}


def words_of(node: Any, rank: int, limits: tuple[float, float] | None) -> tuple[str | None, str]:
    """Give a node's canonical operation, and the kind of a module that consists of this one node.

    Parameters
    ----------
    node : onnx.NodeProto
    rank : int
        Number of axes of the node's value, batch and channel included.
    limits : tuple of float or None
        Bounds of a Clip, where they are constants: a Clip from 0 to 6 is a ReLU6.

    Returns
    -------
    op : str or None
        None for an operation that makes no layer by itself.
    kind : str
    """
    if node.op_type == "Clip" and limits == (0.0, 6.0):
        return "relu6", "ReLU6"
    op, kind = _WORDS.get(node.op_type, ("", node.op_type))
    spatial = str(max(rank - 2, 1))
    return op.replace("#", spatial) or None, kind.replace("#", spatial)
