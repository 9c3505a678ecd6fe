"""Which axis of a value is what, followed from the input to every layer.

The position of the channel axis is no property of a layer: Swin and ConvNeXt keep their maps channels-last, and a
linear layer takes whatever comes last. So each format follows its axes through the pass of the small batch: a
convolution fixes what all axes of its value are, a linear layer or a layer norm that the last one is the channel; an
embedding adds it; permuting moves axes, an elementwise operation keeps them, and reshaping splits and joins them.

For that an axis is a run of *factors*, each with a role and a length, as in einops: where (y 56) is split into windows
and these are joined to (y 8)(x 8) it is a token of a window, and when all is put back it is (y 7)(y 8) again, which is
y. What is split off a channel in front is a head. A value whose axes were lost, because some operation has no rule,
gets the usual names (`fmx.layers.native_dims`). Nothing depends on what is found here but the names of axes.

The rules work on shapes and roles alone and are the same for all formats; `fmx_adapters._torch_axes` and
`fmx_adapters.onnx.axes` say which operation follows which.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from fmx.adapter import InputInfo

__all__ = [
    "Axes",
    "broadcast",
    "contracted",
    "convolved",
    "embedded",
    "input_axes",
    "joined",
    "length",
    "multiplied",
    "normalised",
    "pooled",
    "reduced",
    "reshaped",
    "resized",
    "roles_of",
    "transformed",
    "without",
]

Factor = tuple[str, int]
Axes = tuple[tuple[Factor, ...], ...]

_SPACE = {"z", "y", "x"}
_POSITIONS = {*_SPACE, "token", "key"}
_LAYOUTS = {"CHW": ("channel", "y", "x"), "HWC": ("y", "x", "channel")}


def input_axes(info: InputInfo, batch: int) -> Axes:
    """Say what is known of an input's axes, its batch axis first."""
    roles = _LAYOUTS.get(info.layout) or ("",) * len(info.shape)
    if len(info.shape) == 1:
        roles = ("channel",) if info.dtype.startswith("float") else ("token",)
    return _axes(("sample", *roles), (batch, *info.shape))


def roles_of(axes: Axes | None) -> tuple[str, ...]:
    """Give the role of each axis of one sample, empty where it is not known; empty for a value of unknown axes."""
    return () if axes is None else tuple(map(_role, axes[1:]))


def _axes(roles: Sequence[str], shape: Sequence[int]) -> Axes:
    return tuple(((role, n),) for role, n in zip(roles, shape, strict=True))


def _role(axis: Sequence[Factor]) -> str:
    """Say what an axis is as a whole; a factor of length 1 counts only where there is nothing else."""
    roles = {role for role, n in axis if n > 1} or {role for role, _ in axis}
    roles -= {""}
    if len(roles) == 1:
        return next(iter(roles))
    if roles <= _POSITIONS and roles:
        return "token"
    return "channel" if roles == {"channel", "head"} else ""


def length(axis: Sequence[Factor]) -> int:
    """Give the length of an axis."""
    return math.prod(n for _, n in axis)


def _has_channel(axes: Sequence[Sequence[Factor]]) -> bool:
    return any(role == "channel" for axis in axes for role, _ in axis)


# -- moving ----------------------------------------------------------------------------------------


def without(axes: Axes, dropped: Collection[int]) -> Axes:
    """Leave axes out."""
    return tuple(axis for i, axis in enumerate(axes) if i not in dropped)


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Split and join axes, None where the lengths don't come out."""
    left = _merged([factor for axis in axes for factor in axis])
    if 0 in shape or length(left) != math.prod(shape):
        return None
    found: list[tuple[Factor, ...]] = []
    for i, wanted in enumerate(shape):
        taken = _take(left, wanted) if wanted > 1 else _take_ones(left, shape[i:])
        if taken is None:
            return None
        found.append(taken)
    return tuple(found)


def _merged(factors: Sequence[Factor]) -> list[Factor]:
    """Join neighbouring parts of one spatial axis, so that it can be split elsewhere."""
    found: list[Factor] = []
    for role, n in factors:
        if found and found[-1][0] == role in _SPACE:
            found[-1] = role, n * found[-1][1]
        else:
            found.append((role, n))
    return found


