"""torchvision's classification models: every format lists the same layers and agrees on their values."""

from __future__ import annotations

import pytest
import torchvision.models as zoo
from sweep import IDLE, TOLERANCE, Comparison, sweep

# A few small ones of different build; the rest is run by hand.
QUICK = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1")


# Of some models a format does not list more, and lists what others don't; docs/formats.md says why.
MISSING = {
    ("swin_v2", "exported"): {"add", "linear", "matmul", "mul", "normalize", "softmax"},
    ("swin_v2", "dynamo ONNX"): {"add", "linear", "matmul", "mul", "normalize", "softmax"},
    ("swin_v2", "traced"): {"normalize"},
    ("maxvit", "dynamo ONNX"): {"WindowDepartition", "PartitionAttentionLayer"},
}
EXTRA = {("swin_v2", "traced"): {"norm", "clamp", "div"}}


def explain(model: str, form: str, found: Comparison) -> None:
    """Fail on anything that is no known exception of the format."""
    assert not found.failed, f"{form}: {found.failed}"
    assert found.worst <= TOLERANCE, form
    assert not found.other_axes, f"{form} names other axes: {found.other_axes}"
    case = model.rpartition("_")[0], form
    allowed = IDLE | MISSING.get(case, set())
    if form == "dynamo ONNX":
        # Convolutions that a batch norm was folded into; pools that the exporter writes as means.
        allowed |= {"Conv2d", "adaptive_avg_pool2d", "cat"}
    assert set(found.missing) <= allowed, f"{form} misses {found.missing}"
    known = {"mean"} | EXTRA.get(case, set())
    added = {name.rpartition(".")[2].partition("_")[0] for name in found.extra}
    assert added <= known, f"{form} adds {found.extra}"


@pytest.mark.parametrize("name", QUICK)
def test_formats_agree(name: str) -> None:
    for form, found in sweep(name).items():
        explain(name, form, found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(set(zoo.list_models(module=zoo)) - set(QUICK)))
def test_all_formats_agree(name: str) -> None:
    for form, found in sweep(name).items():
        explain(name, form, found)
