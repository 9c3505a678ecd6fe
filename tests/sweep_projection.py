"""Projections of many networks in every format, by the commands: the same values as from the PyTorch module.

python tests/sweep_projection.py                         a table, in half an hour or so
python tests/sweep_projection.py convnext_tiny swin_t    some networks only
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from PIL import Image
from sweep import IDLE

import fmx
from fmx.adapter import choose_layers
from fmx.cli import main as fmx_command
from fmx.project import ATTRIBUTIONS

# Name and side of a small picture that the network takes.
NETWORKS = {
    "convnext_tiny": 64,
    "densenet121": 64,
    "inception_v3": 96,
    "googlenet": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x0_5": 64,
    "mnasnet0_5": 64,
    "regnet_y_400mf": 64,
    "efficientnet_b0": 64,
    "vit_b_16": 64,
    "swin_t": 64,
    "timm_resnet10t": 64,
    "timm_ghostnet_050": 64,
    "timm_res2net50_26w_4s": 64,
    "timm_convmixer_768_32": 64,
    "timm_nf_resnet26": 64,
    "timm_mixer_s16_224": 224,
    "timm_efficientvit_b0": 64,
}
FORMS = ("traced", "exported", "legacy ONNX", "dynamo ONNX")
# Of the largest value; in double precision exporters' folded weights are what is left.
TOLERANCE, EXACT = 1e-3, 1e-5
COMMANDS = {
    "deconv": "deconv --layer {layer} --maps 4 --activations 0.2",
    **{method: f"attribute --method {method} --class 3 --copies 4 --steps 4" for method in ATTRIBUTIONS},
    "guided, a channel": "attribute --method guided --layer {layer} --channels 0,2 --how max",
    "occlude": "occlude --patch 24 --stride 24 --class 3 --layer {layer} --channels 0,2 --scores raw --engine eager",
}


@dataclass
class Found:
    """What came out in one format: the largest differences in shares of the largest value, and what failed.

    Where they are large: how far the module in single precision is from itself in double, and the formats in double.
    """

    single: dict[str, float] = field(default_factory=dict)
    itself: dict[str, float] = field(default_factory=dict)
    double: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def words(self) -> str:
        """Say it in a cell of the table."""
        if "export" in self.failed:
            return f"not exported: {self.failed['export']}"
        worst = max(self.single, key=lambda name: self.single[name], default="")
        parts = [f"{self.single[worst]:.0e} {worst}"] if worst and not self.double else []
        for name, value in self.double.items():
            parts.append(f"{name} {self.single[name]:.0e}, itself {self.itself[name]:.0e}, in double {value:.0e}")
        parts += [f"{name}: {why}" for name, why in self.failed.items()]
        return "; ".join(parts)


def build(name: str) -> torch.nn.Module:
    """Build a network with random weights in all its parts, whose batch norms know what pictures do in it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name.startswith("timm_"):
            import timm

            net: torch.nn.Module = timm.create_model(name.removeprefix("timm_"), pretrained=False)
        elif name.startswith("vit_"):
            net = torchvision.models.get_model(name, weights=None, image_size=NETWORKS[name])
        else:
            extra = {"init_weights": True, "aux_logits": False} if name in {"googlenet", "inception_v3"} else {}
            net = torchvision.models.get_model(name, weights=None, **extra)
        for what, weights in net.named_parameters():
            # What starts at 0, or next to it, would hide what comes before.
            if weights.abs().max() < 1e-3:
                weights.data.normal_(0, 0.05 if weights.ndim > 1 or what.endswith("bias") else 0.3)
        norms = [module for module in net.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
            norm.weight.data.uniform_(0.6, 1.4)
            norm.bias.data.normal_(0, 0.3)
            norm.train()
        net.eval()
        for norm in norms:
            norm.train()
        with torch.no_grad():
            if norms:
                net(torch.from_numpy(_normal(_blobs(48, NETWORKS[name], noise=50))))
        return net.eval()


def __getattr__(name: str) -> Any:
    """Give what makes a network, for ``sweep_projection:NAME``."""
    if name in NETWORKS:
        return partial(build, name)
    raise AttributeError(name)


def _blobs(count: int, side: int, noise: float = 9) -> np.ndarray[Any, Any]:
    """Draw coloured pictures, uint8 (picture, y, x, colour), smooth as photographs are but for more and more noise."""
    rng = np.random.default_rng(side)
    small = rng.integers(0, 256, (count, side // 6, side // 6, 3), np.uint8)
    drawn = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in small]
    spread = np.linspace(9, noise, count)[:, None, None, None]
    return np.clip(np.stack(drawn) + spread * rng.normal(size=(count, side, side, 3)), 0, 255).astype(np.uint8)


def _normal(pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return ((pictures.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).astype(np.float32)


def export(net: torch.nn.Module, form: str, side: int, folder: Path) -> Path:
    """Write a network in a format, for any number of pictures."""
    batch = torch.from_numpy(_normal(_blobs(2, side)))
    if form == "traced":
        torch.jit.save(torch.jit.trace(net, batch, check_trace=False), folder / "net.pt")
        return folder / "net.pt"
    free = ({0: torch.export.Dim("n", min=1, max=64)},)
    if form == "exported":
        torch.export.save(torch.export.export(net, (batch,), dynamic_shapes=free), folder / "net.pt2")
        return folder / "net.pt2"
    if form == "legacy ONNX":
        more: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
        torch.onnx.export(net, (batch,), folder / "legacy.onnx", dynamo=False, opset_version=17, **more)
        return folder / "legacy.onnx"
    file = folder / "dynamo.onnx"
    torch.onnx.export(net, (batch,), file, dynamo=True, dynamic_shapes=free, verbose=False, external_data=False)
    return file


def command(words: Sequence[str]) -> str:
    """Run a command in this process; gives what was wrong, or nothing."""
    printed, wrong = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["fmx", *words]),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(wrong),
    ):
        try:
            fmx_command()
        except SystemExit as end:
            if end.code:
                return (wrong.getvalue().strip().splitlines() or ["nothing said"])[-1]
    return ""


class Bench:
    """A network, pictures for it, and the layer that is projected, in a folder that takes what is made."""

    def __init__(self, name: str, folder: Path) -> None:
        self.side, self.folder, self.net = NETWORKS[name], folder, build(name)
        (folder / "pictures").mkdir()
        for i, picture in enumerate(_blobs(2, self.side)):
            Image.fromarray(picture).save(folder / "pictures" / f"{i}.png")
        torch.save(self.net.state_dict(), folder / "weights.pth")
        self.module = f"sweep_projection:{name} --weights {folder / 'weights.pth'}"
        layers = choose_layers(fmx.load(self.net, input_shape=(3, self.side, self.side)), "auto")
        known = [layer.name for layer in layers if layer.kind not in IDLE]
        self.layer = known[len(known) // 2]

    def values(self, model: str, what: str, more: str = "") -> np.ndarray[Any, Any] | str:
        """Run a command on the pictures, and give what it writes, or what was wrong."""
        file, side = self.folder / "arrays.npz", self.side
        shape = f"--input-shape 3,{side},{side} --size {side} --crop {side} --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25"
        verb, _, words = COMMANDS[what].format(layer=self.layer).partition(" ")
        given = f"{verb} {model} {self.folder / 'pictures'} {words} {shape} {more} --arrays {file} --overwrite"
        said = command([*given.split(), "-o", str(self.folder / "drawn"), "--name", "a"])
        if said:
            return said
        with np.load(file, allow_pickle=False) as kept:
            name = next(name for name in ("projection", "attribution", "value") if name in kept)
            found = kept[name].astype(np.float64)
        return found if np.nanmax(np.abs(found)) else "0 everywhere"

    @cache  # noqa: B019 (there are few of them)
    def expected(self, what: str, more: str = "") -> np.ndarray[Any, Any] | str:
        """Give what the module itself gives."""
        return self.values(self.module, what, more)

    def compared(self, form: str, commands: Sequence[str]) -> Found:
        """Compare a format with the module itself, and in double precision where they differ."""
        made = Found()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                file = str(export(self.net, form, self.side, self.folder))
        except Exception as error:  # the table says what failed
            made.failed["export"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:90]}"
            return made
        for what in commands:
            found, truth = self.values(file, what), self.expected(what)
            if isinstance(found, str):
                made.failed[what] = found
            elif not isinstance(truth, str):
                made.single[what] = apart(found, truth)
                if made.single[what] > TOLERANCE and what != "occlude":
                    self._precisely(made, what, file, truth)
        Path(file).unlink()
        return made

    def _precisely(self, made: Found, what: str, file: str, truth: np.ndarray[Any, Any]) -> None:
        precise = "--precision float64"
        found, expected = self.values(file, what, precise), self.expected(what, precise)
        if isinstance(found, str) or isinstance(expected, str):
            made.failed[f"{what} in float64"] = f"{found if isinstance(found, str) else expected}"
        else:
            made.double[what] = apart(found, expected)
            made.itself[what] = apart(truth, expected)


def apart(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Give the largest difference, in each picture in shares of its largest value."""
    if found.shape != expected.shape:
        return float("inf")
    pairs = zip(found, expected, strict=True)
    each = [(float(np.nanmax(np.abs(a - b))), float(np.nanmax(np.abs(b)))) for a, b in pairs]
    return max(difference / largest if largest else difference for difference, largest in each)


def sweep(name: str, forms: Sequence[str] = FORMS, commands: Sequence[str] = tuple(COMMANDS)) -> dict[str, Found]:
    """Compare formats of a network with the module itself, which is one of them."""
    # Each model is opened once, not once a command.
    opened = mock.patch("fmx.adapter.load", cache(fmx.load))
    with warnings.catch_warnings(), opened, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        bench = Bench(name, Path(folder))
        own = {what: bench.expected(what) for what in commands}
        results = {"module": Found(failed={what: why for what, why in own.items() if isinstance(why, str)})}
        return results | {form: bench.compared(form, commands) for form in forms}


def main() -> None:
    """Print the table, a row as soon as it is known."""
    names = sys.argv[1:] or list(NETWORKS)
    sys.path.insert(0, str(Path(__file__).parent))
    sys.stdout.write(f"| network | module | {' | '.join(FORMS)} |\n|---|{'---|' * (len(FORMS) + 1)}\n")
    for name in names:
        found = sweep(name)
        own = "; ".join(f"{what}: {why}" for what, why in found["module"].failed.items()) or "all work"
        sys.stdout.write(f"| {name} | {own} | {' | '.join(found[form].words() for form in FORMS)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
