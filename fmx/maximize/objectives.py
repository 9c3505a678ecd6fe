"""What is maximized: values of a layer or of the output, which add, subtract and scale.

An objective gives one number a picture. Sums of objectives are objectives, so that
``channel("layer3", 5) + 0.5 * channel("layer3", 9) - logit(281)`` is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fmx.errors import FmxError, LayerError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OUTPUT", "Objective", "channel", "direction", "diversity", "logit", "neuron", "parse_objective"]

# Under this name the model's output stands among the values.
OUTPUT = "output"

Values = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class Term:
    """One value to be maximized.

    Attributes
    ----------
    label : str
        What it is, in the words of `parse_objective`.
    layer : str
        A layer's name, or ``output``.
    measure : callable
        Given the layer's values (picture, channel, …position), one number a picture, (picture,).
    channel : int or None
        The channel, where it is a whole one and nothing else.
    placed : bool
        Whether it looks at one position, whose number means another place in maps of another size.
    """

    label: str
    layer: str
    measure: Callable[[Tensor], Tensor]
    channel: int | None = None
    placed: bool = False


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms; objectives compose with ``+``, ``-`` and multiplication by numbers.

    Attributes
    ----------
    terms : tuple of (float, Term)
        The weights and what they weigh; a negative weight minimizes.
    """

    terms: tuple[tuple[float, Term], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it looks at, without the output."""
        return tuple(dict.fromkeys(term.layer for _, term in self.terms if term.layer != OUTPUT))

    @property
    def needs_output(self) -> bool:
        """Whether it looks at the model's output."""
        return any(term.layer == OUTPUT for _, term in self.terms)

    @property
    def placed(self) -> bool:
        """Whether it looks at positions that are given by their numbers."""
        return any(term.placed for _, term in self.terms)

    @property
    def label(self) -> str:
        """What it is, in words that `parse_objective` reads where all its terms can be written down."""
        text = ""
        for weight, term in self.terms:
            sign = " - " if weight < 0 else " + "
            text += sign if text else sign.strip(" +")
            text += term.label if abs(weight) == 1 else f"{abs(weight):g}*{term.label}"
        return text or "0"

    def of_channel(self) -> tuple[str, int] | None:
        """Give the layer and the channel if it is one whole channel and nothing else, else None."""
        if len(self.terms) != 1 or self.terms[0][0] != 1 or self.terms[0][1].channel is None:
            return None
        return self.terms[0][1].layer, self.terms[0][1].channel

    def __call__(self, values: Values) -> Tensor:
        """Measure pictures.

        Parameters
        ----------
        values : mapping of str to tensor (picture, channel, …position)
            By layer; the model's output as ``output``.

        Returns
        -------
        tensor (picture,)
        """
        found = [weight * term.measure(values[term.layer]) for weight, term in self.terms]
        return sum(found[1:], start=found[0])

    def __add__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return Objective(self.terms + other.terms)

    def __neg__(self) -> Objective:
        return self * -1

    def __sub__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return self + -other

    def __mul__(self, factor: float) -> Objective:
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        return Objective(tuple((weight * factor, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Objective:
        return self * (1 / divisor)


def channel(layer: str, index: int) -> Objective:
    """Maximize a channel: its mean over all positions.

    Parameters
    ----------
    layer : str
    index : int
    """

    def measure(value: Tensor) -> Tensor:
        return _checked(value, layer, index)[:, index].reshape(len(value), -1).mean(1)

    return _single(f"{layer}:{index}", layer, measure, index)


def neuron(layer: str, index: int, y: int | None = None, x: int | None = None) -> Objective:
    """Maximize a channel at one position, the middle where none is given.

    Parameters
    ----------
    layer : str
    index : int
        The channel.
    y, x : int, optional
        Row and column of the layer's maps; for tokens `y` is the token.
    """

    def measure(value: Tensor) -> Tensor:
        return _at(_checked(value, layer, index)[:, index], layer, (y, x))

    place = "@" if y is None and x is None else f"@{'' if y is None else y},{'' if x is None else x}"
    return _single(f"{layer}:{index}{place}", layer, measure, placed=place != "@")


def logit(index: int) -> Objective:
    """Maximize one number of the model's output: a class, before the softmax where the model has none."""

    def measure(value: Tensor) -> Tensor:
        return _checked(value, "The output", index)[:, index].reshape(len(value), -1).mean(1)

    return _single(f"logit:{index}", OUTPUT, measure)


def direction(
    layer: str, vector: Sequence[float] | Any, *, y: int | None = None, x: int | None = None, cosine_power: float = 0.0
) -> Objective:
    """Maximize the projection on a direction in the space of a layer's channels.

    Parameters
    ----------
    layer : str
    vector : sequence of float, (channel,)
        Not normalised: longer means more.
    y, x : int, optional
        One position; the mean over all of them where neither is given.
    cosine_power : float
        Times the cosine between activation and direction to this power (at least 0.1), so that the direction counts
        and not only the length (Lucid's dot product times cosine; Olah et al., 2019, "Activation Atlas").
    """
    weights = [float(v) for v in vector]

    def measure(value: Tensor) -> Tensor:
        import torch

        maps = _checked(value, layer, len(weights) - 1)
        if maps.shape[1] != len(weights):
            raise LayerError(
                f"Layer {layer} has {maps.shape[1]} channels, and the direction has {len(weights)} numbers."
            )
        along = torch.tensor(weights, dtype=maps.dtype, device=maps.device)
        dot = torch.einsum("nc...,c->n...", maps, along)
        if cosine_power:
            cosine = dot / (maps.norm(dim=1) * along.norm()).clamp_min(1e-8)
            dot = dot * cosine.clamp_min(0.1) ** cosine_power
        return dot.reshape(len(value), -1).mean(1) if y is None and x is None else _at(dot, layer, (y, x))

    return _single(f"direction({layer})", layer, measure, placed=y is not None or x is not None)


def diversity(layer: str) -> Objective:
    """Maximize how much pictures of one target differ: less the mean cosine between the Gram matrices of a layer.

    Add it, with a weight, to what several pictures of one target maximize (``pictures=4``); each picture's value is the
    mean over the others, between -1 (all alike) and 1. A single picture's is 0. (Olah et al. 2017, "Feature
    Visualization", its term for diversity.)
    """

    def measure(value: Tensor) -> Tensor:
        import torch

        maps = _checked(value, layer, 0).flatten(2) if value.dim() > 2 else value[:, :, None]
        grams = torch.nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        count = len(grams)
        if count == 1:
            return value.flatten(1).sum(1) * 0
        alike = grams @ grams.T
        return -(alike.sum(1) - alike.diagonal()) / (count - 1)

    return _single(f"diversity({layer})", layer, measure)


def _single(
    label: str, layer: str, measure: Callable[[Tensor], Tensor], index: int | None = None, *, placed: bool = False
) -> Objective:
    return Objective(((1.0, Term(label, layer, measure, index, placed)),))


def _checked(value: Tensor, layer: str, index: int) -> Tensor:
    """See that the channel is there.

    Raises
    ------
    LayerError
        It is not; the range is named.
    """
    count = value.shape[1] if value.dim() > 1 else 0
    if not 0 <= index < count:
        where = layer if layer.startswith("The ") else f"Layer {layer}"
        raise LayerError(f"{where} has no channel {index}: it has {count}, 0 to {count - 1}.")
    return value


def _at(maps: Tensor, layer: str, place: tuple[int | None, int | None]) -> Tensor:
    """Take one position of (picture, …), the middle where none is given."""
    if maps.dim() == 1:
        return maps
    lengths = tuple(maps.shape[1:])
    chosen = [length // 2 if at is None else at for length, at in zip(lengths, (*place, None), strict=False)]
    if any(not 0 <= at < length for at, length in zip(chosen, lengths, strict=True)):
        size = "×".join(map(str, lengths))
        raise LayerError(f"Layer {layer} has no position {','.join(map(str, chosen))}: its maps are {size} here.")
    for at in chosen:
        maps = maps[:, at]
    return maps


_TERM = re.compile(r"(?:(?P<weight>\d+(?:\.\d+)?(?:e-?\d+)?)\s*\*\s*)?(?P<what>\S+)")


def parse_objective(text: str) -> Objective:
    """Read an objective such as ``layer3:5 + 0.5*layer3:9 - logit:281``.

    A term is ``LAYER:CHANNEL``, ``LAYER:CHANNEL@`` (its middle neuron), ``LAYER:CHANNEL@Y,X``, ``logit:CLASS`` or
    ``diversity(LAYER)``, perhaps with a number and ``*`` in front; spaces stand around ``+`` and ``-``.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    pieces = re.split(r"(?:^|\s)([+-])(?=\s|$)", re.sub(r"^\s*-\s*(?=\S)", "- ", text))
    first, signed = pieces[0].strip(), list(zip(pieces[1::2], pieces[2::2], strict=True))
    parts = [("+", first)] if first else []
    parts += [(sign, piece.strip()) for sign, piece in signed]
    if not parts:
        raise _unreadable(text)
    total: Objective | None = None
    for sign, piece in parts:
        match = _TERM.fullmatch(piece)
        if match is None:
            raise _unreadable(text)
        one = _parse_term(match["what"], text) * (float(match["weight"] or 1) * (-1 if sign == "-" else 1))
        total = one if total is None else total + one
    assert total is not None
    return total


def _parse_term(what: str, text: str) -> Objective:
    if spread := re.fullmatch(r"diversity\((.+)\)", what):
        return diversity(spread[1])
    match = re.fullmatch(r"(?P<layer>.+):(?P<index>\d+)(?P<at>@(?:(?P<y>\d*)(?:,(?P<x>\d*))?)?)?", what)
    if match is None:
        raise _unreadable(text)
    index = int(match["index"])
    if match["layer"] == "logit" and match["at"] is None:
        return logit(index)
    if match["at"] is None:
        return channel(match["layer"], index)
    y, x = (int(match[axis]) if match[axis] else None for axis in ("y", "x"))
    return neuron(match["layer"], index, y, x)


def _unreadable(text: str) -> FmxError:
    return FmxError(
        f"'{text}' is no objective: write it like 'layer3:5', 'layer3:5@3,4' (a neuron), 'logit:281' or sums such as "
        "'layer3:5 + 0.5*layer3:9 - logit:281', with spaces around + and -."
    )
