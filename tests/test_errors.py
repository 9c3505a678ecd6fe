"""What a user's mistake comes to: exit code 2, one sentence that helps, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_resnet

NET = "networks:tiny_resnet"
Cli = Callable[..., Any]


def fails(ran: Any, *words: str) -> None:
    """Check that a command ended as a user's mistake should, and named what it had to."""
    assert ran.code == 2
    assert ran.out == ""
    *notes, sentence = ran.err.splitlines()
    assert all(line.startswith("note: ") for line in notes), ran.err
    assert sentence.startswith("fmx: ")
    assert sentence[-1] in ".?"
    assert "Traceback" not in ran.err
    for word in words:
        assert word in sentence, sentence


# -- model files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 10, 300, 0.5, -30, -1])
@pytest.mark.parametrize("name", ["traced.pt", "legacy.onnx", "dynamo.onnx", "weights.pth"])
def test_truncated_model(name: str, keep: float, cli: Cli, place: Path) -> None:
    whole = (place / name).read_bytes()
    end = int(len(whole) * keep) if isinstance(keep, float) else keep
    (place / "cut").write_bytes(whole[:end] if keep else b"")
    ran = cli("layers", "cut")
    fails(ran, "cut ", "empty" if not keep else "format" if keep == 1 and b"PK" in whole[:2] else "truncated")


