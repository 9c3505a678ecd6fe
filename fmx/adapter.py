"""What an adapter is, and how a model source finds its adapter.

An *adapter* says whether it can open a source, by content, and opens it as a *model*; a model prepares a *session*
for some of its layers; a session turns batches into activations. Formats are registered through the entry-point
group ``fmx.adapters`` and loaded only when a source is opened, so that a third party adds a format without touching
fmx.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fmx.errors import LayerError, ModelError, near_files
from fmx.layers import LayerInfo, select_layers

__all__ = [
    "Adapter",
    "Batch",
    "Capture",
    "InputInfo",
    "Model",
    "ModelSource",
    "OpenOptions",
    "Session",
    "adapters",
    "check_batch",
    "check_inputs",
    "choose_layers",
    "load",
    "resolve",
    "run_all",
    "sharing",
]

ENTRY_POINT_GROUP = "fmx.adapters"


Batch = NDArray[Any] | Mapping[str, NDArray[Any]]


class Capture(dict[str, NDArray[Any]]):
    """What one batch gave: ``{layer name: array (sample, …native)}``.

    Attributes
    ----------
    outputs : dict of str to array
        The model's outputs (sample, …), empty unless the session was asked for them.
    """

    def __init__(self, layers: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]] | None = None) -> None:
        super().__init__(layers)
        self.outputs: dict[str, NDArray[Any]] = dict(outputs or {})


@dataclass(frozen=True, slots=True)
class InputInfo:
    """An input of a model.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Shape of one sample, without the batch axis.
    dtype : str
        NumPy name of the element type.
    layout : str
        ``"CHW"`` or ``"HWC"`` for a picture, empty for anything else.
    assumed : str
        What had to be assumed about the shape because the file does not say; empty when it is known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = ""
    assumed: str = ""


class Session(Protocol):
    """A model prepared for chosen layers; a context manager that leaves the model as it was.

    Attributes
    ----------
    engine : str
        What runs the model, and at which optimisation level.
    engine_notes : sequence of str
        Why it was chosen, in words for the user.
    """

    @property
    def engine(self) -> str: ...
    @property
    def engine_notes(self) -> Sequence[str]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, batch: Batch) -> Capture:
        """Run one batch and return the wanted values, in the order of computation.

        Parameters
        ----------
        batch : array (sample, …), or mapping of str to array
            By the names of the model's inputs where it has several.
        """
        ...


