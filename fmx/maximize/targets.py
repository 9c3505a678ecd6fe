"""Which pictures are wanted: channels of a layer, or any objectives, and how many of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fmx.errors import FmxError, LayerError, near_matches
from fmx.layers import LayerInfo
from fmx.maximize.objectives import Objective, channel, parse_objective

__all__ = ["OBJECTIVES", "Target", "targets_of"]

# Under this name results of anything but whole channels are saved.
OBJECTIVES = "objectives"


@dataclass(frozen=True)
class Target:
    """One picture that is wanted.

    Attributes
    ----------
    objective : Objective
    label : str
    layer : str
        Under which name the result is kept.
    channel : int
        -1 for anything but a whole channel.
    variant : int
        Which of several pictures of the same objective.
    pictures : int
        How many there are.
    """

    objective: Objective
    label: str
    layer: str
    channel: int = -1
    variant: int = 0
    pictures: int = 1

    @property
    def key(self) -> str:
        """What its random numbers depend on, and what it is called."""
        return f"{self.label}#{self.variant}"


def targets_of(
    wanted: str | Objective | Sequence[Objective | str],
    channels: str | int | Iterable[int] | None,
    layers: Sequence[LayerInfo],
    pictures: int = 1,
) -> list[Target]:
    """List the pictures that are wanted.

    Parameters
    ----------
    wanted : str, Objective, or sequence of them
        The name of a layer, whose `channels` are wanted, or objectives (or their text).
    channels : "all", int or iterable of int, optional
        Channels of the layer.
    layers : sequence of LayerInfo
        Those of the model.
    pictures : int
        How many of each.

    Raises
    ------
    LayerError
        A layer or a channel that is not there; the range is named.
    FmxError
        Something that is no objective.
    """
    if pictures < 1:
        raise FmxError(f"--pictures takes a number of at least 1, not {pictures}.")
    known = {info.name: info for info in layers}
    if isinstance(wanted, str) and (channels is not None or wanted in known):
        objectives = [channel(wanted, index) for index in _channels(wanted, channels, known)]
    elif channels is not None:
        raise FmxError("Channels belong to a layer: give the layer's name with them, or objectives without channels.")
    else:
        several = [wanted] if isinstance(wanted, str | Objective) else list(wanted)
        objectives = [parse_objective(one) if isinstance(one, str) else one for one in several]
    if not objectives:
        raise FmxError("Nothing is to be maximized: give channels or objectives.")
    for objective in objectives:
        _check(objective, known)
    labels = _distinct([objective.label for objective in objectives])
    return [
        Target(objective, label, *_place(objective), variant, pictures)
        for objective, label in zip(objectives, labels, strict=True)
        for variant in range(pictures)
    ]


def _channels(layer: str, channels: str | int | Iterable[int] | None, known: dict[str, LayerInfo]) -> list[int]:
    if layer not in known:
        raise LayerError(f"No layer is called {layer}: {near_matches(layer, known)}")
    if channels is None or channels == "all":
        return list(range(_count(known[layer])))
    if isinstance(channels, str):
        raise FmxError(f"Channels are numbers or all, not '{channels}'.")
    return list(dict.fromkeys([channels] if isinstance(channels, int) else (int(c) for c in channels)))


def _count(info: LayerInfo) -> int:
    return info.shape[info.dims.index("channel")] if "channel" in info.dims else info.shape[0]


def _check(objective: Objective, known: dict[str, LayerInfo]) -> None:
    for name in objective.layers:
        if name not in known:
            raise LayerError(f"No layer is called {name}: {near_matches(name, known)}")
    whole = objective.of_channel()
    if whole is not None and not 0 <= whole[1] < _count(known[whole[0]]):
        count = _count(known[whole[0]])
        raise LayerError(f"Layer {whole[0]} has no channel {whole[1]}: it has {count}, 0 to {count - 1}.")


def _place(objective: Objective) -> tuple[str, int]:
    return objective.of_channel() or (OBJECTIVES, -1)


def _distinct(labels: Sequence[str]) -> list[str]:
    """Number labels that occur more than once, such as those of two directions of one layer."""
    seen: dict[str, int] = {}
    made = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        made.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return made
