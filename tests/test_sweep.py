"""torchvision's classification models: every format lists the same layers and agrees on their values."""

from __future__ import annotations

import pytest
import torchvision.models as zoo
from sweep import IDLE, TOLERANCE, Comparison, sweep

# A few small ones of different build; the rest is run by hand.
QUICK = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1")


def explain(form: str, found: Comparison) -> None:
    """Fail on anything that is no known exception of the format."""
    assert not found.failed, f"{form}: {found.failed}"
    assert found.worst <= TOLERANCE, form
    allowed = set(IDLE)
    if form == "dynamo ONNX":
        # Convolutions that a batch norm was folded into; pools that the exporter writes as means.
        allowed |= {"Conv2d", "adaptive_avg_pool2d", "cat"}
    assert set(found.missing) <= allowed, f"{form} misses {found.missing}"
    assert all(name.rpartition(".")[2].startswith("mean") for name in found.extra), f"{form} adds {found.extra}"


@pytest.mark.parametrize("name", QUICK)
def test_formats_agree(name: str) -> None:
    for form, found in sweep(name).items():
        explain(form, found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(set(zoo.list_models(module=zoo)) - set(QUICK)))
def test_all_formats_agree(name: str) -> None:
    for form, found in sweep(name).items():
        explain(form, found)
