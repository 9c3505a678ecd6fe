"""An ONNX graph as a model, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from fmx.adapter import Batch, Capture, InputInfo, ModelSource, OpenOptions, Session, check_inputs, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo, native_dims
from fmx_adapters._engines import Candidate, pick_engine
from fmx_adapters.onnx.graph import cut_graph, graph_inputs, hash_model, read_model
from fmx_adapters.onnx.names import computed_values, named_values

_PROBE_BATCH = 2
_ASSUMED_SIZE = 224
_PICTURE_CHANNELS = {1, 3, 4}


def open_onnx(source: ModelSource, options: OpenOptions) -> OnnxModel:
    """Open an ONNX file or take a ModelProto.

    Raises
    ------
    ModelError
        The file is damaged, takes several inputs, or weights were given beside it.
    """
    if options.weights is not None:
        raise ModelError(f"{source.text} holds its own weights: leave --weights out.")
    proto = source.spec if source.path is None else read_model(source.path)
    inputs = graph_inputs(proto.graph)
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs) or "none"
        raise ModelError(f"{source.text} has {len(inputs)} inputs ({names}): fmx runs models of one input.")
    declared = _Declared(inputs[0], source.text)
    return OnnxModel(proto, source.text, declared, declared.input_info(options))


class _Declared:
    """What the graph says of its input; None stands for a length that it leaves open."""

    def __init__(self, value: onnx.ValueInfoProto, source: str) -> None:
        tensor = value.type.tensor_type
        self.name = value.name
        self.source = source
        self.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
        if not sizes:
            raise ModelError(f"{source} takes an input without a batch axis: export it with one.")
        self.batch, self.shape = sizes[0], tuple(sizes[1:])

    def input_info(self, options: OpenOptions) -> InputInfo:
        """Settle the shape of a sample, with the user's word where the graph leaves it open."""
        given = options.input_shape
        if given is not None:
            self._check(given)
        hwc = options.layout == "NHWC" if options.layout else self._channels_last(given or self.shape)
        shape, assumed = [], False
        for i, size in enumerate(given or self.shape):
            is_channel = len(self.shape) == 3 and i == (2 if hwc else 0)
            assumed |= size is None
            shape.append(size if size is not None else 3 if is_channel else _ASSUMED_SIZE)
        layout = ("HWC" if hwc else "CHW") if len(shape) == 3 else ""
        text = "×".join(map(str, shape)) if assumed else ""
        return InputInfo(self.name, tuple(shape), str(self.dtype), layout, text)

    def _check(self, given: Sequence[int]) -> None:
        fits = len(given) == len(self.shape) and all(
            size in {None, want} for size, want in zip(self.shape, given, strict=True)
        )
        if not fits:
            takes = "×".join("any" if s is None else str(s) for s in self.shape)
            raise ModelError(
                f"{self.source} takes samples of shape {takes}, not {'×'.join(map(str, given))}: "
                "prepare the data for it."
            )

    @staticmethod
    def _channels_last(shape: Sequence[int | None]) -> bool:
        return len(shape) == 3 and shape[2] in _PICTURE_CHANNELS and shape[0] not in _PICTURE_CHANNELS


_LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def _start(model: onnx.ModelProto, source: str, device: str, level: str = "basic") -> ort.InferenceSession:
    """Start ONNX Runtime with just the provider that was asked for, so that it has nothing to complain about."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # From the level after basic on, values may differ in the last bits.
    options.graph_optimization_level = _LEVELS[level]
    kind, _, index = device.partition(":")
    known: dict[str, Any] = {
        "cpu": "CPUExecutionProvider",
        "cuda": ("CUDAExecutionProvider", {"device_id": int(index) if index.isdigit() else 0}),
    }
    if kind not in known or not (index.isdigit() or not index):
        raise ModelError(f"ONNX Runtime has no device '{device}': use cpu, cuda or cuda:1.")
    if kind == "cuda" and not _cuda_loads():
        raise ModelError(f"There is no {device} for ONNX Runtime here: use --device cpu.")
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=[known[kind]])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base
        reason = str(error).splitlines()[0]
        raise ModelError(f"ONNX Runtime can't run {source}: {reason}") from error


def _cuda_loads() -> bool:
    """Say whether the CUDA provider is built in and finds a driver."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return False
    import torch

    return torch.cuda.is_available()


