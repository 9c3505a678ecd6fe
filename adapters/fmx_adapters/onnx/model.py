"""An ONNX graph as a model, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from fmx.adapter import Batch, Capture, InputInfo, ModelSource, OpenOptions, Session, check_inputs, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo, native_dims
from fmx_adapters._axes import roles_of
from fmx_adapters._batches import run_in_slices
from fmx_adapters._engines import Candidate, Terms, pick_engine
from fmx_adapters._model import ProbedModel, layout_option
from fmx_adapters.onnx.axes import follow_axes, split_values
from fmx_adapters.onnx.graph import cut_graph, graph_inputs, hash_model, read_model
from fmx_adapters.onnx.inputs import DeclaredInput, settle_inputs
from fmx_adapters.onnx.names import computed_values, constant_values, named_values
from fmx_adapters.onnx.runtime import run_values, start
from fmx_adapters.onnx.widen import same_values, widened

if TYPE_CHECKING:
    from fmx_adapters._differentiable import LayeredModule
    from fmx_adapters._relu import Rule

_PROBE_BATCH = 2


def open_onnx(source: ModelSource, options: OpenOptions) -> OnnxModel:
    """Open an ONNX file or take a ModelProto.

    Raises
    ------
    ModelError
        The file is damaged, its external data is elsewhere, or weights were given beside it.
    """
    if options.weights is not None:
        raise ModelError(f"{source.text} holds its own weights: leave --weights out.")
    proto = source.spec if source.path is None else read_model(source.path)
    folder = Path() if source.path is None else source.path.parent
    declared = [DeclaredInput(value, source.text) for value in graph_inputs(proto.graph)]
    if not declared:
        raise ModelError(f"{source.text} takes no input: there is nothing to run it on.")
    return OnnxModel(proto, source.text, folder, declared, settle_inputs(declared, options), options.operators)


@dataclass(frozen=True)
class _Probed:
    """What one small batch showed.

    `values` gives the graph's name of each layer's value; `batch` is the size that the graph takes, None for any;
    `proto` is the graph that sessions run.
    """

    layers: list[LayerInfo]
    values: dict[str, str]
    batch: int | None
    proto: onnx.ModelProto


class OnnxModel(ProbedModel):
    """An ONNX graph; see `fmx.adapter.Model`."""

    adapter = "onnx"

    def __init__(
        self,
        proto: onnx.ModelProto,
        source: str,
        folder: Path,
        declared: Sequence[DeclaredInput],
        inputs: Sequence[InputInfo],
        libraries: Sequence[str] = (),
    ) -> None:
        self.proto = proto
        self.source = source
        self.folder = folder
        self._declared = list(declared)
        self._inputs = list(inputs)
        self._libraries = tuple(libraries)

    @property
    def inputs(self) -> list[InputInfo]:
        """The graph's inputs."""
        return self._inputs

    @cached_property
    def fingerprint(self) -> str:
        """Hash over graph and weights."""
        return hash_model(self.proto, self.folder)

    def with_input(self, shape: Sequence[int]) -> OnnxModel:
        """Return the same model for samples of another shape."""
        layout = layout_option(self._inputs[0])
        inputs = settle_inputs(self._declared, OpenOptions(input_shape=tuple(shape), layout=layout))
        return OnnxModel(self.proto, self.source, self.folder, self._declared, inputs, self._libraries)

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
        """Prepare to capture `layers`; the engines are eager (basic optimisation only), auto and optimised."""
        if precision not in {None, "float32"}:
            raise ModelError(f"ONNX models compute as they were exported: leave --precision {precision} out.")
        values = self._probed.values
        wanted = {layer.name: values[layer.name] for layer in resolve(self.layers, layers)}
        extra = [output.name for output in self.proto.graph.output] if outputs else []
        build = partial(OnnxSession, self, self._probed, wanted, extra, device)
        candidates = [Candidate("optimised", partial(build, "all"))]
        return pick_engine(engine, partial(build, "basic"), candidates, Terms(expected_batches=expected_batches))

    def torch_module(self, relu: Rule | None = None, *, layers: Sequence[str] | None = None) -> LayeredModule:
        """Return the graph as a differentiable `LayeredModule`.

        Raises
        ------
        ModelError
            An operator that the importer does not know; names it and its node.
        """
        from fmx_adapters._differentiable import LayeredModule
        from fmx_adapters._relu import replace_relus
        from fmx_adapters.onnx.importer import to_torch

        proto = onnx.ModelProto()
        proto.CopyFrom(self._probed.proto)
        onnx.load_external_data_for_model(proto, str(self.folder))
        module = to_torch(proto)
        if relu is not None:
            replace_relus(module, relu)
        nodes: dict[str, str] = module.onnx_values  # type: ignore[assignment]
        return LayeredModule(module, {n: nodes[v] for n, v in self._probed.values.items() if v in nodes}, only=layers)

    @cached_property
    def _probed(self) -> _Probed:
        graph = self.proto.graph
        every = computed_values(graph)
        batch, found = self._probe(every)
        arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        layers, values = [], {}
        like = {name: array.ndim for name, array in arrays.items() if _is_layer(array, batch)}
        shapes = {name: array.shape for name, array in arrays.items()}
        axes = follow_axes(graph, constant_values(graph), shapes, self._inputs, batch)
        for n in named_values(graph, like, split_values(axes)):
            if n.value in like:
                array = arrays[n.value]
                shape = tuple(array.shape[1:])
                dims = native_dims(shape, n.kind, roles_of(axes.get(n.value)))
                layers.append(LayerInfo(n.name, n.kind, dims, shape, str(array.dtype)))
                values[n.name] = n.value
        if batch == _PROBE_BATCH and self._declared[0].batch is None:
            return _Probed(layers, values, None, self.proto)
        wide = self._widen(every, batch, found)
        return _Probed(layers, values, None if wide else batch, wide or self.proto)

    def _probe(self, every: list[str]) -> tuple[int, dict[str, Any]]:
        """Run a small batch; a graph that is open to any batch may still only take one."""
        runner = self.start(self.proto, every)
        fixed = self._declared[0].batch
        said = ""
        for batch in [fixed] if fixed else [_PROBE_BATCH, 1]:
            try:
                return batch, run_values(runner, self._feed(batch, seed=0), self.source)
            except ModelError as error:
                said = said or str(error).removeprefix(f"{self.source} failed: ")
        shape = " and ".join("×".join(map(str, info.shape)) for info in self._inputs)
        raise ModelError(
            f"{self.source} does not run on a sample of shape {shape}: {said}; say what it takes with --input-shape."
        )

    def _widen(self, every: list[str], batch: int, found: Mapping[str, Any]) -> onnx.ModelProto | None:
        """Open the batch axis, if that changes no value."""
        wide = widened(self.proto, [info.name for info in self._inputs], batch)
        first, second = (self._feed(batch, seed=seed) for seed in (0, 1))
        both = {name: np.concatenate([first[name], second[name]]) for name in first}
        try:
            parts = [found, run_values(self.start(self.proto, every), second, "")]
            whole = run_values(self.start(wide, every), both, "")
        except ModelError:
            return None
        return wide if same_values(whole, parts, batch) else None

    def start(
        self, proto: onnx.ModelProto, values: Sequence[str], device: str = "cpu", level: str = "basic"
    ) -> ort.InferenceSession:
        """Start ONNX Runtime on what some values need of a graph."""
        return start(cut_graph(proto, values), self.source, self.folder, device, level, self._libraries)

    def _feed(self, batch: int, seed: int) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(seed)
        return {info.name: (rng.random((batch, *info.shape)) * 1.5).astype(info.dtype) for info in self._inputs}


