"""Layers: what a model's intermediate value is called, what its axes mean, and how a user picks some of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from html import escape

import numpy as np

from fmx.errors import LayerError, near_matches

__all__ = ["LayerInfo", "auto_layers", "native_dims", "parse_patterns", "said_layer", "select_layers"]

SPATIAL_DIMS = ("z", "y", "x")
_ROLES = {"channel", "head", "token", "key", *SPATIAL_DIMS}
_INSIDE = {"head", "window", "key"}
_PADDING = re.compile(r"Pad(\dd)?$")


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One intermediate value of a network.

    Attributes
    ----------
    name : str
        Canonical dotted name, the same in every format (``layer1.0.conv1``).
    kind : str
        What computes it: the class of the module (``Conv2d``) or the operation (``add``).
    dims : tuple of str
        Names of the axes of one sample, such as ``("channel", "y", "x")``.
    shape : tuple of int
        Lengths of these axes.
    dtype : str
        NumPy name of the element type.
    """

    name: str
    kind: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one sample at one noise level and timestep."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def spatial(self) -> tuple[int, ...]:
        """Lengths of the spatial axes (z, y, x), empty for a layer without any."""
        return self._lengths(SPATIAL_DIMS)

    @property
    def resolution(self) -> tuple[int, ...]:
        """Lengths of the spatial axes, or the number of tokens.

        Empty for a layer of plain channels, and for what is inside attention: heads, windows, and tokens by tokens.
        """
        return () if _INSIDE.intersection(self.dims) else self.spatial or self._lengths(("token",))

    def _repr_html_(self) -> str:
        axes = " × ".join(f"{dim} {n}" for dim, n in zip(self.dims, self.shape, strict=True)) or "a single value"
        return f"<b>{escape(self.name)}</b> · {escape(self.kind)} · {escape(axes)} · {self.dtype}"

    def _lengths(self, wanted: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(n for d, n in zip(self.dims, self.shape, strict=True) if d in wanted)


def said_layer(name: str, kind: str = "") -> str:
    """Name a layer where it is to be seen that it is one: a bare number gets the kind, or the word.

    Parameters
    ----------
    name : str
    kind : str
        Such as ``ReLU``; left out where there are many layers, as in a legend.
    """
    if not name.replace(".", "").replace(":", "").isdigit():
        return name
    return f"{name} · {kind}" if kind else f"layer {name}"


def native_dims(shape: Sequence[int], kind: str = "", roles: Sequence[str] = ()) -> tuple[str, ...]:
    """Name the axes of one sample of a layer.

    Parameters
    ----------
    shape : sequence of int
        Shape without the batch axis.
    kind : str
        The layer's kind; those that end in ``1d`` put a channel axis before a single spatial one.
    roles : sequence of str
        What the model's graph says of each axis: ``channel``, ``y``, ``token``, …, empty for one that it says nothing
        of. Left out where nothing is known, so that the number of axes tells: ``(channel, y, x)`` and the like.

    Returns
    -------
    tuple of str
        Each name once. Of several axes of tokens the last has this name, those before it are ``window``; what has no
        other name is ``dim_0``, ``dim_1``, … by its place.
    """
    numbered = tuple(f"dim_{i}" for i in range(len(shape)))
    by_rank: dict[int, tuple[str, ...]] = {
        0: (),
        1: ("channel",),
        2: ("channel", "x") if kind.endswith("1d") else ("token", "channel"),
        3: ("channel", "y", "x"),
        4: ("channel", "z", "y", "x"),
    }
    known = [role if role in _ROLES else "" for role in roles]
    if "token" in known:  # so that a single window is one all the same
        known = [
            "token" if n == 1 and role in {"", *SPATIAL_DIMS} else role for role, n in zip(known, shape, strict=True)
        ]
    if "channel" not in known and known.count("") == 1:
        known[known.index("")] = "channel"
    if "channel" not in known and (not known or "" in known):
        return by_rank.get(len(shape), numbered)
    return _distinct(_with_positions(known), numbered)


def _with_positions(roles: list[str]) -> list[str]:
    """Take the axes beside the channel and heads for tokens or spatial axes, where nothing says otherwise."""
    if any(role not in {"", "channel", "head"} for role in roles):
        return roles
    many = ["token", "token"] if "head" in roles else ["y", "x"]
    left = {1: ["token"], 2: many, 3: ["z", "y", "x"]}.get(roles.count(""), [])
    return [role or (left.pop(0) if left else "") for role in roles]


def _distinct(roles: Sequence[str], numbered: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for i, (role, number) in enumerate(zip(roles, numbered, strict=True)):
        name = "window" if role == "token" and "token" in roles[i + 1 :] else role
        found.append(number if not name or name in found else name)
    return tuple(found)


def auto_layers(layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Pick the last output at each spatial resolution (and number of tokens), in the order of computation.

    In a ResNet these are the stem and layer1 to layer4. Tokens that are as many as a map has positions count as of its
    resolution. Maps of a single position and maps that are only padded count as no resolution; where a network has no
    maps and no tokens at all, the last output of each shape is taken.
    """
    maps = {math.prod(layer.spatial): layer.spatial for layer in layers if layer.resolution == layer.spatial}
    last: dict[tuple[int, ...], LayerInfo] = {}
    for layer in layers:
        positions = math.prod(layer.resolution)
        if positions > 1 and not _PADDING.search(layer.kind):
            last[layer.spatial or maps.get(positions, layer.resolution)] = layer
    if not last:
        last = {layer.shape: layer for layer in layers}
    kept = {layer.name for layer in last.values()}
    return [layer for layer in layers if layer.name in kept]


def parse_patterns(patterns: str | Iterable[str]) -> list[str]:
    """Split a selection into its patterns; a comma separates, but belongs to the pattern after ``re:``."""
    if isinstance(patterns, str):
        regex = re.search(r"(?:^|,)\s*(!?re:.*)", patterns, re.DOTALL)
        plain = patterns[: regex.start()] if regex else patterns
        return [p.strip() for p in plain.split(",") if p.strip()] + ([regex[1]] if regex else [])
    return [part for p in patterns for part in parse_patterns(p)]


def select_layers(layers: Sequence[LayerInfo], patterns: str | Iterable[str] = "auto") -> list[LayerInfo]:
    """Select layers by name, glob, kind or regular expression.

    Parameters
    ----------
    layers : sequence of LayerInfo
        The layers of a model, in the order of computation.
    patterns : str or iterable of str
        Comma-separated or a list of: ``auto`` (see `auto_layers`), ``all``, a name, a glob per dotted
        segment (``*`` within one segment, ``**`` any depth), ``kind:Conv2d`` (also a glob), ``re:…``
        (has to match the whole name), each with ``!`` in front to exclude. Excluding alone starts from all.

    Returns
    -------
    list of LayerInfo
        The selected layers in the order of computation, each once.

    Raises
    ------
    LayerError
        A pattern matches no layer, or nothing is left.
    """
    parsed = parse_patterns(patterns)
    if not parsed:
        raise LayerError("No layers asked for: give names, globs, 'auto' or 'all'.")
    chosen: set[str] = set() if any(p[0] != "!" for p in parsed) else {layer.name for layer in layers}
    for pattern in parsed:
        if pattern[0] != "!":
            chosen |= _matching(layers, pattern)
    for pattern in parsed:
        if pattern[0] == "!":
            chosen -= _matching(layers, pattern[1:])
    if not chosen:
        raise LayerError(f"The selection {','.join(parsed)} leaves no layer: exclude less.")
    return [layer for layer in layers if layer.name in chosen]


def _matching(layers: Sequence[LayerInfo], pattern: str) -> set[str]:
    # A name wins over what it would mean as a pattern.
    if any(layer.name == pattern for layer in layers):
        return {pattern}
    if pattern == "auto":
        return {layer.name for layer in auto_layers(layers)}
    if pattern == "all":
        return {layer.name for layer in layers}
    if pattern.startswith("kind:"):
        glob = re.compile(translate(pattern[5:]))
        found = {layer.name for layer in layers if glob.match(layer.kind)}
        if not found:
            kinds = dict.fromkeys(layer.kind for layer in layers)
            raise LayerError(f"No layer is of kind {pattern[5:]}: {near_matches(pattern[5:], kinds)}")
        return found
    try:
        regex = re.compile(pattern[3:] if pattern.startswith("re:") else _glob_regex(pattern))
    except re.error as error:
        raise LayerError(f"'{pattern}' is not a regular expression: {error}.") from None
    found = {layer.name for layer in layers if regex.fullmatch(layer.name)}
    if not found:
        names = [layer.name for layer in layers]
        raise LayerError(f"No layer is called {pattern}: {near_matches(pattern, names)}")
    return found


def _glob_regex(pattern: str) -> str:
    """Turn a glob into a regular expression in which only ``**`` crosses a dot."""
    segments = pattern.split(".")
    regex = ""
    for i, segment in enumerate(segments):
        last = i == len(segments) - 1
        if segment == "**":
            regex += ".+" if last else r"(?:.+\.)?"
        else:
            regex += _segment_regex(segment) + ("" if last else r"\.")
    return regex


def _segment_regex(segment: str) -> str:
    pieces = re.split(r"(\*|\?|\[[^\]]+\])", segment)
    special = {"*": "[^.]*", "?": "[^.]"}
    return "".join(special.get(p) or (_class_regex(p) if p.startswith("[") else re.escape(p)) for p in pieces)


def _class_regex(piece: str) -> str:
    """Turn ``[abc]`` or ``[!abc]`` into a class that never matches a dot."""
    return r"(?!\.)" + piece.replace("[!", "[^", 1)