@runtime_checkable
class Model(Protocol):
    """An opened model.

    Attributes
    ----------
    source : str
        What was opened, as the user named it.
    adapter : str
        Name of the adapter.
    layers : sequence of LayerInfo
        Every layer in the order of computation.
    inputs : sequence of InputInfo
    fingerprint : str
        sha256 over weights and graph, in hexadecimal.
    preprocessing : mapping or None
        How the model's pictures are prepared, where that is known (see `fmx.data.Preprocess`).
    notes : str
        What had to be assumed when the model was opened, in words for the user; empty if nothing.
    """

    source: str
    adapter: str
    notes: str

    @property
    def layers(self) -> Sequence[LayerInfo]: ...
    @property
    def inputs(self) -> Sequence[InputInfo]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def preprocessing(self) -> Mapping[str, Any] | None: ...

    def with_input(self, shape: Sequence[int]) -> Model:
        """Return the same model for samples of another shape (without the batch axis)."""
        ...

    def session(
        self,
        layers: Iterable[LayerInfo | str],
        *,
        device: str = "cpu",
        engine: str = "eager",
        outputs: bool = False,
        precision: str | None = None,
        expected_batches: int | None = None,
    ) -> Session:
        """Prepare to capture `layers`.

        Parameters
        ----------
        layers : iterable of LayerInfo or str
        device : str
            ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        engine : str
            ``eager`` is the exact reference, ``auto`` the fastest that agrees with it on the first batch. Any other
            name runs that engine; what a session's ``engine`` says runs the very same again, or is an error.
        outputs : bool
            Give the model's outputs too.
        precision : {"float32", "float16", "bfloat16"}, optional
            Convert a copy of the model to this precision and compute in it. Layers keep the type that they have,
            so that the values of a float32 model come back as float32. Left out, the model stays as it is.
        expected_batches : int, optional
            How many batches will come; ``auto`` tries an engine only where it can save more than it costs to set up.

        Raises
        ------
        LayerError
            A layer that the model does not have.
        ModelError
            A device, engine or precision that is not there or that the model can't run on.
        """
        ...

    def torch_module(
        self, relu: Callable[[Any, Any], Any] | None = None, *, layers: Sequence[str] | None = None
    ) -> Any:
        """Return a differentiable torch module of the network, with weights of its own.

        ``m(x)`` is the model's output; ``m.layer_names`` lists the layers; ``m.capture(x, names)`` gives their values
        by name, and ``m.forward_with(x, names)`` the output together with values that it depends on, so that
        ``torch.autograd.grad`` reaches any layer.

        Parameters
        ----------
        relu : callable, optional
            ``relu(grad_output, input) -> grad_input``, the backward rule of every ReLU: modules, functions, in-place
            ones, and those with an upper limit such as ReLU6. The values of the pass stay what they are. With
            ``lambda grad, x: grad.clamp(min=0)`` gradients are those of a deconvnet, with
            ``lambda grad, x: grad.clamp(min=0) * (x > 0)`` guided backpropagation.
        layers : sequence of str, optional
            The only layers that will be asked for. Batch norms between them may then be folded into the convolutions
            before them, which changes values and gradients with respect to the input by rounding; weights are
            constants.

        Raises
        ------
        ModelError
            The format can't be turned into a torch module.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """What a user may say when a model is opened.

    Attributes
    ----------
    weights : str or None
        File with a state dict, or the name of a published set of weights, for sources that name an architecture.
    input_shape : tuple of int or None
        Shape of one sample (without the batch axis), for models of one input whose file does not say.
    inputs : tuple of InputInfo
        The inputs by name, for models of several; empty where `input_shape` or nothing was given.
    layout : str or None
        ``"NCHW"`` or ``"NHWC"``: the axes of the picture the model takes; None to find out.
    allow_partial : bool
        Load weights that fit in part only.
    trust : bool
        Run code that comes with the model: libraries in `operators`, TorchScript that may do more than compute.
    operators : tuple of str
        Shared libraries with operators that the model needs; none without `trust`.
    """

    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    inputs: tuple[InputInfo, ...] = ()
    layout: str | None = None
    allow_partial: bool = False
    trust: bool = False
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSource:
    """A model source with what can be told about it without opening it.

    Attributes
    ----------
    spec : object
        What the user gave: a path, a name such as ``torchvision:resnet18``, or a model object.
    """

    spec: Any
    _names: list[str] = field(default_factory=list, repr=False)

    @property
    def text(self) -> str:
        """The source as a user would write it."""
        return str(self.spec) if isinstance(self.spec, str | Path) else type(self.spec).__qualname__

    @cached_property
    def path(self) -> Path | None:
        """The file, if the source is one that exists."""
        if not isinstance(self.spec, str | Path):
            return None
        path = Path(self.spec)
        return path if path.is_file() else None

    @cached_property
    def head(self) -> bytes:
        """The first bytes of the file."""
        if self.path is None:
            return b""
        with self.path.open("rb") as file:
            return file.read(64)

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Names inside the file if it is a zip archive.

        Raises
        ------
        ModelError
            The file begins as a zip archive but its directory is gone: it is truncated.
        """
        if self.path is None or not self.head.startswith(b"PK\x03\x04"):
            return ()
        try:
            with zipfile.ZipFile(self.path) as archive:
                # What is cut off inside a nested archive would pass for that archive.
                if min((member.header_offset for member in archive.infolist()), default=0) > 0:
                    raise zipfile.BadZipFile
                return tuple(archive.namelist())
        except zipfile.BadZipFile:
            raise ModelError(
                f"{self.path} is truncated or damaged: it begins as an archive but does not end as one; "
                "copy or export it again."
            ) from None


