"""Spellings of options that were theirs before: they keep working, and ``--help`` no longer lists them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FORMER", "respelt"]

# By command: former and present spelling.
FORMER: dict[str, dict[str, str]] = {
    "layers": {"--channels": "--picture-channels"},
    "extract": {"--channels": "--picture-channels", "--outputs": "--keep-outputs"},
    "rank": {"--by": "--metric", "--n-each-class": "--top"},
    "class-sums": {"--by": "--metric", "--n-each-class": "--top", "--shared": "--no-unique"},
    "similarity": {
        "--batch": "--batch-size",
        "--metric": "--distance",
        "--samples": "--subsample",
        "--width": "--bandwidth",
    },
    "compare": {"--maps": "--positions"},
    "decompose": {"--samples": "--subsample"},
    "information": {"--samples": "--subsample"},
    "deconv": {"--by": "--metric"},
    "attribute": {"--noise": "--sigma", "--over": "--how"},
    "occlude": {"--names": "--class-names"},
    "maximize": {"--scale": "--zoom"},
    "report": {"--channels": "--top"},
    "render grid": {"--layout": "--page"},
    "render overlay": {"--classes": "--class-names", "--shared": "--one-range", "--each": "--own-ranges"},
}


def respelt(command: str, words: Sequence[str]) -> list[str]:
    """Write the words of a command as they are spelt now.

    Parameters
    ----------
    command : str
        Such as ``rank`` or ``render grid``.
    words : sequence of str
        What stands behind it.
    """
    now = FORMER.get(command, {})
    ended = words.index("--") if "--" in words else len(words)
    made = list(words)
    for i, word in enumerate(made[:ended]):
        name, sign, value = word.partition("=")
        made[i] = now.get(name, name) + sign + value
    return made
