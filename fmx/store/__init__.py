"""The labelled store of activations: its format, a writer and a reader."""

from fmx.store.reader import Store, open_store
from fmx.store.schema import FORMAT, layer_key
from fmx.store.writer import StorePlan, StoreWriter, prepare_place

__all__ = ["FORMAT", "Store", "StorePlan", "StoreWriter", "layer_key", "open_store", "prepare_place"]
