"""Zip archives from somewhere else: seen to be whole, of a sane size and plain before a framework reads them."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

from fmx.errors import ModelError

__all__ = ["check_archive"]

# Weights hardly compress and frameworks store them as they are; what unpacks to more was made to fill the memory.
_LARGEST_RATIO = 4
_SMALL = 64 * 2**20


def check_archive(path: Path) -> list[str]:
    """Check an archive's sizes and checksums, and that every reader finds the same in it.

    Returns
    -------
    list of str
        Names of its members.

    Raises
    ------
    ModelError
        It is truncated or altered, unpacks to much more than it takes, or is not as torch writes archives: one folder
        with everything in it, each name once.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if min((member.header_offset for member in archive.infolist()), default=0) > 0:
                raise zipfile.BadZipFile("it does not begin where it should")
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > max(_SMALL, _LARGEST_RATIO * path.stat().st_size):
                raise ModelError(f"{path} unpacks to {unpacked / 1e9:.1f} GB: fmx opens no archive that grows so much.")
            broken = archive.testzip()
            names = [member.filename for member in archive.infolist()]
            start = archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise ModelError(f"{path} is truncated or damaged ({error}): copy or export it again.") from None
    if broken is not None:
        raise ModelError(f"{path} is damaged at {broken}: copy or export it again.")
    odd = _oddity(names) if _has_plain_end(path, start) else "it is put together"
    if odd:
        raise ModelError(f"{path} is no archive as torch writes them ({odd}): export it again.")
    return names


def _oddity(names: list[str]) -> str:
    """Say what is odd about the names in an archive, nothing if they are as they should be."""
    # torch takes the first name that fits, in upper or lower case: what is looked at has to be what is read.
    twice = [name for name, count in Counter(name.lower() for name in names).items() if count > 1]
    folders = {name.rpartition("/")[0].partition("/")[0] for name in names}
    if twice:
        return f"it holds {twice[0]} twice"
    return f"it has {len(folders)} folders at the top" if len(folders) > 1 else ""


def _has_plain_end(path: Path, start: int) -> bool:
    """Say whether an archive's table of contents lies where its last record says, without looking for it elsewhere.

    Readers differ in what they make of data before or behind an archive, and could be shown different contents.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 98, 0))
        tail = file.read()
    begins = int.from_bytes(tail[-6:-2], "little")
    if tail[-42:-38] == b"PK\x06\x07":  # the longer records for large archives, of 56 and 20 bytes
        begins = int.from_bytes(tail[-50:-42], "little")
        if tail[-98:-94] != b"PK\x06\x06" or int.from_bytes(tail[-34:-26], "little") != size - 98:
            return False
    return tail[-22:-18] == b"PK\x05\x06" and begins == start
