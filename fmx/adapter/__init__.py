"""What an adapter is, and how a model source finds its adapter.

An *adapter* says whether it can open a source, by content, and opens it as a *model*; a model prepares a *session*
for some of its layers; a session turns batches into activations. Formats are registered through the entry-point
group ``fmx.adapters`` and loaded only when a source is opened, so that a third party adds a format without touching
fmx.
"""

from fmx.adapter.contract import Adapter, Batch, Capture, Model, Session
from fmx.adapter.opening import adapters, load
from fmx.adapter.picking import choose_layers, resolve
from fmx.adapter.running import check_batch, check_inputs, run_all, sharing
from fmx.adapter.source import InputInfo, ModelSource, OpenOptions

__all__ = [
    "Adapter",
    "Batch",
    "Capture",
    "InputInfo",
    "Model",
    "ModelSource",
    "OpenOptions",
    "Session",
    "adapters",
    "check_batch",
    "check_inputs",
    "choose_layers",
    "load",
    "resolve",
    "run_all",
    "sharing",
]