@pytest.mark.parametrize("keep", [0, 1, 10, 300, 0.5, -30, -1])
def test_truncated_weights(keep: float, cli: Cli, place: Path) -> None:
    whole = (place / "weights.pth").read_bytes()
    end = int(len(whole) * keep) if isinstance(keep, float) else keep
    (place / "cut.pth").write_bytes(whole[:end])
    fails(cli("layers", NET, "--weights", "cut.pth"), "cut.pth")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pictures", ("pictures is a folder",)),
        ("nowhere.pt", ("There is no model nowhere.pt",)),
        ("trased.pt", ("did you mean traced.pt",)),
        ("inputs.npy", ("none of the formats",)),
        ("text.pt", ("text.pt is in none of the formats",)),
        ("text.onnx", ("text.onnx is no ONNX model",)),
        ("weights.pth", ("without the network", "--weights weights.pth")),
        ("torchvision:resnet19", ("no model resnet19", "resnet18")),
        ("torchvision:resnet18.layer9", ("has no layer9", "layer4")),
        ("networks:tiny_resnett", ("has no tiny_resnett", "tiny_resnet")),
        ("nowhere_to_be_found:net", ("can't be imported",)),
        ("os:getcwd", ("os:getcwd gave a", "torch.nn.Module")),
        ("math:sqrt", ("math:sqrt",)),
        ("torch.nn:Conv2d", ("torch.nn:Conv2d",)),
        ("torchvision:resnet18.forward", ("forward",)),
        ("torchvision:raft_small", ("raft_small", "image2")),
        ("broken_module:net", ("broken_module",)),
        ("torch.nn:Identity", ("torch.nn:Identity",)),
    ],
)
def test_model_that_is_not_there(
    source: str, words: tuple[str, ...], cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("broken_module.py", "text.pt", "text.onnx"):
        (place / file).write_text("def net(:\n")
    monkeypatch.syspath_prepend(place)
    fails(cli("layers", source), *words)


def test_pickled_module_is_refused_as_model_and_as_weights(cli: Cli, place: Path) -> None:
    torch.save(tiny_resnet(), "whole.pt")
    for words in (["whole.pt"], [NET, "--weights", "whole.pt"]):
        fails(cli("layers", *words), "whole.pt holds more than weights", "state_dict()")


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def poison(container: str, mark: Path, place: Path) -> str:
    """Write a malicious pickle into a container and give the file's name."""
    bad = Malicious(mark)
    if container == "npy":
        np.save("bad.npy", np.array([bad], dtype=object), allow_pickle=True)
        return "bad.npy"
    if container in {"zip", "legacy"}:
        torch.save({"fc.bias": bad}, "bad", _use_new_zipfile_serialization=container == "zip")
    elif container.startswith("protocol"):
        Path("bad").write_bytes(pickle.dumps(bad, protocol=int(container[-1])))
    else:
        with zipfile.ZipFile(place / "traced.pt") as whole, zipfile.ZipFile("bad", "w") as file:
            for name in whole.namelist():
                file.writestr(name, pickle.dumps(bad, 2) if name.endswith(container) else whole.read(name))
    return "bad"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:'torch.load' received a zip file")
@pytest.mark.parametrize(
    "container", ["zip", "legacy", "protocol0", "protocol2", "protocol4", "/data.pkl", "/constants.pkl", "npy"]
)
def test_malicious_pickle_does_nothing(container: str, cli: Cli, place: Path) -> None:
    mark = place / "ran"
    bad = poison(container, mark, place)
    fails(cli("layers", bad), bad)
    fails(cli("layers", NET, "--weights", bad), bad)
    fails(cli("extract", "traced.pt", bad, "-o", "a.zarr"), bad)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists()  # it would have


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("nowhere.pth", ("no weights nowhere.pth",)),
        ("weigths.pth", ("did you mean weights.pth",)),
        ("other.pth", ("does not fit", "missing (stem.0.weight", "unexpected (weight, bias)")),
        ("shape.pth", ("does not fit", "of another shape (fc.weight)")),
        ("list.pth", ("list", "state_dict()")),
        ("words", ("words",)),
        ("legacy.onnx", ("legacy.onnx", "ONNX")),
        ("traced.pt", ("TorchScript",)),
        ("pictures", ("folder",)),
    ],
)
def test_weights_that_do_not_fit(weights: str, words: tuple[str, ...], cli: Cli, place: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), "other.pth")
    torch.save(tiny_resnet().state_dict() | {"fc.weight": torch.zeros(1, 1)}, "shape.pth")
    torch.save([1, 2], "list.pth")
    (place / "words").write_text("import torch\n")
    ran = cli("layers", NET, "--weights", weights)
    fails(ran, *words)
    assert "more than weights" not in ran.err
    assert "weights_only" not in ran.err


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layers", "layr1"], ("No layer is called layr1", "did you mean layer1")),
        (["--layers", "layer9.*"], ("No layer is called layer9.*",)),
        (["--layers", "kind:Convolution"], ("No layer is of kind Convolution",)),
        (["--layers", "re:("], ("'re:('", "regular expression")),
        (["--layers", "[z-a]"], ("regular expression",)),
        (["--layers", "!**"], ("leaves no layer",)),
        (["--layers", ""], ("No layers asked for",)),
        (["--weights", "weights.pth"], ("traced.pt holds its own weights", "--weights")),
        (["--input-shape", "3,x"], ("--input-shape", "3,32,32", "'3,x'")),
        (["--input-shape", "0,3,3"], ("--input-shape",)),
        (["--input-shape", "5,32,32"], ("5×32×32", "--input-shape")),
        (["--size", "0"], ("--size",)),
        (["--layout", "XYZ"], ("XYZ", "NCHW or NHWC")),
    ],
)
def test_options_of_layers(options: list[str], words: tuple[str, ...], cli: Cli, place: Path) -> None:
    fails(cli("layers", "traced.pt", *options), *words)


@pytest.mark.parametrize("words", [["layers"], ["layers", "a", "b"], ["nothing"], ["layers", "a", "--nothing"]])
def test_wrong_usage_ends_with_2(words: list[str], cli: Cli) -> None:
    ran = cli(*words)
    assert ran.code == 2
    assert not ran.out
    assert "--help" in ran.err or "-h" in ran.err


