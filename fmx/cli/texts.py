"""How the text of options is read; what can't be is said in a sentence that names the option."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fmx.errors import FmxError, near_matches

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.store import Store

__all__ = [
    "channels",
    "class_names",
    "ends",
    "level",
    "levels",
    "memory",
    "numbered",
    "numbers",
    "one_layer",
    "one_name",
    "one_number",
    "one_of",
    "one_sample",
    "pairs",
    "picture_channels",
    "samples",
    "shape",
    "whole_numbers",
    "words",
]


def words(text: str) -> tuple[str, ...]:
    """Read words that are separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def one_of(option: str, word: str, known: Sequence[str]) -> None:
    """Refuse a word that an option does not know.

    Raises
    ------
    FmxError
    """
    if word not in known:
        raise FmxError(f"{option} takes {', '.join(known[:-1])} or {known[-1]}, not '{word}'.")


def numbers(option: str, text: str | None) -> list[float] | None:
    """Read numbers that are separated by commas.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise FmxError(f"{option} takes numbers separated by commas, not '{text}'.") from None


def ends(option: str, text: str | None, example: str) -> tuple[float, float] | None:
    """Read two numbers, the lower and the upper one.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    found = numbers(option, text)
    if found is None:
        return None
    if len(found) != 2:
        raise FmxError(f"{option} takes two numbers such as {example}, not '{text}'.")
    return found[0], found[1]


def whole_numbers(option: str, text: str) -> list[int]:
    """Read whole numbers and runs of them, such as 3,17 or 0-15; each counts once.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    from fmx.errors import DataError
    from fmx.extraction.keep import parse_channels

    try:
        return list(parse_channels(text))
    except DataError:
        raise FmxError(f"{option} takes numbers such as 3,17 or 0-15, not '{text}'.") from None


def one_number(option: str, text: str) -> int:
    """Read one whole number.

    Raises
    ------
    FmxError
        Something else stands there, or several.
    """
    found = whole_numbers(option, text)
    if len(found) > 1:
        raise FmxError(f"{option} takes one number, and '{text}' are {len(found)}: give one of them.")
    return found[0]


def numbered(option: str, text: str) -> tuple[str, ...]:
    """Read words such as auto beside numbers and runs of them, which become a word for each number.

    Raises
    ------
    FmxError
        Something that begins like a number is none.
    """
    found: list[str] = []
    for part in words(text):
        found += map(str, whole_numbers(option, part)) if part[0].isdigit() else [part]
    return tuple(found)


def channels(option: str, text: str | None) -> list[int] | None:
    """Read channels such as 3,17 or 0-15; None for all of them.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    return None if text is None or text in {"", "all"} else whole_numbers(option, text)


def levels(text: str | None) -> list[float] | str | None:
    """Read noise levels: numbers separated by commas, or all."""
    return "all" if text == "all" else numbers("--noise", text)


def level(text: str | None) -> float | None:
    """Read one noise level; None where none is given.

    Raises
    ------
    FmxError
        Something else stands there, or several.
    """
    if text == "all":
        raise FmxError("--noise takes one level here, not all of them.")
    found = numbers("--noise", text)
    if found is None:
        return None
    if len(found) > 1:
        raise FmxError(f"--noise takes one level here, not {len(found)}: give one of {text}.")
    return found[0]


def samples(store: Store, text: str) -> list[str]:
    """Find the samples that a text names."""
    if text == "all":
        return [name for name, done in zip(store.samples, store.complete, strict=True) if done]
    if text in store.samples:
        return [text]
    found = [store.find_sample(part) for part in words(text)]
    if not found:
        raise FmxError(f"--samples takes ids, ends of ids or positions, or all, not '{text}'.")
    return found


def one_sample(store: Store, text: str) -> str:
    """Find the one sample that a text names.

    Raises
    ------
    FmxError
        There is none, or the text names several.
    """
    return _one("--sample", "sample", text, samples(store, text))


def one_layer(model: Model, text: str | None) -> str | None:
    """Find the one layer that a name or a selection matches; None where none is given.

    Raises
    ------
    FmxError
        There is none, or there are several.
    """
    from fmx.adapter import choose_layers

    if text is None or any(layer.name == text for layer in model.layers):
        return text
    return _one("--layer", "layer", text, [layer.name for layer in choose_layers(model, text)])


def one_name(option: str, text: str, known: Iterable[str]) -> str:
    """Find the one name that is meant, of a few.

    Raises
    ------
    FmxError
        It is not known, or several are given.
    """
    there = list(known)
    if text in there:
        return text
    if len(words(text)) > 1 and set(words(text)) <= set(there):
        return _one(option, option.strip("-"), text, words(text))
    raise FmxError(f"There is no {text}: {near_matches(text, there)}")


def _one(option: str, what: str, text: str, found: Sequence[str]) -> str:
    if not found:
        raise FmxError(f"{option} takes the name of a {what}, not '{text}'.")
    if len(found) > 1:
        some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise FmxError(f"{option} takes one {what}, and {text} matches {len(found)}: give one of {some}.")
    return found[0]


def class_names(file: str | None) -> list[str]:
    """Read the names of classes, one a line; ``imagenet`` stands for those of ImageNet.

    Raises
    ------
    FmxError
        The file can't be read.
    """
    if file is None:
        return []
    if file == "imagenet":
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    try:
        return [line.strip() for line in Path(file).read_text(encoding="utf-8").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise FmxError(f"--class-names takes imagenet or a text file, and {file} can't be read: {why}.") from None


def memory(text: str | None) -> int | None:
    """Read an amount of memory in bytes, such as 2GB or 500 MB.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?\s*", text, re.IGNORECASE)
    if not match or not float(match[1]):
        raise FmxError(f"--memory takes an amount such as 2GB or 500MB, not '{text}'.")
    unit = (match[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(match[1]) * base ** " kmgt".index(unit[:1] or " "))


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Read key=value pairs.

    Raises
    ------
    FmxError
        One has no key.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise FmxError(f"{option} takes key=value, such as {option} experiment=gaze-3, not '{text}'.")
        found[key.strip()] = value.strip()
    return found


def picture_channels(text: str | None) -> int | None:
    """Read how many channels pictures have.

    Raises
    ------
    FmxError
        Something else stands there, such as channels of layers.
    """
    if text is None:
        return None
    if not text.isdecimal():
        raise FmxError(
            f"--picture-channels takes 1, 3 or 4, not '{text}': channels of layers are chosen by fmx extract "
            "--keep-channels."
        )
    return int(text)


def shape(text: str | None) -> tuple[int, ...] | None:
    """Read the shape of a sample, such as 3,32,32.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    if text is None:
        return None
    parts = text.replace("x", ",").replace("×", ",").split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise FmxError(f"--input-shape takes lengths separated by commas, such as 3,32,32, not '{text}'.")
    return tuple(int(part) for part in parts)