def _take(left: list[Factor], wanted: int) -> tuple[Factor, ...] | None:
    """Take factors of some length from the front."""
    taken: list[Factor] = []
    while wanted > 1:
        role, n = left.pop(0)
        if n > wanted and n % wanted == 0:
            left.insert(0, (role, n // wanted))
            # Channels are split into groups or heads, of which each has its own channels.
            role, n = "head" if role == "channel" else role, wanted
        elif wanted % n:
            return None
        taken.append((role, n))
        wanted //= n
    return tuple(taken)


def _take_ones(left: list[Factor], shape: Sequence[int]) -> tuple[Factor, ...]:
    """Take the factors for the first of the axes of length 1 that a shape begins with."""
    wanted, there = (next((i for i, n in enumerate(ns) if n > 1), len(ns)) for ns in (shape, [n for _, n in left]))
    if not there:
        # A single window is a split too.
        return ((left[0][0] if left and left[0][0] in _SPACE else "", 1),)
    count = max(there - wanted, 0) + 1
    taken, left[:] = tuple(left[:count]), left[count:]
    return taken


def resized(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """Keep what the axes are while their lengths change."""
    if len(axes) != len(shape):
        return None
    return tuple(axis if length(axis) == n else ((_role(axis), n),) for axis, n in zip(axes, shape, strict=True))


# -- computing -------------------------------------------------------------------------------------


def broadcast(values: Sequence[Axes | None], shape: Sequence[int]) -> Axes | None:
    """Follow an elementwise operation: the first value that knows what an axis is tells."""
    known = [axes for axes in values if axes is not None]
    found = []
    for i, n in enumerate(reversed(shape)):
        here = [axes[-1 - i] for axes in known if i < len(axes)]
        if any(length(axis) not in {1, n} for axis in here):
            return None
        same = [axis for axis in here if length(axis) == n and _role(axis)]
        stretched = [((_role(axis), n),) for axis in here if _role(axis)]
        whole = [axis for axis in here if length(axis) == n]
        found.append(next(iter([*same, *stretched, *whole]), (("", n),)))
    return tuple(reversed(found)) if known else None


def joined(values: Sequence[Axes | None], axis: int, shape: Sequence[int]) -> Axes | None:
    """Follow a concatenation."""
    known = [axes for axes in values if axes is not None and len(axes) == len(shape)]
    place = axis % len(shape)
    others = broadcast([without(axes, {place}) for axes in known], [n for i, n in enumerate(shape) if i != place])
    if others is None:
        return None
    role = next(filter(None, (_role(axes[place]) for axes in known)), "")
    return (*others[:place], ((role, shape[place]),), *others[place:])


def reduced(axes: Axes, dims: Collection[int], *, keep: bool) -> Axes:
    """Follow a mean, a maximum and their kin; no dims means all but the batch."""
    gone = {dim % len(axes) for dim in dims} or set(range(1, len(axes)))
    if not keep:
        return without(axes, gone)
    return tuple(((_role(axis), 1),) if i in gone else axis for i, axis in enumerate(axes))


def convolved(axes: Axes | None, shape: Sequence[int]) -> Axes:
    """Follow a convolution, whose value has its channels behind the batch."""
    space = ("z", "y", "x")[-(len(shape) - 2) :] if 2 < len(shape) < 6 else ("",) * (len(shape) - 2)
    first = axes[0] if axes and length(axes[0]) == shape[0] else (("", shape[0]),)
    return (first, *_axes(("channel", *space)[: len(shape) - 1], shape[1:]))


def pooled(axes: Axes | None, shape: Sequence[int]) -> Axes:
    """Follow a pooling or a norm by channel, which keep what the axes are, and tell it where it was not known."""
    kept = resized(axes, shape) if axes and _has_channel(axes) else None
    return kept or convolved(axes, shape)


def normalised(axes: Axes | None, shape: Sequence[int], count: int) -> Axes | None:
    """Follow a norm over the last axes; a single one is the channel where no other is."""
    kept = axes or _axes(("",) * len(shape), shape)
    if count == 1 and not _has_channel(kept):
        kept = (*kept[:-1], (("channel", shape[-1]),))
    return kept if count == 1 or axes else None


def transformed(axes: Axes, features: int) -> Axes:
    """Follow a linear layer: what it makes of the last axis are channels, unless there are others or it mixes heads."""
    return (*axes[:-1], ((_features(axes[-1], axes[:-1]), features),))


def _features(contracted: Sequence[Factor], others: Axes) -> str:
    role = _role(contracted)
    return role if role == "head" or (role and _has_channel(others)) else "channel"


def multiplied(one: Axes | None, two: Axes | None, shape: Sequence[int]) -> Axes | None:
    """Follow a matrix product of values (…, i, k) and (…, k, j), of which one may be a weight."""
    if one is not None and two is None:
        return transformed(one, shape[-1])
    if two is not None and one is None:
        return (*two[:-2], ((_features(two[-2], (*two[:-2], two[-1])), shape[-2]),), two[-1])
    if one is None or two is None:
        return None
    outer = broadcast([one[:-2], two[:-2]], shape[:-2])
    rows, columns = _role(one[-2]), _role(two[-1])
    if rows == columns and rows in {"", *_POSITIONS} and _role(one[-1]) == "channel":
        # Attention relates positions to each other: those that look, and those that are looked at.
        looking = one[-2] if rows else (("token", shape[-2]),)
        return None if outer is None else (*outer, looking, (("key", shape[-1]),))
    return None if outer is None else (*outer, one[-2], two[-1])


def embedded(axes: Axes | None, shape: Sequence[int]) -> Axes:
    """Follow a table of vectors, one for each token."""
    return (*(axes or _axes(("",) * (len(shape) - 1), shape[:-1])), (("channel", shape[-1]),))


def contracted(values: Sequence[Axes | None], terms: Sequence[str], result: str, shape: Sequence[int]) -> Axes | None:
    """Follow a sum of products in Einstein's notation, a letter an axis."""
    known: dict[str, tuple[Factor, ...]] = {}
    for axes, letters in zip(values, terms, strict=True):
        roles = {_role(known[letter]) for letter in known if letter in result} & _POSITIONS
        for letter, axis in zip(letters, axes or (), strict=False):
            is_key = letter not in known and letter in result and _role(axis) in roles
            known.setdefault(letter, (("key", length(axis)),) if is_key else axis)
    found = [known.get(letter) for letter in result]
    has_channel = _has_channel([axis for axis in found if axis])
    made = [(("" if has_channel else "channel", n),) for n in shape]
    return tuple(axis or new for axis, new in zip(found, made, strict=True)) if known else None
