"""The command line: parse, call, print. Commands import what they need when they run, so that help comes at once."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["main"]

# What these have made is taken up again.
_RESUMED = {"extract", "maximize"}
_INTERRUPTED = 130


def main() -> None:
    """Run the command line and end the process: 0 done, 1 a damaged store, 2 the user's mistake, 130 interrupted."""
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        more = "; run the same command to go on where it was" if sys.argv[1:2] and sys.argv[1] in _RESUMED else ""
        sys.stderr.write(f"fmx: stopped{more}\n")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        sys.stderr.close()
        sys.exit(0)


def _run() -> int:
    import typer

    from fmx.cli.app import app
    from fmx.cli.options import Stopped
    from fmx.errors import FmxError

    try:
        code = int(app(standalone_mode=False) or 0)
    except FmxError as error:
        return _say(str(error))
    except _usage_error() as error:
        return _explain(error)
    except Stopped as stopped:
        return _say(str(stopped), _INTERRUPTED)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        raise
    except OSError as error:
        return _say(f"{error.filename or 'A file'} can't be used: {error.strerror or error}.")
    except MemoryError:
        return _say("There is not enough memory for this: take fewer layers, samples or channels at once.")
    if code == _INTERRUPTED:  # newer parsers give this number and say nothing
        raise KeyboardInterrupt
    return code


def _say(sentence: str, code: int = 2) -> int:
    sys.stderr.write(f"fmx: {sentence}\n")
    return code


def _usage_error() -> type[Exception]:
    """Find the class of the parser's own errors: typer brings click along or takes the installed one, by version."""
    import typer

    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def _explain(error: Any) -> int:
    """Say in a sentence what was wrong with the words of a command; without any words, show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    where = error.ctx.command_path if error.ctx else "fmx"
    said = _not_a_number(error) or error.format_message().rstrip(".")
    return _say(f"{said} See {where} --help." if said.endswith("?") else f"{said}: see {where} --help")


def _not_a_number(error: Any) -> str:
    """Say what kind of number an option takes, where that is what is wrong."""
    option = getattr(error, "param", None)
    if type(error).__name__ != "BadParameter" or option is None:
        return ""
    # Parsers of two generations keep the type and the bounds in two places.
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", None) or type(option.default)
    what = {int: "a whole number", float: "a number"}.get(kind)
    least = getattr(option if hasattr(option, "min") else getattr(option, "type", None), "min", None)
    if what is None:
        return ""
    given = [sys.argv[i + 1] for i, word in enumerate(sys.argv[:-1]) if word in option.opts]
    given += [word.partition("=")[2] for word in sys.argv if word.partition("=")[0] in option.opts and "=" in word]
    return (
        f"{option.opts[0]} takes {what}"
        + (f" from {least} on" if least is not None else "")
        + (f", not '{given[-1]}'" if given else "")
    )
