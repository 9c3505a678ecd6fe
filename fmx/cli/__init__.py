"""The command line: parse, call, print. Commands import what they need when they run, so that help comes at once."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process: 0 done, 2 the user's mistake, 130 interrupted."""
    from fmx.cli.app import app
    from fmx.errors import FmxError

    try:
        app()
    except FmxError as error:
        print(f"fmx: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        sys.exit(0)