class OnnxModel:
    """An ONNX graph; see `fmx.adapter.Model`."""

    adapter = "onnx"
    preprocessing = None
    notes = ""

    def __init__(self, proto: onnx.ModelProto, source: str, declared: _Declared, info: InputInfo) -> None:
        self.proto = proto
        self.source = source
        self._declared = declared
        self._input = info

    def __repr__(self) -> str:
        return f"<fmx model {self.source}: {len(self.layers)} layers>"

    @property
    def layers(self) -> list[LayerInfo]:
        """Every layer, in the order of computation."""
        return self._probed[0]

    @property
    def inputs(self) -> list[InputInfo]:
        """The graph's input."""
        return [self._input]

    @cached_property
    def fingerprint(self) -> str:
        """Hash over graph and weights."""
        return hash_model(self.proto)

    def with_input(self, shape: Sequence[int]) -> OnnxModel:
        """Return the same model for samples of another shape."""
        layout = {"CHW": "NCHW", "HWC": "NHWC"}.get(self._input.layout)
        info = self._declared.input_info(OpenOptions(input_shape=tuple(shape), layout=layout))
        return OnnxModel(self.proto, self.source, self._declared, info)

    def session(
        self,
        layers: Iterable[LayerInfo | str],
        *,
        device: str = "cpu",
        engine: str = "eager",
        outputs: bool = False,
    ) -> Session:
        """Prepare to capture `layers`; the engines are eager (basic optimisation only), auto and optimised."""
        known, values, batch = self._probed
        wanted = {layer.name: values[layer.name] for layer in resolve(known, layers)}
        extra = [output.name for output in self.proto.graph.output] if outputs else []
        build = partial(OnnxSession, self, wanted, extra, batch, device)
        return pick_engine(engine, partial(build, "basic"), [Candidate("optimised", partial(build, "all"))])

    @cached_property
    def _probed(self) -> tuple[list[LayerInfo], dict[str, str], int | None]:
        """Run a small batch once; gives layers, the graph's names of their values, and the batch size if fixed."""
        graph = self.proto.graph
        runner = _start(cut_graph(self.proto, computed_values(graph)), self.source, "cpu")
        batch, found = self._probe(runner)
        arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
        layers, values = [], {}
        for n in named_values(graph, {name: array.ndim for name, array in arrays.items()}):
            array = arrays.get(n.value)
            if array is not None and array.dtype.kind == "f" and array.shape[:1] == (batch,):
                shape = tuple(array.shape[1:])
                layers.append(LayerInfo(n.name, n.kind, native_dims(shape, n.kind), shape, str(array.dtype)))
                values[n.name] = n.value
        fixed = self._declared.batch or (None if batch == _PROBE_BATCH else batch)
        return layers, values, fixed

    def _probe(self, runner: ort.InferenceSession) -> tuple[int, dict[str, Any]]:
        names = [output.name for output in runner.get_outputs()]
        sizes = [self._declared.batch] if self._declared.batch else [_PROBE_BATCH, 1]
        said = ""
        for batch in sizes:
            values = np.random.default_rng(0).random((batch, *self._input.shape))
            try:
                out = runner.run(names, {self._declared.name: values.astype(self._declared.dtype)})
            except Exception as error:  # as in _start
                said = said or str(error).splitlines()[0]
                continue
            return batch, dict(zip(names, out, strict=True))
        shape = "×".join(map(str, self._input.shape))
        raise ModelError(
            f"{self.source} does not run on a sample of shape {shape}: {said}; say what it takes with --input-shape."
        )


class OnnxSession:
    """An ONNX graph prepared for chosen layers; see `fmx.adapter.Session`."""

    engine_notes: tuple[str, ...] = ()

    def __init__(
        self,
        model: OnnxModel,
        wanted: dict[str, str],
        extra: Sequence[str],
        batch: int | None,
        device: str,
        level: str,
    ) -> None:
        self._level = level
        self._model = model
        self._wanted = wanted
        self._extra = list(extra)
        self._batch = batch
        self._device = device
        self._runner: ort.InferenceSession | None = None

    def __enter__(self) -> Self:
        values = list(dict.fromkeys([*self._wanted.values(), *self._extra]))
        self._runner = _start(cut_graph(self._model.proto, values), self._model.source, self._device, self._level)
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
        if self._runner is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        info = self._model.inputs[0]
        (array,) = check_inputs(batch, [info], self._model.source).values()
        found = self._run(np.ascontiguousarray(array, dtype=info.dtype), info)
        layers = {name: found[value] for name, value in self._wanted.items()}
        return Capture(layers, {name: found[name] for name in self._extra})

    def _run(self, batch: NDArray[Any], info: InputInfo) -> dict[str, NDArray[Any]]:
        assert self._runner is not None
        names = [output.name for output in self._runner.get_outputs()]
        fixed = self._batch or len(batch)
        parts = []
        for start in range(0, len(batch), fixed):
            part = batch[start : start + fixed]
            padded = np.concatenate([part, np.zeros((fixed - len(part), *part.shape[1:]), part.dtype)])
            try:
                values = self._runner.run(names, {info.name: padded if len(part) < fixed else part})
            except Exception as error:  # as in _start
                raise ModelError(f"{self._model.source} failed: {str(error).splitlines()[0]}") from error
            parts.append([value[: len(part)] for value in values])
        whole = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        return dict(zip(names, whole, strict=True))
