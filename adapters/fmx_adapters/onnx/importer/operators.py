"""All operators: importing this module fills the registry."""

from __future__ import annotations

from importlib import import_module

from fmx_adapters.onnx.importer.registry import NEWEST_OPSET, OLDEST_OPSET, REGISTRY

__all__ = ["document", "names"]

# Module: its theme.
_THEMES = {
    "elementwise": "Elementwise",
    "casting": "Types",
    "activations": "Activations",
    "linear": "Products",
    "convolution": "Convolution",
    "pooling": "Pooling",
    "normalisation": "Normalisation",
    "reduction": "Reduction",
    "shape": "Shape",
    "indexing": "Indexing",
    "creation": "Constants and random values",
    "attention": "Attention",
    "recurrent": "Recurrent",
    "resize": "Resizing",
    "image": "Images",
    "rois": "Boxes",
    "quantisation": "Quantisation",
    "control_flow": "Control flow",
    "sequences": "Sequences",
    "signal": "Signals",
    "loss": "Losses",
}

_MODULES = {theme: import_module(f"{__package__}.{name}") for name, theme in _THEMES.items()}


def names() -> list[str]:
    """List the names of the operators; those of another domain than ONNX's own as ``domain.name``."""
    return [f"{domain}.{name}" if domain else name for domain, name in REGISTRY]


def document() -> str:
    """Write the page that lists the operators by theme, in Markdown."""
    lines = [
        "# ONNX operators that fmx turns into PyTorch",
        "",
        f"{len(REGISTRY)} operators, as defined in the operator sets {OLDEST_OPSET} to {NEWEST_OPSET}. "
        "Written by `python -m fmx_adapters.onnx.importer`.",
        "",
        "| theme | operators |",
        "|---|---|",
    ]
    for theme, module in _MODULES.items():
        own = sorted(name for (_, name), handler in REGISTRY.items() if handler.__module__ == module.__name__)
        lines.append(f"| {theme} | {', '.join(own)} |")
    return "\n".join(lines) + "\n"