EXTRACTIONS = [
    (["--noise", "a,b"], ("--noise", "'a,b'")),
    (["--noise=-0.1"], ("Noise levels", "-0.1")),
    (["--noise", "nan"], ("Noise levels", "nan")),
    (["--batch-size", "0"], ("--batch-size",)),
    (["--size", "64"], ("3×32×32", "3×64×64")),
    (["--picture-channels", "2"], ("--picture-channels", "not 2")),
    (["--picture-channels", "1"], ("3×32×32", "1×32×32")),
    (["--mean", "1,2"], ("--mean takes 1 or 3 numbers, not 2",)),
    (["--std", "1,x,1"], ("--std", "'1,x,1'")),
    (["--std", "0"], ("--std",)),
    (["--range", "0"], ("--range takes 2 numbers, not 1",)),
    (["--layout", "XYZ"], ("no layout XYZ", "NCHW or NHWC")),
    (["--on-error", "panic"], ("panic", "fail or skip")),
    (["--layers", "nope"], ("No layer is called nope",)),
    (["--device", "gpu"], ("device 'gpu'", "cpu")),
    (["--size", "0"], ("--size", "0")),
    (["--crop", "-1"], ("--crop", "-1")),
    (["--device", "cuda:x"], ("cuda:x", "cpu")),
    (["--std", "nan"], ("--std",)),
    (["--std=-1"], ("--std",)),
    (["--range", "1,1"], ("--range",)),
    (["--seed", str(2**64), "--noise", "0.2"], ("--seed",)),
]


@pytest.mark.parametrize(("options", "words"), EXTRACTIONS)
def test_options_of_extract(options: list[str], words: tuple[str, ...], cli: Cli, place: Path) -> None:
    fails(cli("extract", "dynamo.onnx", "pictures", "-o", "a.zarr", *options), *words)
    assert not (place / "a.zarr").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
@pytest.mark.parametrize("model", [NET, "traced.pt", "legacy.onnx"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_device_that_is_not_there(model: str, device: str, cli: Cli, place: Path) -> None:
    fails(cli("extract", model, "inputs.npy", "-o", "a.zarr", "--device", device), device, "cpu")
    assert not (place / "a.zarr").exists()


# -- data and places -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nowhere", ("There is no nowhere",)),
        ("empty", ("empty holds no pictures",)),
        (np.zeros((2, 5, 32, 32), np.float32), ("5×32×32", "3×32×32")),
        (np.zeros((2, 3, 16, 16), np.float32), ("3×16×16", "3×32×32")),
        (np.zeros((3, 32, 32), np.float32), ("32×32", "3×32×32")),
        (np.zeros((0, 3, 32, 32), np.float32), ("(0, 3, 32, 32)", "first axis")),
        (np.float32(1), ("shape ()", "first axis")),
        (np.array([["a"]]), ("<U1", "numbers")),
        (b"\x93NUMPY", ("data.npy can't be read",)),
    ],
)
def test_data_that_do_not_fit(data: Any, words: tuple[str, ...], cli: Cli, place: Path) -> None:
    (place / "empty").mkdir()
    if isinstance(data, bytes):
        (place / "data.npy").write_bytes(data)
    elif not isinstance(data, str):
        np.save("data.npy", data)
    name = data if isinstance(data, str) else "data.npy"
    fails(cli("extract", "dynamo.onnx", name, "-o", "a.zarr"), *words)
    assert not (place / "a.zarr").exists()


def test_no_store_is_left_where_nothing_could_be_read(cli: Cli, place: Path) -> None:
    (place / "broken.png").write_bytes((place / "pictures" / "cat" / "0.png").read_bytes()[:200])
    fails(cli("extract", "legacy.onnx", "broken.png", "-o", "a.zarr"), "broken.png can't be read")
    assert not (place / "a.zarr").exists()


def test_old_store_outlives_an_overwriting_that_fails(cli: Cli, place: Path) -> None:
    assert cli("extract", "legacy.onnx", "inputs.npy", "-o", "a.zarr").code == 0
    before = cli("stats", "a.zarr", "--json").out
    (place / "broken.png").write_text("words")
    fails(cli("extract", "legacy.onnx", "broken.png", "-o", "a.zarr", "--overwrite"), "broken.png can't be read")
    assert cli("stats", "a.zarr", "--json").out == before


@pytest.mark.parametrize("target", ["file", "folder", "file/a.zarr"])
def test_place_that_is_taken(target: str, cli: Cli, place: Path) -> None:
    (place / "file").write_text("mine")
    (place / "folder").mkdir()
    (place / "folder" / "mine.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        fails(cli("extract", "legacy.onnx", "inputs.npy", "-o", target, *more), target)
    assert (place / "file").read_text() == (place / "folder" / "mine.txt").read_text() == "mine"
