"""Projections of many networks, by the commands: the same in every format."""

from __future__ import annotations

import pytest
from sweep_projection import EXACT, NETWORKS, TOLERANCE, Found, sweep

# Exporters' rounding of folded weights decides which side of a corner a value lies on, in double precision, too: with
# weights folded in double precision the same networks give the same.
DECIDED = {"inception_v3"}


def explain(name: str, form: str, found: Found) -> None:
    """Fail on what is no rounding: the module in single precision is as far from itself in double."""
    assert not found.failed, f"{form}: {found.failed}"
    for what, apart in found.single.items():
        if apart <= TOLERANCE or what == "occlude":
            continue
        as_itself = found.itself[what] > apart / 10
        assert found.double[what] <= EXACT or as_itself or name in DECIDED, f"{form}, {what}: {found}"


def test_formats_project_alike() -> None:
    found = sweep("timm_resnet10t", ("traced", "exported", "dynamo ONNX"), ("deconv", "guided", "occlude"))
    for form, made in found.items():
        explain("timm_resnet10t", form, made)
        assert form == "module" or set(made.single) == {"deconv", "guided", "occlude"}
        assert max(made.single.values(), default=0.0) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_all_formats_project_alike(name: str) -> None:
    for form, made in sweep(name).items():
        explain(name, form, made)
