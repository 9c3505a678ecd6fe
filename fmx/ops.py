"""Operations outside any leaf module, under one name in every format.

Adapters translate what their format calls an operation (``aten::add_``, ``Tensor.__iadd__``, ONNX ``Add``) into
these names. Operations that only move or reshape values (view, flatten, transpose, slicing) are no layers: they
hold no new values, and every exporter writes them differently. A *module* that reshapes is a layer all the same.
"""

from __future__ import annotations

__all__ = ["LAYER_OPS", "canonical_op"]

LAYER_OPS = frozenset(
    """
    add sub mul div pow sqrt exp log abs neg clamp maximum minimum
    cat stack matmul linear bilinear einsum
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh
    sigmoid tanh softplus softmax log_softmax
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    batch_norm layer_norm group_norm instance_norm local_response_norm normalize rms_norm
    mean sum amax amin norm interpolate pixel_shuffle grid_sample
    scaled_dot_product_attention multi_head_attention_forward
    """.split()
)

_SYNONYMS = {
    "concat": "cat",
    "concatenate": "cat",
    "bmm": "matmul",
    "mm": "matmul",
    "addmm": "linear",
    "true_divide": "div",
    "truediv": "div",
    "itruediv": "div",
    "subtract": "sub",
    "multiply": "mul",
    "clip": "clamp",
    "clamp_min": "clamp",
    "clamp_max": "clamp",
    "swish": "silu",
    "upsample_nearest2d": "interpolate",
    "upsample_bilinear2d": "interpolate",
    "upsample_bicubic2d": "interpolate",
    "convolution": "conv2d",
    "_convolution": "conv2d",
    "native_layer_norm": "layer_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "rsub": "sub",
    "linalg_vector_norm": "norm",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_adaptive_avg_pool3d": "adaptive_avg_pool3d",
}


def canonical_op(name: str) -> str | None:
    """Give the canonical name of a PyTorch operation, or None for one that makes no layer.

    ``add_``, ``__iadd__``, ``__radd__`` and ``aten::add`` are all ``add``.
    """
    name = name.rpartition("::")[2]
    dunder = name.startswith("__")
    name = name.strip("_") if dunder else name
    # __iadd__ and __radd__ are the in-place and the reflected form of __add__.
    candidates = (name, name[1:]) if dunder and name[:1] in {"i", "r"} else (name, name.rstrip("_"))
    for candidate in candidates:
        found = _SYNONYMS.get(candidate, candidate)
        if found in LAYER_OPS:
            return found
    return None
