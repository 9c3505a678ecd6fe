"""Taking values out of passes that somebody else runs, such as the steps of a training loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from numpy.typing import NDArray

from fmx.adapter import InputInfo
from fmx.errors import ModelError
from fmx_adapters._torch import Key, dtype_name, picture_input, tensors_in, to_array
from fmx_adapters.pytorch.watch import Watcher

__all__ = ["PassRecorder", "inputs_of"]

Layers = Mapping[Key, str]


def inputs_of(
    module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], source: str
) -> tuple[InputInfo, ...]:
    """Describe the inputs of a pass by its arguments.

    Raises
    ------
    ModelError
        One is no tensor, so that the layers can't be found out.
    """
    names = list(inspect.signature(module.forward).parameters)
    given = [*zip(names if len(arguments) > 1 else ["input"], arguments, strict=False), *keywords.items()]
    infos = []
    for name, value in given:
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            raise ModelError(f"{source} was given a {type(value).__name__} as {name}: only tensors can be recorded.")
        infos.append(picture_input(value.shape[1:], None) if len(given) == 1 else _info(name, value))
    return tuple(infos)


def _info(name: str, value: torch.Tensor) -> InputInfo:
    return InputInfo(name, tuple(value.shape[1:]), dtype_name(value.dtype))


class PassRecorder:
    """Hooks on the root of a module, inside a context; what lies below gets hooks for the recorded passes alone.

    Values are copied when they arise, as the pass that goes on may overwrite them, and are detached from its gradients.

    Parameters
    ----------
    module : torch.nn.Module
    wanted : callable
        Asked before each pass whether it is to be recorded.
    layers : callable
        Given the arguments of the pass by position and by name, says which values are taken: ``{key: layer name}``.
    take : callable
        Given the values (sample, …native) by name when the pass is over.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        wanted: Callable[[], bool],
        layers: Callable[[tuple[Any, ...], Mapping[str, Any]], Layers],
        take: Callable[[dict[str, NDArray[Any]]], None],
    ) -> None:
        self._module = module
        self._wanted = wanted
        self._layers = layers
        self._take = take
        self._hooks = ExitStack()
        self._pass: ExitStack | None = None
        self._values: dict[str, NDArray[Any]] = {}
        self._inside = False

    def __enter__(self) -> Self:
        before = self._module.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True)
        after = self._module.register_forward_hook(self._end, always_call=True)
        self._hooks.callback(before.remove)
        self._hooks.callback(after.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        self._stop()

    def _begin(self, module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self._inside or not self._wanted():
            return
        self._inside = True  # the pass that finds out the layers is not recorded
        try:
            wanted = self._layers(arguments, keywords)
        finally:
            self._inside = False

        def keep(key: Key, output: Any) -> None:
            for place, value in tensors_in(output):
                name = wanted.get(key._replace(place=place))
                if name is not None:
                    self._values[name] = to_array(value.detach().clone())

        watcher = Watcher(module, None if any(key.op for key in wanted) else {key.path for key in wanted})
        watcher.on_exit = keep
        watcher.on_op = lambda key, _, output: keep(key, output)
        with ExitStack() as stack:
            stack.enter_context(watcher)
            stack.enter_context(watcher.watch())
            self._pass = stack.pop_all()

    def _end(self, _module: torch.nn.Module, _arguments: Any, output: Any) -> None:
        if self._pass is None or self._inside:
            return
        self._stop()
        values, self._values = self._values, {}
        if output is not None:  # torch calls this hook with None where the pass failed
            self._take(values)

    def _stop(self) -> None:
        if self._pass is not None:
            self._pass.close()
            self._pass = None
