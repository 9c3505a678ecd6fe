"""Zip archives from somewhere else: seen to be whole and of a sane size before a framework reads them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fmx.errors import ModelError

__all__ = ["check_archive"]

# Weights hardly compress and frameworks store them as they are; what unpacks to more was made to fill the memory.
_LARGEST_RATIO = 4
_SMALL = 64 * 2**20


def check_archive(path: Path) -> list[str]:
    """Check an archive's sizes and checksums.

    Returns
    -------
    list of str
        Names of its members.

    Raises
    ------
    ModelError
        It is truncated or altered, or unpacks to much more than it takes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if min((member.header_offset for member in archive.infolist()), default=0) > 0:
                raise zipfile.BadZipFile("it does not begin where it should")
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(_SMALL, _LARGEST_RATIO * path.stat().st_size):
                raise ModelError(f"{path} unpacks to {unpacked / 1e9:.1f} GB: fmx opens no archive that grows so much.")
            broken = archive.testzip()
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise ModelError(f"{path} is truncated or damaged ({error}): copy or export it again.") from None
    if broken is not None:
        raise ModelError(f"{path} is damaged at {broken}: copy or export it again.")
    return names
