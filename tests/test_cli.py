"""The command line as a user meets it: what is printed, what is written, and in which form."""

from __future__ import annotations

import json
import math
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from networks import tiny_resnet
from PIL import Image

NET = "networks:tiny_resnet"
FORMATS = ("traced.pt", "legacy.onnx", "dynamo.onnx")
Cli = Callable[..., Any]
COMMANDS = ["layers", "extract", "info", "stats", "render grid", "render frames", "render overlay", "demo"]


@pytest.fixture(scope="session")
def store(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six pictures at two noise levels, made by the command itself."""
    path = tmp_path_factory.mktemp("made") / "acts.zarr"
    words = ["extract", "legacy.onnx", "pictures", "-o", str(path), "--layers", "layer1.*,fc", "--outputs"]
    done = process(*words, "--noise", "0.25", "--seed", "7", "--batch-size", "4", "--range", "0,255", folder=kit)
    assert done.returncode == 0, done.stderr
    return path


def process(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``fmx`` in a process of its own, its output piped."""
    command = [sys.executable, "-c", "from fmx.cli import main; main()", *words]
    given = os.environ | {"PYTHONPATH": str(Path(__file__).parent)} | environment
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=given, check=False, timeout=200)


def rows(ran: Any) -> list[dict[str, Any]]:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


@pytest.mark.parametrize("command", [*COMMANDS, "render"])
def test_help_has_an_example_that_the_command_would_take(command: str, cli: Cli) -> None:
    ran = cli(*command.split(), "--help")
    assert ran.code == 0
    assert not ran.err
    text = " ".join(ran.out.split())
    assert f"Example: fmx {command} " in text
    options = [word for word in text.rpartition("Example:")[2].split() if word.startswith("-")]
    assert all(option in text.rpartition("Example:")[0] for option in options)


