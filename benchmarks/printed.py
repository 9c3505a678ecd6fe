"""What benchmarks share: rows as a table or as JSON, and the peak memory of a process of its own for each size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["peak_rows", "print_rows"]


def peak_rows(
    script: str, make_store: Callable[[Path, int], None], folder: Path, counts: Iterable[int]
) -> list[dict[str, object]]:
    """Measure peak memory above the imports on stores of so many samples, each in a process of its own.

    The script prints it in MB when it is called with ``--one-peak STORE``.
    """
    rows: list[dict[str, object]] = []
    for count in counts:
        path = folder / f"{count}.zarr"
        make_store(path, count)
        command = [sys.executable, script, "--one-peak", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"samples": count, "peak_mb_above_imports": float(done.stdout.split()[-1])})
    return rows


def print_rows(rows: Sequence[Mapping[str, object]], *, as_json: bool, width: int) -> None:
    """Print rows as JSON, or as a table whose columns are so wide."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print("  ".join(f"{key:>{width}}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{v:>{width}.2f}" if isinstance(v, float) else f"{v!s:>{width}}" for v in row.values()))