class Adapter(Protocol):
    """One model format.

    `can_open` looks at content, never at the extension alone, and imports no framework; `open` does the work.
    """

    name: str
    formats: str

    def can_open(self, source: ModelSource) -> bool:
        """Say whether this adapter understands the source."""
        ...

    def open(self, source: ModelSource, options: OpenOptions) -> Model:
        """Open the source.

        Raises
        ------
        ModelError
            The source is of this format but can't be opened.
        """
        ...


def adapters() -> list[Adapter]:
    """Load every registered adapter, in the order of their names."""
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return [point.load()() for point in found]


def load(
    source: Any,
    *,
    weights: str | Path | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int | str]] | None = None,
    layout: str | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    operators: Sequence[str | Path] = (),
) -> Model:
    """Open a model of any format.

    Parameters
    ----------
    source : str, path or model object
        A TorchScript, ``.pt2`` or ONNX file, ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``, a
        ``torch.nn.Module``, a ScriptModule, an ``ExportedProgram`` or an ``onnx.ModelProto``.
    weights : str or path, optional
        State dict for a source that names an architecture.
    input_shape : sequence of int, or mapping of str to sequence, optional
        Shape of one sample without the batch axis, such as ``(3, 32, 32)``, for models that don't say; for models of
        several inputs the shape of each by its name. A shape may begin with the name of an element type:
        ``{"tokens": ("int64", 16), "scale": (1,)}``.
    layout : {"NCHW", "NHWC"}, optional
        Axes of the picture that the model takes.
    allow_partial : bool
        Load weights that fit in part only, and say in the model's notes what did not.
    trust : bool
        Run code that comes with the model. Without it a file's code runs only where it can do nothing but compute.
        What ``package.module:factory`` names is the user's own code, and runs in any case.
    operators : sequence of str or path
        Shared libraries with operators that the model needs: for ONNX Runtime (which export ``RegisterCustomOps``)
        or for torch. Loading one runs its code, so that it takes `trust`.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        Nothing can open the source, or its adapter can't; a library without `trust`.
    """
    if layout not in {None, "NCHW", "NHWC"}:
        raise ModelError(f"There is no layout {layout}: use NCHW or NHWC.")
    libraries = tuple(_library(path, trust=trust) for path in operators)
    candidate = ModelSource(source)
    named = input_shape if isinstance(input_shape, Mapping) else {}
    single = None if input_shape is None or named else tuple(int(n) for n in input_shape)
    options = OpenOptions(
        weights=None if weights is None else str(weights),
        input_shape=single,
        inputs=tuple(_named_input(name, shape) for name, shape in named.items()),
        layout=layout,
        allow_partial=allow_partial,
        trust=trust,
        operators=libraries,
    )
    known = adapters()
    for adapter in known:
        if adapter.can_open(candidate):
            return adapter.open(candidate, options)
    raise _unknown(candidate, known)


def _library(path: str | Path, *, trust: bool) -> str:
    """Look a library of operators up; one that is only a name would be searched for in other places."""
    if not trust:
        raise ModelError(f"{path} holds machine code, which runs when it is loaded: add --trust if you trust it.")
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no library {path}: {near_files(file)}")
    return str(file.resolve())


def _named_input(name: str, shape: Sequence[int | str]) -> InputInfo:
    """Read ``("int64", 16)`` or ``(3, 32, 32)``."""
    dtype = shape[0] if shape and isinstance(shape[0], str) else ""
    lengths = tuple(int(n) for n in (shape[1:] if dtype else shape))
    try:
        return InputInfo(name, lengths, np.dtype(dtype or "float32").name)
    except TypeError:
        raise ModelError(f"There is no element type {dtype}: use float32, int64 and the like.") from None


