"""Building a torch module from what the user named: a zoo's model, a factory, or the module itself."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fmx.adapter import InputInfo, ModelSource, OpenOptions
from fmx.errors import ModelError, near_matches
from fmx_adapters._operators import load_torch_operators
from fmx_adapters._torch import candidate_inputs, picture_input
from fmx_adapters.pytorch.model import PyTorchModel
from fmx_adapters.pytorch.weights import apply_weights, read_state_dict

# Frames of a clip where a network's weights don't say.
_FRAMES = 16


@dataclass(frozen=True)
class _Built:
    """A module with what is known about it."""

    module: torch.nn.Module
    preprocessing: Mapping[str, Any] | None = None
    notes: str = ""


def open_pytorch(source: ModelSource, options: OpenOptions) -> PyTorchModel:
    """Open a module object, a named architecture or a factory, with its weights.

    Raises
    ------
    ModelError
        A bare state dict, an unknown name, weights that don't fit, or an input that the model refuses.
    """
    if source.path is not None:
        raise _bare_weights(source.path)
    load_torch_operators(options)
    if not isinstance(source.spec, str):
        built = _with_weights(source.spec, options)
    else:
        head, _, name = source.spec.partition(":")
        build = _ZOOS.get(head)
        built = build(name, options) if build else _with_weights(_factory(source.spec), options)
    inputs = _inputs(built, options)
    return PyTorchModel(built.module, source.text, inputs, built.preprocessing, notes=built.notes)


def _with_weights(module: torch.nn.Module, options: OpenOptions) -> _Built:
    return _Built(module, notes=apply_weights(module, options.weights, allow_partial=options.allow_partial))


def _inputs(built: _Built, options: OpenOptions) -> list[tuple[InputInfo, ...]]:
    """List what the model may take, the likeliest first."""
    if options.inputs:
        return [options.inputs]
    if options.input_shape is not None:
        return [(picture_input(options.input_shape, options.layout),)]
    guesses: list[tuple[InputInfo, ...]] = [(info,) for info in candidate_inputs(built.module)]
    if built.preprocessing is not None and built.preprocessing.get("crop"):
        height, width = built.preprocessing["crop"]
        frames = built.preprocessing.get("frames")
        clip = InputInfo("input", (3, frames or 1, height, width))
        guesses.insert(0, (clip if frames else InputInfo("input", (3, height, width), layout="CHW"),))
    return guesses


# -- torchvision -----------------------------------------------------------------------------------


def _torchvision(name: str, options: OpenOptions) -> _Built:
    import torchvision.models as zoo

    arch, _, inner = name.partition(".")
    known = zoo.list_models()
    if arch not in known:
        raise ModelError(f"torchvision has no model {arch}: {near_matches(arch, known)}")
    published = list(zoo.get_model_weights(arch))
    chosen = next((w for w in published if options.weights in {w.name, str(w)}), None)
    if options.weights == "DEFAULT" and published:
        chosen = zoo.get_model_weights(arch).DEFAULT
    # Without it, segmentation and detection models download a backbone.
    takes_backbone = "weights_backbone" in inspect.signature(zoo.get_model_builder(arch)).parameters
    extra = {"weights_backbone": None} if takes_backbone else {}
    module = _built_quietly(lambda: zoo.get_model(arch, weights=chosen, **extra), str(chosen))
    if inner:
        module = _attribute(module, inner, f"torchvision:{arch}")
        if not isinstance(module, torch.nn.Module):
            raise ModelError(f"torchvision:{name} is a {type(module).__name__}, not a part of the network.")
    notes = ""
    if chosen is None and options.weights:
        notes = apply_weights(module, options.weights, allow_partial=options.allow_partial)
        chosen, assumed = _published_as(Path(options.weights), published)
        notes = "; ".join(n for n in (notes, assumed) if n)
    elif chosen is None:
        chosen = published[0] if published else None
        notes = "random weights (seed 0), as no --weights were given"
    return _Built(module, _preset(chosen), notes)


def _built_quietly(build: Callable[[], torch.nn.Module], weights: str) -> torch.nn.Module:
    """Build with the same random numbers every time, and say in a sentence when a download fails."""
    # torch reports downloads on standard output, which belongs to results.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
        torch.manual_seed(0)
        try:
            return build()
        except OSError as error:  # what urllib raises where there is no network
            raise ModelError(f"{weights} can't be downloaded ({error}): give a file with --weights.") from None


def _published_as(file: Path, published: list[Any]) -> tuple[Any, str]:
    """Tell which published weights a file holds, by the hash that torchvision puts into its file names."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for weights in published:
        stem = str(weights.url).rpartition("/")[2].rpartition(".")[0]
        if digest.startswith(stem.rpartition("-")[2] or "none"):
            return weights, ""
    if not published:
        return None, ""
    return published[0], f"preprocessing of {published[0]}, as the file is none of the published weights"


