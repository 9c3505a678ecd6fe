"""ONNX's own tests of single operators, for every operator that the importer claims.

Each case is run twice: as it is, and with all inputs but the first made constants of the graph, which is how a model
holds its weights and what makes modules of `torch.nn` out of them.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from fmx_adapters.onnx.importer import CLAIMED, to_torch
from fmx_adapters.onnx.importer.constants import CARRIED, DTYPES, from_array, tensor_of
from fmx_adapters.onnx.importer.operators import document

# Cases, as patterns of names, that can't pass, and why.
EXCLUDED = {
    "test_cast*FLOAT4E2M1*": "an element type that PyTorch lacks",
    "test_cast_e8m0_*": "an element type that PyTorch computes nothing with",
    "test_dequantizelinear_float4e2m1": "an element type that PyTorch lacks",
    "test_quantizelinear_float4e2m1": "an element type that PyTorch lacks",
    "test_equal_string*": "tensors of strings",
    "test_scan_sum": "operator set 8, in which Scan was another operator",
    "test_resize_downsample_scales_*_align_corners": (
        "takes the new length as a fraction where corners are aligned; ONNX Runtime and PyTorch both take the whole "
        "number, and so does the importer"
    ),
}
# Cases whose values are drawn at random: types and shapes are compared.
RANDOM = {
    "test_bernoulli*": "random values",
    "test_training_dropout_default*": "random values",
    "test_training_dropout": "random values",
    "test_training_dropout_mask": "random values",
}
# Cases that expect rounding noise: absolute tolerance.
NOISY = {"test_dft_inverse*": 1e-6}  # numpy's transform gives 1.9e-7 where the value is 0
# Operators without a case, which test_onnx_importer compares with ONNX Runtime or by statistics.
WITHOUT_CASE = {
    "ConcatFromSequence",
    "GlobalLpPool",
    "MaxRoiPool",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "SequenceErase",
}
DOCUMENT = Path(__file__).parents[1] / "docs" / "onnx-operators.md"


@cache
def cases_by_operator() -> dict[str, list[Any]]:
    """List the cases whose operators are all claimed under the operators that they use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases are computed as they are loaded, infinities and all
        loaded = load_model_tests(kind="node")
    claimed = set(CLAIMED)
    found: dict[str, list[Any]] = defaultdict(list)
    for case in loaded:
        used = set(operators(case.model.graph))
        if used <= claimed:
            for name in used:
                found[name].append(case)
    return found


def operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from operators(attribute.g)


def listed(name: str, table: dict[str, Any]) -> str | None:
    return next((pattern for pattern in table if fnmatch.fnmatchcase(name, pattern)), None)


def subject(case: Any) -> str:
    """The operator that a case is about, under which it runs: the one with the fewest cases."""
    names = set(operators(case.model.graph))
    return min(names, key=lambda name: (len(cases_by_operator()[name]), name))


def to_tensor(value: Any) -> Any:
    if isinstance(value, list):
        return [to_tensor(v) for v in value]
    if value is None:
        return None
    if isinstance(value, TensorProto):
        return tensor_of(value)
    array = np.asarray(value)
    elem = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    if elem in CARRIED:
        return torch.from_numpy(array.astype(str(CARRIED[elem][0]).removeprefix("torch.")))
    return from_array(array.copy(), DTYPES[elem])


def compare(got: Any, expected: Any, rtol: float, atol: float, *, values: bool) -> None:
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for part, wanted in zip(got, expected, strict=True):
            compare(part, wanted, rtol, atol, values=values)
        return
    if expected is None:
        assert got is None
        return
    wanted = to_tensor(expected)
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    if wanted.dtype in {torch.float16, torch.bfloat16}:
        # Two units in the last place, as ONNX's own runner allows for bfloat16.
        rtol = max(rtol, 2 * torch.finfo(wanted.dtype).eps)
    if values:
        wide = torch.complex128 if wanted.is_complex() else torch.float64
        np.testing.assert_allclose(got.detach().to(wide), wanted.to(wide), rtol=rtol, atol=atol)


def with_constants(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, list[Any]] | None:
    """Make constants of all inputs but the first; None where there is nothing to make."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    if len(inputs) < 2 or graph.input[0].type.WhichOneof("value") != "tensor_type":
        return None
    kept = [(graph.input[0], inputs[0])]
    for info, value in zip(list(graph.input)[1:], inputs[1:], strict=True):
        if isinstance(value, np.ndarray) and info.type.WhichOneof("value") == "tensor_type":
            graph.initializer.append(numpy_helper.from_array(value, info.name))
        else:
            kept.append((info, value))
    infos = [info for info, _ in kept]
    del graph.input[:]
    graph.input.extend(infos)
    return changed, [value for _, value in kept]


def run(case: Any, model: onnx.ModelProto, inputs: list[Any], outputs: list[Any]) -> None:
    module = to_torch(model)
    module.graph.lint()
    made = module(*(to_tensor(value) for value in inputs))
    noisy = listed(case.name, NOISY)
    atol = case.atol if noisy is None else NOISY[noisy]
    compare(
        [made] if len(outputs) == 1 else list(made),
        list(outputs),
        case.rtol,
        atol,
        values=listed(case.name, RANDOM) is None,
    )


@pytest.mark.parametrize("name", CLAIMED)
def test_operator_passes_the_cases_of_onnx(name: str) -> None:
    cases = cases_by_operator().get(name, [])
    assert bool(cases) != (name in WITHOUT_CASE)
    failed = []
    for case in cases:
        if subject(case) != name or listed(case.name, EXCLUDED):
            continue
        for inputs, outputs in case.data_sets:
            variants = [("", (case.model, list(inputs))), (" with constants", with_constants(case.model, list(inputs)))]
            for what, variant in variants:
                try:
                    if variant is not None:
                        run(case, *variant, list(outputs))
                except Exception as error:  # to name all that fail
                    failed.append(f"{case.name}{what}: {type(error).__name__} {error}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", [name for name in CLAIMED if name not in WITHOUT_CASE])
def test_most_cases_of_an_operator_are_not_excluded(name: str) -> None:
    names = [case.name for case in cases_by_operator()[name]]
    excluded = [n for n in names if listed(n, EXCLUDED)]
    assert 2 * len(excluded) < len(names)


def test_every_exclusion_excludes_something() -> None:
    names = {case.name for cases in cases_by_operator().values() for case in cases}
    matched = Counter(listed(name, EXCLUDED) or listed(name, RANDOM) or listed(name, NOISY) for name in names)
    for pattern in [*EXCLUDED, *RANDOM, *NOISY]:
        assert matched[pattern], pattern


def test_what_is_claimed_is_documented() -> None:
    assert len(CLAIMED) >= 100
    assert DOCUMENT.read_text() == document(), "python -m fmx_adapters.onnx.importer > docs/onnx-operators.md"