def _unknown(source: ModelSource, known: Sequence[Adapter]) -> ModelError:
    formats = "; ".join(adapter.formats for adapter in known)
    if source.path is not None:
        if source.path.stat().st_size == 0:
            return ModelError(f"{source.path} is empty: copy or export it again.")
        return ModelError(f"{source.path} is in none of the formats that fmx opens, or is damaged: {formats}.")
    if isinstance(source.spec, str | Path):
        path = Path(source.spec)
        if path.is_dir():
            return ModelError(f"{path} is a folder, not a model: give {formats}.")
        hint = f"fmx opens {formats}." if ":" in str(source.spec) else near_files(path)
        return ModelError(f"There is no model {source.spec}: {hint}")
    return ModelError(f"A {source.text} is no model that fmx opens: {formats}.")


def choose_layers(model: Model, patterns: str | Iterable[str]) -> list[LayerInfo]:
    """Select layers of a model; see `fmx.layers.select_layers`.

    Raises
    ------
    LayerError
        A pattern matches nothing, or the model has no layers at all.
    """
    if not model.layers:
        raise LayerError(f"{model.source} has no layers: it is a single operation, or hands its input on.")
    return select_layers(model.layers, patterns)


def resolve(layers: Sequence[LayerInfo], wanted: Iterable[LayerInfo | str]) -> list[LayerInfo]:
    """Look wanted layers up by name, in the order of computation.

    Raises
    ------
    LayerError
        A name that is no layer.
    """
    names = {w if isinstance(w, str) else w.name for w in wanted}
    exact = [layer for layer in layers if layer.name in names]
    if len(exact) == len(names):
        return exact
    return select_layers(layers, names)


def run_all(session: Session, batches: Iterable[Batch]) -> Iterator[Capture]:
    """Run batches one after the other, overlapped where the session can: it has a method of this name then.

    At most one batch more than those given back has been taken from `batches`.

    Yields
    ------
    Capture
        What ``session.run`` gives for each batch, in their order.
    """
    overlapped = getattr(session, "run_all", None)
    yield from overlapped(batches) if overlapped is not None else map(session.run, batches)


def sharing(session: Session) -> AbstractContextManager[None]:
    """Give a context in which a session shares the processor with other threads of this process that have much to do.

    A session that can has a method of this name. What it computes stays the same.
    """
    found = getattr(session, "sharing", None)
    return nullcontext() if found is None else cast("AbstractContextManager[None]", found())


def check_inputs(batch: Batch, inputs: Sequence[InputInfo], source: str) -> dict[str, NDArray[Any]]:
    """Check a batch against a model's inputs, and give it by the names of the inputs.

    Raises
    ------
    ModelError
        An input is missing, unknown, or has another shape; says what the model takes.
    """
    if isinstance(batch, Mapping):
        given = dict(batch)
    elif len(inputs) == 1:
        given = {inputs[0].name: batch}
    else:
        given = {}
    names = [info.name for info in inputs]
    if sorted(given) != sorted(names):
        raise ModelError(f"{source} takes the inputs {', '.join(names)}: give a mapping with an array for each.")
    for info in inputs:
        check_batch(given[info.name], info.shape, source if len(inputs) == 1 else f"{source} as {info.name}")
    return {name: _plain(given[name]) for name in names}


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Give numbers as processors have them; frameworks refuse other orders of bytes, or read other numbers."""
    dtype = np.dtype(array.dtype).newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    return np.asarray(array, dtype)


def check_batch(batch: NDArray[Any], shape: Sequence[int], source: str) -> None:
    """Check that a batch is (sample, …shape).

    Raises
    ------
    ModelError
        It is not; says what the model takes and what it was given.
    """
    if batch.ndim != len(shape) + 1 or tuple(batch.shape[1:]) != tuple(shape):
        raise ModelError(
            f"{source} takes samples of shape {_shape(shape)}, but the data has {_shape(batch.shape[1:])}: "
            "prepare the data for the model, or give its input with --input-shape."
        )


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"
