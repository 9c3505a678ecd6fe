"""The command line: parse, call, print. Commands import what they need when they run, so that help comes at once."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process: 0 done, 2 the user's mistake, 130 interrupted."""
    import typer

    from fmx.cli.app import app
    from fmx.cli.options import Stopped
    from fmx.errors import FmxError

    try:
        sys.exit(app(standalone_mode=False) or 0)
    except FmxError as error:
        sys.stderr.write(f"fmx: {error}\n")
        sys.exit(2)
    except _usage_error() as error:
        sys.exit(_explain(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("fmx: stopped; run the same command to go on where it was\n")
        sys.exit(130)
    except Stopped as stopped:
        sys.stderr.write(f"fmx: {stopped}\n")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        sys.exit(0)


def _usage_error() -> type[Exception]:
    """Find the class of the parser's own errors: typer brings click along or takes the installed one, by version."""
    import typer

    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def _explain(error: Any) -> int:
    """Say in a sentence what was wrong with the words of a command; without any words, show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        where = error.ctx.command_path if error.ctx else "fmx"
        sys.stderr.write(f"fmx: {error.format_message().rstrip('.')}: see {where} --help\n")
    return 2
