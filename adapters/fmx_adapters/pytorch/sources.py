"""Building a torch module from what the user named, and reading state dicts as data."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fmx.adapter import InputInfo, ModelSource, OpenOptions
from fmx.errors import ModelError, near_matches
from fmx_adapters._torch import candidate_inputs, picture_input
from fmx_adapters.pytorch.model import PyTorchModel

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def open_pytorch(source: ModelSource, options: OpenOptions) -> PyTorchModel:
    """Open a module object, a named architecture or a factory, with its weights.

    Raises
    ------
    ModelError
        A bare state dict, an unknown name, weights that don't fit, or an input that the model refuses.
    """
    if source.path is not None:
        raise _bare_weights(source.path)
    preprocessing: Mapping[str, Any] | None = None
    assumed = ""
    if not isinstance(source.spec, str):
        module = source.spec
        _apply_weights(module, options.weights)
    elif source.spec.startswith("torchvision:"):
        module, preprocessing, assumed = _torchvision(source.spec.partition(":")[2], options)
    else:
        module = _factory(source.spec)
        _apply_weights(module, options.weights)
    inputs = _inputs(module, options, preprocessing)
    return PyTorchModel(module, source.text, inputs, preprocessing, notes=assumed)


def _inputs(module: torch.nn.Module, options: OpenOptions, preprocessing: Mapping[str, Any] | None) -> list[InputInfo]:
    if options.input_shape is not None:
        return [picture_input(options.input_shape, options.layout)]
    if preprocessing is not None and preprocessing.get("crop"):
        height, width = preprocessing["crop"]
        known = InputInfo("input", (3, height, width), layout="CHW")
        return [known, *candidate_inputs(module)]
    return candidate_inputs(module)


# -- architectures ---------------------------------------------------------------------------------


def _torchvision(name: str, options: OpenOptions) -> tuple[torch.nn.Module, Mapping[str, Any] | None, str]:
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            module = zoo.get_model(arch, weights=chosen, **extra)
        except OSError as error:  # what urllib raises where there is no network
            raise ModelError(f"{chosen} can't be downloaded ({error}): give a file with --weights.") from None
    if inner:
        module = _attribute(module, inner, f"torchvision:{arch}")
    notes = ""
    if chosen is None and options.weights:
        _apply_weights(module, options.weights)
        chosen, notes = _published_as(Path(options.weights), published)
    elif chosen is None:
        chosen = published[0] if published else None
        notes = "random weights (seed 0), as no --weights were given"
    return module, _preset(chosen), notes


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
    return {
        "resize": resized[0] if len(resized) == 1 else resized,
        "crop": size or None,
        "interpolation": preset.interpolation.value,
        "antialias": bool(getattr(preset, "antialias", True)),
        "mean": list(preset.mean),
        "std": list(preset.std),
        "source": f"torchvision {weights}",
    }


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
    finally:
        sys.path.remove(added)
    factory = _attribute(found, attribute, module_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = factory if isinstance(factory, torch.nn.Module) else factory()
    if not isinstance(built, torch.nn.Module):
        raise ModelError(f"{spec} gave a {type(built).__name__}: it has to give a torch.nn.Module.")
    return built


def _attribute(holder: Any, path: str, where: str) -> Any:
    for name in path.split("."):
        if not hasattr(holder, name):
            public = [n for n in dir(holder) if not n.startswith("_")]
            raise ModelError(f"{where} has no {name}: {near_matches(name, public)}")
        holder = getattr(holder, name)
    return holder


# -- weights ---------------------------------------------------------------------------------------


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict as data; a pickle that would run code is refused.

    Raises
    ------
    ModelError
        The file is missing, damaged, or holds something other than a state dict.
    """
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"There are no weights {path}: {near_matches(path.name, siblings)}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} holds more than weights: fmx reads weights as data only and runs no code from a file; "
            "save the model's state_dict() instead."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} can't be read as weights ({reason}): copy or save it again.") from None
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not any(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, no state dict: save model.state_dict().")
    return {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


def _apply_weights(module: torch.nn.Module, weights: str | None) -> None:
    """Load a state dict that fits exactly; never a part of it."""
    if weights is None:
        return
    state = read_state_dict(Path(weights))
    own = module.state_dict()
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    wrong = [k for k, v in own.items() if k in state and state[k].shape != v.shape]
    if missing or unexpected or wrong:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
            if keys
        ]
        raise ModelError(
            f"{weights} does not fit the model: {'; '.join(parts)}. Name the architecture that it was saved from."
        )
    module.load_state_dict(state)


def _bare_weights(path: Path) -> ModelError:
    try:
        read_state_dict(path)
    except ModelError as error:
        return error
    return ModelError(
        f"{path} holds weights without the network: name the network and give the file as weights, "
        f"for example 'torchvision:resnet18 --weights {path}' or 'package.module:factory --weights {path}'."
    )
