"""What is said about a projection before it runs: notes, limits of the method, and too many channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.project import Pictures

__all__ = ["check_number", "say_blank", "say_limits", "say_notes"]

# Of a layer with more of them, channels have to be chosen.
_MANY_CHANNELS = 64


def check_number(model: Model, layer: str) -> None:
    """Let nobody wait for a thousand channels that nobody asked for."""
    from fmx.adapter import choose_layers

    (info,) = choose_layers(model, [layer])
    count = dict(zip(info.dims, info.shape, strict=True)).get("channel", 1)
    if count > _MANY_CHANNELS:
        raise FmxError(
            f"{layer} has {count} channels: choose some, such as --channels 3,17 (fmx deconv finds the strongest), or "
            "take --channels all."
        )


def say_notes(pictures: Pictures) -> None:
    """Say what had to be assumed about pictures."""
    from fmx.cli.output import note

    for text in pictures.notes:
        note(text)


def say_blank(blank: Sequence[str], method: str, *, positive: bool) -> None:
    """Say which attributions are 0 everywhere, and why that may be, so that nobody looks for more in their pictures.

    Parameters
    ----------
    blank : sequence of str
        Target and sample of each.
    method : str
    positive : bool
        The method keeps what is positive.
    """
    from fmx.cli.output import note

    if not blank:
        return
    which = ", ".join(blank[:3]) + (f" and {len(blank) - 3} more" if len(blank) > 3 else "")
    why = (
        "in these maps nothing speaks for it, as is usual with random weights, or for what isn't in the picture"
        if positive
        else "no small change of the picture changes it, as in a dead channel"
    )
    note(f"{method} is 0 everywhere for {which}: {why}")


def say_limits(model: Model, layers: Sequence[str] | None, *, switches: bool = True) -> None:
    """Say where the rules about ReLUs and switches have little to hold on to."""
    from fmx.cli.output import note
    from fmx.project.rules import rectifies, smooth_kinds

    last = None if layers is None else layers[-1]
    smooth = smooth_kinds(model.layers, last)
    if not rectifies(model.layers, last):
        which = f" ({', '.join(smooth)} among them)" if smooth else ""
        note(
            "before the layer there is no ReLU, which is all that the method has a rule for: what comes back is the "
            f"plain derivative through everything{which}, as fmx attribute --method gradient has it"
        )
        return
    if smooth:
        note(f"{', '.join(smooth)}: the signal takes the derivative, as the method has a rule for ReLUs only")
    before = [info.kind for info in model.layers]
    if last is not None:
        before = before[: [info.name for info in model.layers].index(last) + 1]
    if switches and not any("maxpool" in kind.lower().replace("_", "") for kind in before):
        note(
            "before the layer there is no max-pooling, on whose switches a deconvnet lives: expect the grid of the "
            "strides, and try fmx attribute --method guided"
        )
