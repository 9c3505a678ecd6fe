"""Writing a report: one file, or a folder with its pictures beside it; whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fmx.errors import FmxError
from fmx.render.sinks import whole_file
from fmx.report.album import Album
from fmx.report.findings import gather
from fmx.report.page import MARK, PageSettings, page_of, render_page
from fmx.store import Store

if TYPE_CHECKING:
    from fmx.adapter import Model

__all__ = ["check_target", "write_report"]

PAGE = "index.html"
_ENDINGS = {".html", ".htm"}


def write_report(
    store: Store,
    to: str | Path,
    *,
    layers: str | Iterable[str] = "all",
    model: Model | None = None,
    sample: str | int = 0,
    channels: int | None = None,
    features: int = 2,
    seconds: float = 60.0,
    assets: bool = False,
    overwrite: bool = False,
    allow_partial: bool = False,
    device: str = "cpu",
    reading: Callable[[str], Any] | None = None,
) -> Path:
    """Write the report of a store.

    Parameters
    ----------
    store : Store
    to : str or path
        The file, ending in ``.html``; with `assets` a folder.
    layers : str or iterable of str
        See `fmx.store.Store.select`.
    model : Model, optional
        The model that the store was made with, for deconvnet and maximization, and for what neurons see.
    sample : str or int
        Whose maps are drawn: id, end of an id, or position among the store's samples.
    channels : int, optional
        Channels of each layer that are shown with their top samples; as many as keep the page small if left out.
    features : int
        Of these, the channels that are projected and maximized, with `model`.
    seconds : float
        After so long no further layer is projected or maximized.
    assets : bool
        Write a folder with ``index.html`` and its pictures as files, not one file.
    overwrite : bool
        Replace a file, or a folder that holds a report.
    allow_partial : bool
        Tell of the complete samples of an unfinished store.
    device : str
        Where the model runs.
    reading : callable, optional
        Given what is read next, a context in which that happens: progress, a cluster.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    FmxError
        Something is there already, or it can't be written; no such layer or sample; an unfinished store; a model that
        is not the store's.
    """
    target = check_target(to, assets=assets, overwrite=overwrite)
    settings = PageSettings(sample=sample, channels=channels, features=features, seconds=seconds, device=device)
    settings.check(store)
    if model is not None:
        settings.fields = settings.measured(store, model, layers)
    found = gather(store, layers=layers, fields=settings.fields, allow_partial=allow_partial, reading=reading)
    if not assets:
        page = render_page(page_of(found, Album(), settings, model), embedded=True)
        with whole_file(target) as unfinished:
            unfinished.write_text(page, encoding="utf-8")
        return target
    with _whole_folder(target) as folder:
        page = render_page(page_of(found, Album(folder), settings, model), embedded=False)
        (folder / PAGE).write_text(page, encoding="utf-8")
    return target / PAGE


def check_target(to: str | Path, *, assets: bool, overwrite: bool) -> Path:
    """See that a report can be written there, before anything is read for it.

    Raises
    ------
    FmxError
    """
    target = Path(to)
    if assets and target.suffix.lower() in _ENDINGS:
        raise FmxError(f"With --assets a folder is written, and {target} is the name of a page: give it without .html.")
    if not assets and target.suffix.lower() not in _ENDINGS:
        raise FmxError(f"{target} doesn't end in .html: name the page so, or add --assets to write a folder.")
    if not assets and target.is_dir():
        raise FmxError(f"{target} is a folder: give the name of a file.")
    if assets and target.exists() and not target.is_dir():
        raise FmxError(f"{target} is a file: give another folder.")
    if target.exists() and (not assets or any(target.iterdir())):
        if not overwrite:
            raise FmxError(f"{target} is there already: add --overwrite, or give another name with -o.")
        if assets and not _is_report(target):
            raise FmxError(f"{target} holds something other than a report and is left alone: give another folder.")
    return target


def _is_report(folder: Path) -> bool:
    page = folder / PAGE
    if not page.is_file():
        return False
    with page.open("rb") as stream:
        return MARK.encode() in stream.read(4096)


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside another, and let it take the other's place if all goes well."""
    unfinished = target.with_name(f".{uuid4().hex}.tmp")
    try:
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            old = target.with_name(f".{uuid4().hex}.old")
            if target.exists():
                target.replace(old)
            try:
                unfinished.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise FmxError(f"{target} can't be written: {error.strerror or error}.") from error
