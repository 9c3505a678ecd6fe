"""Extraction for Python users: one function with everything by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmx.extraction.pipeline import Progress
from fmx.extraction.request import DEFAULT_BATCH, Request
from fmx.extraction.run import run
from fmx.extraction.settle import settle
from fmx.prepare import PictureOptions
from fmx.store import Place, Store

__all__ = ["extract"]


def extract(
    model: Any,
    data: Any,
    *,
    to: str | Path | Place,
    layers: str | Iterable[str] = "auto",
    noise: Sequence[float] = (0.0,),
    perturb: str = "gaussian",
    noise_space: str | None = None,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    device: str = "cpu",
    engine: str = "auto",
    precision: str | None = None,
    outputs: bool = False,
    frames: int | None = None,
    stride: int = 1,
    clips: bool = False,
    pictures: PictureOptions | None = None,
    weights: str | Path | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    operators: Sequence[str | Path] = (),
    input_shape: Sequence[int] | Mapping[str, Sequence[int | str]] | None = None,
    channels: Sequence[str] | Mapping[str, Sequence[int]] = (),
    space: str = "full",
    dtype: str | None = None,
    codec: str = "auto",
    reduce: Sequence[str] = (),
    on_error: str = "fail",
    overwrite: bool = False,
    append: bool = False,
    repair: bool = False,
    memory: int | None = None,
    meta: Mapping[str, str] | None = None,
    workers: int = 0,
    scheduler: str | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Store:
    """Stream the activations of a model into a store, or go on where an interrupted run left one.

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    data : str, path, array, iterable, or sequence or mapping of them
        A picture or video; a folder of either (subfolders are labels); a glob; a CSV manifest; ``.npy``, ``.npz``,
        ``.zarr`` or ``.h5``; an array (sample, …native), a data set, a DataLoader or any iterable; see
        `fmx.data.open_source`. Arrays are taken as model input as they are, unless `pictures` says how to prepare them.
    to : str, path or Place
        Where the store is made: a folder, or an address such as ``s3://bucket/name``. A store that is there and was
        begun in the same way is continued; one that was made in another way is an error.
    layers : str or iterable of str
        See `fmx.layers.select_layers`.
    noise : sequence of float
        Levels of the noise axis. 0, the clean pass, is always there and comes first. Of Gaussian noise these are
        standard deviations: of pixels that run from 0 (black) to 1 (white), or of the model's input for arrays.
    perturb : str
        ``gaussian``, ``salt-and-pepper``, ``blur``, ``jpeg``, ``brightness``, ``contrast`` or ``patch``; see
        `fmx.data.perturbation` for what their levels mean.
    noise_space : {"pixel", "input"}, optional
        Where Gaussian noise is added to pictures.
    seed : int
        With the sample's id, the timestep and the level it settles the noise, whatever the batch size.
    batch_size : int
        Samples, or frames of clips, that the model runs at once. A store that is continued keeps its own.
    device : str
        ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    engine : str
        ``auto`` takes the fastest engine whose values on the first batch agree with the reference's within 1e-4 of
        each layer's largest value; ``eager`` is the reference; a model lists the others when it is given a wrong one.
        A store that is continued keeps its own.
    precision : {"float32", "float16", "bfloat16"}, optional
        What the model computes in, where not in its own.
    outputs : bool
        Keep the model's outputs too.
    frames, stride : int
        Frames of a clip, and how far they lie apart in the video.
    clips : bool
        Whether the second axis of arrays is the timestep.
    pictures : PictureOptions, optional
        Overrules how pictures are prepared.
    weights, allow_partial, trust, operators, input_shape
        See `fmx.load`.
    channels : sequence of str, or mapping of str to sequence of int
        Channels to keep: ``["0-15,31"]`` of all layers, ``["layer1=0-15"]`` or ``{"layer1": [0, 3]}`` of some.
    space : str
        ``full`` keeps maps, ``mean`` and ``max`` one number of each, ``4x4`` the means of a grid of cells.
    dtype : {"float32", "float16", "bfloat16"}, optional
        Type of the stored values, where not the layer's own.
    codec : str
        Lossless compression: ``auto`` measures on the first batch; or ``none``, ``lz4``, ``lz4-bits``, ``zstd``.
    reduce : sequence of str
        Keep no activations but summaries of them, as ``analysis/<name>``: ``stats``, ``hist``, ``quantiles``,
        ``top-samples``.
    on_error : {"fail", "skip"}
        What to do about samples that can't be read; ``skip`` looks at every one first and lists in the store what it
        left out.
    overwrite : bool
        Replace a store that is there already.
    append : bool
        Add samples, layers or noise levels that are new to a finished store.
    repair : bool
        Look for damage first, and make the damaged samples anew.
    memory : int, optional
        Bytes of memory that may be taken.
    meta : mapping of str to str, optional
        Notes of your own, kept in the store.
    workers : int
        Processes on this machine that share the work; 0 runs it in this one.
    scheduler : str, optional
        Address of a Dask scheduler whose workers do the work.
    progress : callable, optional
        Called with a `Status` after every batch.
    stop : callable, optional
        Asked at the end of each write unit whether to end there; the store is partial then and can be continued.

    Returns
    -------
    Store

    Raises
    ------
    FmxError
        With one sentence that says what was wrong and what to do.
    """
    request = Request(
        model=model,
        data=data,
        to=to,
        layers=layers,
        noise=noise,
        perturb=perturb,
        noise_space=noise_space,
        seed=seed,
        batch_size=batch_size,
        device=device,
        engine=engine,
        precision=precision,
        outputs=outputs,
        frames=frames,
        stride=stride,
        clips=clips,
        pictures=pictures or PictureOptions(),
        weights=weights,
        allow_partial=allow_partial,
        trust=trust,
        operators=operators,
        input_shape=input_shape,
        channels=channels,
        space=space,
        dtype=dtype,
        codec=codec,
        reduce=reduce,
        on_error=on_error,
        overwrite=overwrite,
        append=append,
        repair=repair,
        memory=memory,
        meta=meta or {},
        workers=workers,
        scheduler=scheduler,
    )
    return run(settle(request), progress, stop)
