"""Which files are meant: folders, globs, lists and manifests of pictures or videos."""

from __future__ import annotations

import csv
import glob
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fmx.data.sources.base import Sample, utf8
from fmx.data.sources.pictures import picture_endings
from fmx.errors import DataError

__all__ = ["VIDEO_ENDINGS", "from_glob", "from_list", "from_manifest", "from_text", "in_folder", "is_glob", "is_video"]

VIDEO_ENDINGS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .ogv .3gp .mts .m2ts".split())

# Where cells past the last column are put; no column is called so.
_MORE = "\n"


def is_video(path: str | Path) -> bool:
    """Tell a video by the ending of its name."""
    return Path(path).suffix.lower() in VIDEO_ENDINGS


def in_folder(root: Path) -> list[Sample]:
    """List the pictures or videos below a folder in the order of their paths; hidden files are left out.

    Raises
    ------
    DataError
        There are none, or both.
    """
    found = _named(sorted(root.rglob("*")), root)
    if not found:
        raise DataError(f"{root} holds no pictures or videos: give a folder with pictures, or an .npy file.")
    return _one_kind(found, str(root))


def is_glob(text: str) -> bool:
    """Tell a glob from a path: it has a wildcard and is no file."""
    return any(c in text for c in "*?[") and not Path(text).exists()


def from_glob(pattern: str) -> list[Sample]:
    """List the pictures or videos that match a glob, ``**`` for folders of any depth.

    Ids and labels are those of the folder that the pattern begins with: of ``photos/**/*.jpg`` those of ``photos``.

    Raises
    ------
    DataError
        Nothing matches, or pictures and videos do.
    """
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    root = Path(*parts[:fixed])
    matches = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - the pattern may be absolute
    found = _named(matches, root)
    if not found:
        others = f"matches {len(matches)} files, none of them a picture or a video" if matches else "matches nothing"
        raise DataError(f"{pattern} {others}: correct the pattern, such as 'photos/**/*.jpg'.")
    return _one_kind(found, pattern)


def _named(paths: Iterable[Path], root: Path) -> list[Sample]:
    endings = picture_endings() | VIDEO_ENDINGS
    found = []
    for path in paths:
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and path.suffix.lower() in endings and path.is_file():
            label = relative.parts[0] if len(relative.parts) > 1 else ""
            found.append(Sample(utf8(relative.as_posix()), str(path), label))
    return found


def from_list(paths: Sequence[Path]) -> list[Sample]:
    """Name listed files by their file names, or by their whole paths where file names alone are not unique.

    Raises
    ------
    DataError
        The list is empty, names a file twice, or one that is not there.
    """
    missing = [p for p in paths if not p.is_file()]
    if missing or not paths:
        raise DataError(f"There is no picture {missing[0]}." if missing else "The list of pictures is empty.")
    twice = [p for p, count in Counter(paths).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]} is listed twice: list each picture once.")
    distinct = len({p.name for p in paths}) == len(paths)
    return _one_kind([Sample(utf8(p.name if distinct else p.as_posix()), str(p)) for p in paths], "The list")


def from_text(file: Path) -> list[Sample]:
    """Read a list of files, one a line, relative to the list's own folder; ``#`` begins a remark."""
    lines = ((n, line.strip()) for n, line in enumerate(_lines(file), 1))
    rows = [(n, {"path": line}) for n, line in lines if line and not line.startswith("#")]
    return _from_rows(file, rows)


def from_manifest(file: Path) -> list[Sample]:
    """Read a CSV manifest with the columns ``path`` and, where wanted, ``label`` and ``id``.

    Paths are relative to the manifest's own folder; ids are the paths as they stand there. Other columns are left
    aside.

    Raises
    ------
    DataError
        A column or a file is missing, or a file or an id stands there twice; names the line.
    """
    reader = csv.DictReader(_lines(file), restkey=_MORE, strict=True, skipinitialspace=True)
    try:
        columns = [str(name).strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        if "path" not in columns:
            has = f"has the columns {', '.join(columns)}" if any(columns) else "is empty"
            raise DataError(f"{file} {has}: its first line has to name the columns, path and label.")
        rows = [(reader.line_num, row) for row in reader]
        long = [line for line, row in rows if any(cell.strip() for cell in row.get(_MORE, ()))]
        if long:
            raise DataError(f"{file}, line {long[0]}, has more cells than columns: put text with commas in quotes.")
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}, can't be read as CSV: {error}.") from None
    return _from_rows(file, rows)


def _from_rows(file: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> list[Sample]:
    if not rows:
        raise DataError(f"{file} lists no files: give a path a line.")
    seen: dict[str, int] = {}
    samples = []
    for line, row in rows:
        where = f"{file}, line {line}"
        text = (row.get("path") or "").strip()
        if not text:
            raise DataError(f"{where}, has no path: give one.")
        path = file.parent / text
        if not path.is_file():
            raise DataError(f"{where}: there is no file {path}; paths are relative to the folder of the list.")
        name = (row.get("id") or "").strip() or Path(text).as_posix()
        for key in (f"file {path.resolve()}", f"id {name}"):
            if key in seen:
                raise DataError(f"{where}: the {key} stands in line {seen[key]} already; list each once.")
            seen[key] = line
        samples.append(Sample(utf8(name), str(path), (row.get("label") or "").strip()))
    return _one_kind(samples, str(file))


def _lines(file: Path) -> Iterator[str]:
    """Give the lines with their ends, which are those of files: a name may hold what Unicode calls an end, too."""
    try:
        return io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8 text: save it as UTF-8.") from None


def _one_kind(samples: list[Sample], where: str) -> list[Sample]:
    """Make sure that files are all pictures or all videos."""
    videos = _few(s.path for s in samples if is_video(s.path))
    pictures = _few(s.path for s in samples if not is_video(s.path))
    if videos and pictures:
        raise DataError(
            f"{where} holds pictures ({pictures[0]}, …) and videos ({videos[0]}, …): choose one kind with a glob, "
            "such as 'FOLDER/**/*.jpg' or 'FOLDER/**/*.mp4'."
        )
    return samples


def _few(names: Iterator[str]) -> list[str]:
    return [Path(name).name for name, _ in zip(names, range(1), strict=False)]
