"""The command ``fmx extract``: its options, what it says while it runs, and how it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli import texts
from fmx.cli.groups import grouped
from fmx.cli.opening import Opening

if TYPE_CHECKING:
    from fmx.extraction import Settled
    from fmx.store import Store

__all__ = ["extract"]

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A picture, a video, a folder of either (subfolders are labels), a glob, a CSV manifest (path,label), or "
        ".npy, .npz, .zarr, .h5.",
        show_default=False,
    ),
]


_DATA, _NOISE, _KEEP, _STORE = "Data", "Noise", "What is kept", "The store"


@grouped
def extract(
    model: opt.Model,
    data: Data,
    output: Annotated[
        str,
        opt.output("the store, a folder or an address such as s3://bucket/name", "STORE"),
    ],
    layers: opt.Layers = "auto",
    *,
    opening: Opening,
    picture_channels: opt.PictureChannels = None,
    frames: Annotated[
        int | None, opt.option(_DATA, "Frames: how many a clip of a video has (default: 16).", metavar="N", min=1)
    ] = None,
    stride: Annotated[
        int, opt.option(_DATA, "Stride: every so many-th frame of videos is taken.", metavar="N", min=1)
    ] = 1,
    clips: Annotated[bool, opt.option(_DATA, "The second axis of arrays is the timestep.", "--clips")] = False,
    on_error: Annotated[
        str,
        opt.option(_DATA, "Samples that can't be read: fail, or skip and list them in the store.", metavar="HOW"),
    ] = "fail",
    noise: Annotated[
        str,
        opt.option(
            _NOISE,
            "Noise levels such as 0,0.2; 0 is always there. Gaussian: share of the way from black to white.",
            metavar="LEVELS",
        ),
    ] = "0",
    perturb: Annotated[
        str,
        opt.option(
            _NOISE,
            "Kind of noise: gaussian, salt-and-pepper, blur, jpeg, brightness, contrast or patch.",
            metavar="KIND",
        ),
    ] = "gaussian",
    noise_space: Annotated[
        str | None, opt.option(_NOISE, "Where Gaussian noise is added: pixel, or the model's input.", metavar="WHERE")
    ] = None,
    seed: opt.Seed = 0,
    batch_size: opt.BatchSize = 32,
    device: opt.Device = "cpu",
    engine: opt.Engine = "auto",
    precision: Annotated[
        str | None, opt.precision("what the model computes in, float32, float16 or bfloat16 (default: its own)")
    ] = None,
    memory: Annotated[str | None, opt.option(opt.RUN, "Most memory to take, such as 2GB.", metavar="SIZE")] = None,
    workers: Annotated[int, opt.option(opt.RUN, "Processes on this machine that share the work.", metavar="N")] = 0,
    scheduler: Annotated[
        str | None,
        opt.option(opt.RUN, "Dask cluster that does the work, such as tcp://host:8786.", metavar="ADDRESS"),
    ] = None,
    keep_outputs: Annotated[bool, opt.option(_KEEP, "Keep the model's outputs too.", "--keep-outputs")] = False,
    keep_channels: Annotated[
        list[str] | None,
        opt.option(
            _KEEP,
            "Channels to keep: 0-15,31 in all layers, layer1=0-15 in some. May be given again.",
            metavar="[LAYER=]CHANNELS",
        ),
    ] = None,
    space: Annotated[
        str, opt.space("full, as they are, their mean or max, or the means of a grid such as 4x4")
    ] = "full",
    dtype: Annotated[
        str | None,
        opt.option(
            _KEEP, "Type of the stored values: float32, float16 or bfloat16 (default: the layer's own).", metavar="TYPE"
        ),
    ] = None,
    codec: Annotated[
        str,
        opt.option(
            _KEEP, "Lossless compression: auto (by the first batch), none, lz4, lz4-bits, zstd.", metavar="CODEC"
        ),
    ] = "auto",
    reduce: Annotated[
        str,
        opt.option(
            _KEEP, "Keep no activations, only summaries of them: stats,hist,quantiles,top-samples.", metavar="NAMES"
        ),
    ] = "",
    overwrite: Annotated[bool, opt.overwrite("a store")] = False,
    resume: Annotated[
        bool, opt.option(_STORE, "Only go on with a store that is there; the same command does so anyway.", "--resume")
    ] = False,
    append: Annotated[
        bool, opt.option(_STORE, "Add what is new (samples, layers, noise levels) to a finished store.", "--append")
    ] = False,
    repair: Annotated[
        bool, opt.option(_STORE, "Look for damage first, and make the damaged samples anew.", "--repair")
    ] = False,
    meta: Annotated[
        list[str] | None,
        opt.option(_STORE, "A note of your own, kept in the store. May be given again.", metavar="KEY=VALUE"),
    ] = None,
    dry_run: Annotated[
        bool, opt.option(_STORE, "Say how large the store will be and how long it will take, and stop.", "--dry-run")
    ] = False,
    json: opt.Json = False,
) -> None:
    """Stream a model's activations for every sample into a labelled store.

    Run the same command again to go on after an interruption.
    """
    from fmx.cli.output import note
    from fmx.extraction import Request, settle

    request = Request(
        model=model,
        data=data,
        to=output,
        layers=layers,
        pictures=replace(opening.pictures, channels=texts.picture_channels(picture_channels)),
        **opening.ways,
        frames=frames,
        stride=stride,
        clips=clips,
        on_error=on_error,
        noise=texts.numbers("--noise", noise) or [],
        perturb=perturb,
        noise_space=noise_space,
        seed=seed,
        batch_size=batch_size,
        device=device,
        engine=engine,
        precision=precision,
        memory=texts.memory(memory),
        workers=workers,
        scheduler=scheduler,
        outputs=keep_outputs,
        channels=tuple(keep_channels or ()),
        space=space,
        dtype=dtype,
        codec=codec,
        reduce=texts.words(reduce),
        overwrite=overwrite,
        resume=resume,
        append=append,
        repair=repair,
        meta=texts.pairs("--meta", meta or ()),
    )
    settled = settle(request)
    for text in settled.notes:
        note(text)
    for name in settled.skipped:
        note(f"left out, as it can't be read: {name}")
    if dry_run:
        _say_plan(settled, json)
    else:
        _run(settled, output, as_json=json)


def _run(settled: Settled, output: str, *, as_json: bool) -> None:
    from fmx.cli.output import extraction_bar
    from fmx.extraction import run

    with _interruptible() as stopped, extraction_bar() as update:
        store = run(settled, update, stopped)
    if store.attributes["completeness"] == "complete":
        _say_made(store, output, as_json=as_json)
    else:
        done, total = int(store.complete.sum()), len(store.samples)
        raise opt.Stopped(f"stopped after {done} of {total} samples, all of them safe: run the same command to go on")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end the run at the next write unit; the second one ends it at once."""
    from fmx.cli.output import note

    asked: list[int] = []

    def stop(_signal: int, _frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(1)
        note("stopping as soon as the samples at hand are written; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _say_made(store: Store, output: str, *, as_json: bool) -> None:
    from fmx.cli.output import print_json, say

    if as_json:
        from fmx.cli.describe import store_rows

        print_json(store_rows(store))
        return
    names = ", ".join(info.name for info in store.layers[:6]) + (", …" if len(store.layers) > 6 else "")
    count, levels = len(store.samples), store.tree.sizes["noise"]
    what = f"{count} sample{'s' * (count != 1)} × {levels} noise level{'s' * (levels != 1)}"
    say(f"{output}: {what} of {names}" if names else f"{output}: summaries of {what}")
    say(f"Next: fmx stats {output} · fmx render grid {output}" if names else f"Next: fmx info {output}")


def _say_plan(settled: Settled, as_json: bool) -> None:
    from fmx.cli.output import print_json, print_table, say
    from fmx.extraction import estimate

    found = estimate(settled)
    if as_json:
        print_json(found.rows)
        return
    headings = {"layer": "layer", "dims": "dims", "shape": "shape", "dtype": "dtype", "sample_mb": "MB/sample"}
    print_table(found.rows, headings | {"chunks": "chunk", "objects": "objects", "mb": "MB"})
    say()
    for name, value in found.facts().items():
        say(f"{name:<14}{value}")