def _is_layer(array: NDArray[Any], batch: int) -> bool:
    """Say whether a value can be a layer: the batch comes first, and it is floating point or quantized."""
    return array.shape[:1] == (batch,) and (array.dtype.kind == "f" or array.dtype in (np.uint8, np.int8))


class OnnxSession:
    """An ONNX graph prepared for chosen layers; see `fmx.adapter.Session`."""

    engine_notes: tuple[str, ...] = ()

    def __init__(
        self,
        model: OnnxModel,
        probed: _Probed,
        wanted: dict[str, str],
        extra: Sequence[str],
        device: str,
        level: str,
    ) -> None:
        self._model = model
        self._probed = probed
        self._wanted = wanted
        self._extra = list(extra)
        self._device = device
        self._level = level
        self._runner: ort.InferenceSession | None = None

    def __enter__(self) -> Self:
        values = list(dict.fromkeys([*self._wanted.values(), *self._extra]))
        self._runner = self._model.start(self._probed.proto, values, self._device, self._level)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner = None

    @property
    def engine(self) -> str:
        """ONNX Runtime, its version and optimisation level."""
        return f"onnxruntime {ort.__version__} ORT_ENABLE_{self._level.upper()}"

    def run(self, batch: Batch) -> Capture:
        """Run one batch and return the wanted values; see `fmx.adapter.Session`."""
        runner = self._runner
        if runner is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        given = check_inputs(batch, self._model.inputs, self._model.source)
        types = {info.name: info.dtype for info in self._model.inputs}
        arrays = {name: np.ascontiguousarray(array, dtype=types[name]) for name, array in given.items()}
        fixed = self._probed.batch
        found = run_in_slices(
            arrays,
            lambda part: run_values(runner, part, self._model.source),
            least=fixed or 1,
            most=fixed,
        )
        layers = {name: found[value] for name, value in self._wanted.items()}
        return Capture(layers, {name: found[name] for name in self._extra})
