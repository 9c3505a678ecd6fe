"""Stores for the tests of analyses: labelled, and with values that trip up numbers."""

from __future__ import annotations

import numpy as np
import small_stores

LEADING = ("sample", "noise", "timestep")
LABELS = ["cat", "dog", "cat", "eel", "dog", "cat", "dog", "eel", "cat", "dog", "eel"]


def write_store(
    path, values, labels=LABELS, noise=(0.0,), native=None, kinds=None, units=None, chunk_bytes=300, more_labels=None
):
    """Write arrays (sample, noise, timestep, …native) by layer into a store of small chunks; some units if so asked."""
    ids = [f"{label or 'all'}/{i}.png" for i, label in enumerate(labels)]
    about = {"input_shape": [3, 16, 12], "fingerprint": "none"}
    dims = {name: dims_of(array, name, native)[3:] for name, array in values.items()}
    return small_stores.write_store(
        path, values, ids=ids, labels=labels, noise=noise, chunk_bytes=chunk_bytes, units=units,
        dims=dims, kinds=kinds, about=about, more_labels=more_labels,
    )  # fmt: skip


def dims_of(array, name, native=None):
    """Name the dims of a layer's array."""
    return (*LEADING, *((native or {}).get(name) or small_stores.NATIVE[array.ndim - 3]))


def random_values(samples=11, noise=1, steps=1, channels=6, size=(4, 3), seed=5, dtype=np.float32):
    """Make maps as behind a ReLU, each channel of another size."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 1, size=(samples, noise, steps, channels, *size)) * np.exp(
        rng.normal(size=(channels, 1, 1))
    )
    return np.maximum(values, 0).astype(dtype)


def adversarial_values(**settings):
    """Make maps of which some channels are constant, dead, tiny, not a number, or hold one huge value."""
    values = random_values(**settings)
    values[:, :, :, 0] = 2.5
    values[:, :, :, 1] = 0
    values[..., 2, 0, 0] = 0
    values[1, :, :, 2, 1, 1] = 3e38 if values.dtype == np.float32 else 6e4
    values[:, :, :, 3] *= np.float32(1e-41)
    values[:, :, :, 4] = np.nan
    values[2, :, :, 5, 0, 0] = np.inf
    values[3, 0, 0, 5, 1] = np.nan
    return values


def same(found, wanted, **settings):
    """Compare numbers, NaN with NaN."""
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), rtol=1e-6, atol=1e-9, **settings)