def leaves(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Give all commands below one, by their names."""
    for name, below in command.commands.items():
        yield from leaves(below, *path, name) if hasattr(below, "commands") else [(" ".join([*path, name]), below)]


def test_every_command_has_an_example_that_it_would_take() -> None:
    from typer.main import get_command

    from fmx.cli.app import app

    found = dict(leaves(get_command(app)))
    assert {"extract", "render grid"} <= set(found)
    for name, command in found.items():
        example = command.epilog or ""
        assert example.startswith(f"Example: fmx {name} "), name
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in example.split() if word.startswith("-")} <= known, name


def test_help_lists_the_commands_and_version_is_plain(cli: Cli) -> None:
    shown = cli("--help").out
    assert all(command.split()[0] in shown for command in COMMANDS)
    assert cli("--version").out == f"fmx {version('fmx')}\n"


def test_layers_as_json_has_the_same_rows_in_every_format(cli: Cli, kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kit)
    found = rows(cli("layers", NET, "--weights", "weights.pth", "--input-shape", "3,32,32", "--json"))
    for row in found:
        assert list(row) == ["name", "kind", "dims", "shape", "dtype", "bytes"]
        assert row["bytes"] == 4 * math.prod(row["shape"])
    by_name = {row["name"]: row for row in found}
    assert by_name["layer1.0.conv1"]["shape"] == [8, 16, 16]
    assert by_name["layer1.0.conv1"]["dims"] == ["channel", "y", "x"]
    assert by_name["fc"]["shape"] == [5]
    for file in FORMATS:
        for row in rows(cli("layers", file, "--json", "--input-shape", "3,32,32", "--layers", "layer1.**,fc")):
            assert row["shape"] == by_name[row["name"]]["shape"]


@pytest.mark.usefixtures("place")
def test_layers_selects_and_says_what_it_assumed(cli: Cli) -> None:
    ran = cli("layers", "traced.pt", "--layers", "**.conv1,!layer1.1.conv1")
    assert ran.code == 0
    header, *lines = ran.out.splitlines()
    assert header.split() == ["layer", "kind", "dims", "shape", "dtype", "MB/sample"]
    assert [line.split()[0] for line in lines] == ["layer1.0.conv1"]
    assert ran.err.startswith("note: ")
    assert "--input-shape" in ran.err
    assert not cli("layers", "traced.pt", "--input-shape", "3,32,32").err


LONG = "a_layer_with_a_name_that_is_longer_than_any_terminal_" + "x" * 200


class Named(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module(LONG, torch.nn.Conv2d(3, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, LONG)(x)


def test_piped_output_is_whole_and_plain(tmp_path: Path) -> None:
    environment = {"COLUMNS": "40", "TERM": "xterm-256color"}
    done = process("layers", "test_cli:Named", "--input-shape", "3,8,8", folder=tmp_path, **environment)
    assert done.returncode == 0
    assert not done.stderr
    assert LONG in done.stdout
    assert not {"\x1b", "…"} & set(done.stdout)


def test_numbers_are_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    code = "from fmx.cli.output import print_table\nprint_table([{'a': 'n' * 90, 'b': 0.02509}], {'a': 'a', 'b': 'b'})"
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "40", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment, check=True, timeout=300)
    assert "0.02509" in os.read(ours, 10000).decode()


def test_reader_may_stop_early(kit: Path, store: Path) -> None:
    words = f"'{sys.executable}' -c 'from fmx.cli import main; main()' stats '{store}' --by sample,channel --rows all"
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("layer")
    assert not done.stderr


def test_store_opens_with_plain_xarray_and_holds_what_the_network_computes(store: Path, kit: Path) -> None:
    tree = xr.open_datatree(store, engine="zarr")
    assert tree["sample"].values.tolist() == [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)]
    assert tree["label"].values.tolist() == ["cat"] * 3 + ["dog"] * 3
    assert tree["noise"].values.tolist() == [0, 0.25]
    assert (tree.attrs["completeness"], tree.attrs["seed"]) == ("complete", 7)
    activation = tree["layers/layer1.0/activation"]
    assert activation.dims == ("sample", "noise", "timestep", "channel", "y", "x")
    assert activation.shape == (6, 2, 1, 8, 16, 16)
    pixels = np.stack([np.asarray(Image.open(kit / "pictures" / name)) for name in tree["sample"].values])
    assert np.array_equal(tree["inputs/picture"].values[:, 0], pixels)
    net = tiny_resnet().eval()
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        inside = net.layer1[0](net.stem(batch)).numpy()
        outside = net(batch).numpy()
    np.testing.assert_allclose(activation.values[:, 0, 0], inside, rtol=1e-4, atol=1e-3)
    (output,) = tree["outputs"].data_vars.values()
    np.testing.assert_allclose(output.values[:, 0, 0], outside, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("place")
def test_extract_says_what_it_made_and_keeps_what_is_there(cli: Cli) -> None:
    words = ["inputs.npy", "-o", "a.zarr", "--layers"]
    ran = cli("extract", NET, *words, "fc", "--weights", "weights.pth")
    assert "a.zarr: 5 samples" in ran.out
    assert "fmx stats a.zarr" in ran.out
    again = cli("extract", NET, *words, "fc", "--weights", "weights.pth")
    assert again.code == 0
    kept = cli("extract", NET, *words, "stem")
    assert kept.code == 2
    assert "--overwrite" in kept.err
    assert cli("extract", "traced.pt", *words, "fc,stem", "--overwrite").code == 0
    assert {row["layer"] for row in rows(cli("stats", "a.zarr", "--json"))} == {"fc", "stem"}


def test_skipped_pictures_are_said_and_listed(cli: Cli, kit: Path, tmp_path: Path) -> None:
    shutil.copytree(kit / "pictures", tmp_path / "p")
    (tmp_path / "p/dog/1.png").write_bytes(b"no picture")
    words = [kit / "traced.pt", tmp_path / "p", "-o", tmp_path / "a.zarr", "--size", "32"]
    failed = cli("extract", *words)
    assert failed.code == 2
    assert "dog/1.png can't be read" in failed.err
    ran = cli("extract", *words, "--on-error", "skip", "--overwrite")
    assert ran.code == 0
    assert "dog/1.png" in ran.err
    assert len(xr.open_datatree(tmp_path / "a.zarr", engine="zarr")["sample"]) == 5
    assert "dog/1.png" in cli("info", tmp_path / "a.zarr").out


def test_info_says_how_the_store_was_made(store: Path, cli: Cli) -> None:
    text = cli("info", store).out
    for fact in (
        "legacy.onnx",
        "onnxruntime",
        "3×32×32",
        "scaled to 0–255",
        "seed 7",
        "0, 0.25",
        "cat, dog",
        "complete",
    ):
        assert fact in text
    found = rows(cli("info", store, "--json"))
    assert {row["layer"] for row in found} == {"layer1.0", "layer1.1", "fc"}


@pytest.mark.parametrize("by", ["", "channel", "noise", "noise,channel", "sample, noise"])
def test_stats_are_those_of_the_values(by: str, store: Path, cli: Cli) -> None:
    keep = [label.strip() for label in by.split(",") if label]
    values = xr.open_datatree(store, engine="zarr")["layers/layer1.1/activation"].astype(np.float64).load()
    found = rows(cli("stats", store, "--layers", "layer1.1", "--by", by, "--json"))
    assert len(found) == math.prod(values.sizes[label] for label in keep)
    for row in found:
        assert {"layer", *keep, "mean", "std", "min", "max", "sparsity"} <= set(row)
        part = values.sel({label: row[label] for label in keep}).values
        wanted = [part.mean(), part.std(), part.min(), part.max(), (part == 0).mean()]
        np.testing.assert_allclose([row[k] for k in ("mean", "std", "min", "max", "sparsity")], wanted, rtol=1e-6)


@pytest.mark.usefixtures("place")
def test_pictures_are_written_where_the_command_says(store: Path, cli: Cli) -> None:
    grids = cli("render", "grid", store, "--layer", "layer1.*", "--sample", "dog/2.png", "--noise", "0.25", "-o", "a/b")
    figure = cli("render", "overlay", store, "--layer", "layer1.0", "--sample", "5", "-o", "a/b", "--name", "one")
    assert grids.code == figure.code == 0
    paths = [Path(line) for line in (grids.out + figure.out).splitlines()]
    assert len(paths) == 3
    assert sorted(paths) == sorted(Path("a/b").rglob("*.png"))
    assert len(list(Path("a/b").rglob("index.csv"))) == 2
    again = cli("render", "overlay", store, "--layer", "layer1.0", "-o", "a/b", "--name", "one")
    assert again.code == 2 and "already there" in again.err
    for path in paths:
        picture = Image.open(path)
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


MISTAKES = [
    ("stats STORE --by chanel", "did you mean channel"),
    ("stats STORE --layers nope", "No layer is called nope"),
    ("stats nowhere.zarr", "no store nowhere.zarr"),
    ("info .", "no fmx store"),
    ("render grid STORE --sample dig/0.png", "no sample dig/0.png"),
    ("render grid STORE --noise 0.5", "no noise level 0.5"),
    ("render grid STORE --timestep 1", "no timestep 1"),
    ("render frames STORE --layer fc", "no spatial axes"),
    ("render grid STORE --layer layer1.0 --cmap viridiss", "viridis"),
    ("render grid STORE --layer layer1.0 --scale 0", "scale"),
    ("render grid STORE --layer layer1.0 --normalisation all", "filter, sample, time, channel, layer, global"),
    ("render overlay STORE --channel 8", "0 to 7"),
    ("render overlay STORE --alpha 2", "between 0 and 1"),
    ("render overlay STORE --layer fc", "maps"),
    ("render overlay ARRAYS", "keeps no pictures"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
@pytest.mark.usefixtures("place")
def test_mistakes_about_stores(words: str, said: str, store: Path, cli: Cli) -> None:
    if "ARRAYS" in words:
        assert cli("extract", "traced.pt", "inputs.npy", "-o", "ARRAYS", "--layers", "stem").code == 0
    ran = cli(*(str(store) if word == "STORE" else word for word in words.split()))
    assert ran.code == 2
    assert not ran.out
    assert ran.err.startswith("fmx: ")
    assert len(ran.err.splitlines()) == 1
    assert said in ran.err
    assert not Path("out").exists()


def test_damaged_store_is_the_users_to_know(store: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "a.zarr")
    for chunk in (tmp_path / "a.zarr" / "layers" / "fc" / "activation" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
    ran = cli("stats", tmp_path / "a.zarr", "--layers", "fc")
    assert ran.code == 2
    assert "a.zarr" in ran.err


def test_demo_leaves_a_store_of_the_users_alone(store: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "acts.zarr")
    before = cli("info", tmp_path / "acts.zarr", "--json").out
    cli("demo", "-o", tmp_path)
    assert cli("info", tmp_path / "acts.zarr", "--json").out == before


@pytest.mark.real
def test_real_cifar_network_is_as_right_in_every_format(cli: Cli, real: Path, tmp_path: Path) -> None:
    models, scores = real / "models", {}
    files = [
        "networks:cifar10_cnn",
        *(models / f"cifar10_cnn_{f}" for f in ("traced.pt", "scripted.pt", "legacy.onnx")),
    ]
    for i, model in enumerate([*files, models / "cifar10_cnn_dynamo.onnx"]):
        more = ["--weights", models / "cifar10_cnn.pth", "--size", "32"] if i == 0 else []
        words = ["extract", model, real / "images" / "cifar10", "-o", tmp_path / f"{i}.zarr", "--layers", "28"]
        assert cli(*words, "--range", "0,255", "--outputs", *more).code == 0
        tree = xr.open_datatree(tmp_path / f"{i}.zarr", engine="zarr")
        (output,) = tree["outputs"].data_vars.values()
        scores[i] = output.values[:, 0, 0]
    labels = tree["label"].values
    right = {i: int((np.unique(labels)[s.argmax(1)] == labels).sum()) for i, s in scores.items()}
    assert right == dict.fromkeys(scores, 822)
    for found in scores.values():
        np.testing.assert_allclose(found, scores[0], rtol=1e-3, atol=1e-3)
