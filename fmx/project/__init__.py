"""From features back to pictures: what in the input a layer, a channel, a neuron or a class responds to.

The names below are imported when they are first used: what needs no gradients pulls in no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmx.project.attribution import ATTRIBUTIONS, Attribution, attribute
    from fmx.project.deconvnet import Deconvnet, deconv
    from fmx.project.inputs import Pictures, open_pictures
    from fmx.project.mutual_information import PIXEL_ESTIMATORS, information
    from fmx.project.occlusion import occlude
    from fmx.project.targets import Wanted
    from fmx.project.top import project_top, stored_pictures

__all__ = [
    "ATTRIBUTIONS",
    "PIXEL_ESTIMATORS",
    "Attribution",
    "Deconvnet",
    "Pictures",
    "Wanted",
    "attribute",
    "deconv",
    "information",
    "occlude",
    "open_pictures",
    "project_top",
    "stored_pictures",
]

_HOMES = {
    "ATTRIBUTIONS": "attribution",
    "Attribution": "attribution",
    "attribute": "attribution",
    "Deconvnet": "deconvnet",
    "Pictures": "inputs",
    "deconv": "deconvnet",
    "PIXEL_ESTIMATORS": "mutual_information",
    "information": "mutual_information",
    "occlude": "occlusion",
    "open_pictures": "inputs",
    "project_top": "top",
    "stored_pictures": "top",
    "Wanted": "targets",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fmx.project.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fmx.project' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
