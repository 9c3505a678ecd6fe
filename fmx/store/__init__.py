"""The labelled store of activations: its format, where it is, how it is made, written, continued, checked and read.

An extraction into a store, new or half there, goes like this::

    final = place_of(to)
    with StoreLock(final):
        place = building_place(final, overwrite=overwrite)       # a hidden folder while something is replaced
        if is_fmx_store(place):
            stored = stored_settings(place)                      # attributes, samples, noise, …
            if differences(stored, plan_settings(plan)): …       # refuse with what differs
        else:
            place = create_store(final, plan, overwrite=overwrite)
        with UnitWriter(place, buffers=2) as writer:             # in as many processes as wanted
            for unit in pending_units(place):
                writer.start_unit()
                writer.put(layer, rows, block, noise=level)
                writer.finish_unit(unit)
        finish_store(place)

What is added to a finished store goes the same way, with `append_plan`, `AppendWriter` (whose units have parts) and
`finish_append`.
"""

from fmx.store.append import AppendPart, AppendPlan, AppendUnit, AppendWriter, append_plan, finish_append
from fmx.store.codecs import DISK_RATE, NETWORK_RATE, choose_codecs, encoded_ratio
from fmx.store.compare import differences, plan_settings, stored_settings
from fmx.store.create import building_place, create_store, finish_store, hierarchy, prepare_place
from fmx.store.encode import DEFAULT_CODEC
from fmx.store.labels import relabel
from fmx.store.layout import Layout, is_fmx_store, pending_units, read_layout, unusual_values
from fmx.store.locks import StoreLock
from fmx.store.places import Place, place_of
from fmx.store.plan import StorePlan
from fmx.store.reader import Store, open_store
from fmx.store.repair import mark_for_repair
from fmx.store.results import check_analysis_name, open_analysis, save_analysis, saved_analyses
from fmx.store.schema import FORMAT, layer_key
from fmx.store.unit_writer import UnitWriter, writer_bytes
from fmx.store.verify import Damage, Verification, verify_store
from fmx.store.writer import StoreWriter

__all__ = [
    "DEFAULT_CODEC",
    "DISK_RATE",
    "FORMAT",
    "NETWORK_RATE",
    "AppendPart",
    "AppendPlan",
    "AppendUnit",
    "AppendWriter",
    "Damage",
    "Layout",
    "Place",
    "Store",
    "StoreLock",
    "StorePlan",
    "StoreWriter",
    "UnitWriter",
    "Verification",
    "append_plan",
    "building_place",
    "check_analysis_name",
    "choose_codecs",
    "create_store",
    "differences",
    "encoded_ratio",
    "finish_append",
    "finish_store",
    "hierarchy",
    "is_fmx_store",
    "layer_key",
    "mark_for_repair",
    "open_analysis",
    "open_store",
    "pending_units",
    "place_of",
    "plan_settings",
    "prepare_place",
    "read_layout",
    "relabel",
    "save_analysis",
    "saved_analyses",
    "stored_settings",
    "unusual_values",
    "verify_store",
    "writer_bytes",
]
