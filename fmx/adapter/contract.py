"""What an adapter, a model and a session have to be.

Nothing inherits from these: whatever has the same methods is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from numpy.typing import NDArray

from fmx.adapter.source import InputInfo, ModelSource, OpenOptions
from fmx.layers import LayerInfo

__all__ = ["Adapter", "Batch", "Capture", "Model", "Session"]

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