def _preset(weights: Any) -> Mapping[str, Any] | None:
    """Read a torchvision preset into the plain settings that `fmx.data.Preprocess` takes."""
    if weights is None:
        return None
    preset = weights.transforms()
    crop, resize = getattr(preset, "crop_size", None), getattr(preset, "resize_size", None)
    if resize is None or not hasattr(preset, "mean") or len(preset.mean) != 3:
        return None
    size = list(crop) * 2 if crop and len(crop) == 1 else list(crop or [])
    resized = list(resize)
    video = {}
    if type(preset).__name__ == "VideoClassification":
        video = {"antialias": False, "layout": "CTHW", "frames": weights.meta.get("min_temporal_size") or _FRAMES}
    return {
        "resize": resized[0] if len(resized) == 1 else resized,
        "crop": size or None,
        "interpolation": preset.interpolation.value,
        "antialias": bool(getattr(preset, "antialias", True)),
        "mean": list(preset.mean),
        "std": list(preset.std),
        "source": f"torchvision {weights}",
        **video,
    }


# -- timm ------------------------------------------------------------------------------------------


def _timm(name: str, options: OpenOptions) -> _Built:
    try:
        import timm
    except ImportError:
        raise ModelError("timm models need timm: pip install timm.") from None

    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ModelError(f"timm has no model {name}: {near_matches(name, known)}")
    download = options.weights == "DEFAULT"
    module = _built_quietly(lambda: timm.create_model(name, pretrained=download), f"The weights of timm:{name}")
    notes = ""
    if options.weights is None:
        notes = "random weights (seed 0), as no --weights were given"
    elif not download:
        notes = apply_weights(module, options.weights, allow_partial=options.allow_partial)
    return _Built(module, _timm_settings(timm.data.resolve_model_data_config(module), name), notes)


def _timm_settings(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    channels, height, width = config["input_size"]
    if channels != 3:
        return None
    return {
        "resize": [math.floor(side / config["crop_pct"]) for side in (height, width)]
        if height != width
        else math.floor(height / config["crop_pct"]),
        "crop": [height, width],
        "interpolation": config["interpolation"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "source": f"timm {name}",
    }


# -- factories -------------------------------------------------------------------------------------


def _factory(spec: str) -> torch.nn.Module:
    """Call ``package.module:factory``; the current folder can be imported from, as with ``python -m``."""
    module_name, _, attribute = spec.partition(":")
    added = str(Path.cwd())
    sys.path.insert(0, added)
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"{spec} can't be imported: {error}; install the package or run fmx from its folder."
        ) from None
    except (Exception, SystemExit) as error:  # whatever the user's own code does
        raise ModelError(f"{spec} can't be imported: {module_name} raises {_said(error)}") from error
    finally:
        sys.path.remove(added)
    factory = _attribute(found, attribute, module_name)
    built = factory
    if not isinstance(factory, torch.nn.Module):
        try:
            built = _built_quietly(factory, f"What {spec} asks for")
        except ModelError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's own code does
            raise ModelError(f"{spec} can't be called without arguments: it raises {_said(error)}") from error
    if not isinstance(built, torch.nn.Module):
        raise ModelError(f"{spec} gave a {type(built).__name__}: it has to give a torch.nn.Module.")
    return built


def _said(error: BaseException) -> str:
    first = str(error).splitlines()[0].rstrip(".") if str(error) else ""
    return f"{type(error).__name__} ({first})." if first else f"{type(error).__name__}."


def _attribute(holder: Any, path: str, where: str) -> Any:
    for name in path.split("."):
        if not hasattr(holder, name):
            public = [n for n in dir(holder) if not n.startswith("_")]
            raise ModelError(f"{where} has no {name}: {near_matches(name, public)}")
        holder = getattr(holder, name)
    return holder


_ZOOS: dict[str, Callable[[str, OpenOptions], _Built]] = {"torchvision": _torchvision, "timm": _timm}


def _bare_weights(path: Path) -> ModelError:
    try:
        read_state_dict(path)
    except ModelError as error:
        return error
    return ModelError(
        f"{path} holds weights without the network: name the network and give the file as weights, "
        f"for example 'torchvision:resnet18 --weights {path}' or 'package.module:factory --weights {path}'."
    )
