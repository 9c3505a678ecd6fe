"""Watching a forward pass: modules by hooks, operations between them by a torch-function mode.

Every value has a key that is the same in each pass of the same model: the module's path, the number of its call and,
for an operation, the operation's name and number within that call. Hooks exist only inside the context manager.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode

from fmx.ops import canonical_op
from fmx_adapters._torch import Key


def _ignore(*_: Any) -> None:
    return None


class Watcher:
    """Has hooks on modules inside its context, and reports the passes that run inside `watch`.

    Parameters
    ----------
    root : torch.nn.Module
    only : iterable of str, optional
        Paths of the modules to report; all modules and the operations between them if left out.

    Attributes
    ----------
    reads_values : bool
        Python code has asked for the value of a tensor in a pass whose operations were reported.
    """

    def __init__(self, root: torch.nn.Module, only: Iterable[str] | None = None) -> None:
        paths = None if only is None else set(only)
        self._modules = {p: m for p, m in root.named_modules() if p and (paths is None or p in paths)}
        self._ops = paths is None
        self._calls: Counter[str] = Counter()
        self._scopes: list[tuple[Key, Counter[str]]] = []
        self._stack = ExitStack()
        # Several sessions may have hooks on the same module; each sees its own passes only.
        self._watching = False
        self.on_enter: Callable[[str, torch.nn.Module, Any], None] = _ignore
        # What these two return, if anything, takes the place of the value in the pass.
        self.on_exit: Callable[[Key, Any], Any] = _ignore
        self.on_op: Callable[[Key, str, Any], Any] = _ignore
        # Given what every function of torch was given, listed as an operation or not, and what it returned.
        self.on_call: Callable[[Any, Any], None] = _ignore
        self.reads_values = False

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Report the pass that runs inside; calls are counted from the beginning."""
        self._calls.clear()
        self._scopes = [(Key("", 1), Counter())]
        with ExitStack() as stack:
            if self._ops:
                stack.enter_context(_OpMode(self._op, self._read, self.on_call))
            self._watching = True
            try:
                yield
            finally:
                self._watching = False

    def __enter__(self) -> Self:
        for path, module in self._modules.items():
            before = module.register_forward_pre_hook(self._before(path), prepend=True)
            after = module.register_forward_hook(self._after())
            self._stack.callback(before.remove)
            self._stack.callback(after.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _before(self, path: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any) -> None:
            if not self._watching:
                return
            self._calls[path] += 1
            self._scopes.append((Key(path, self._calls[path]), Counter()))
            self.on_enter(path, module, inputs)

        return hook

    def _after(self) -> Callable[..., None]:
        # A function and not a method, as a copy of the module would copy a method's object with it.
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
            if not self._watching:
                return None
            key, _ = self._scopes.pop()
            return self.on_exit(key, output)

        return hook

    def _read(self) -> None:
        self.reads_values = True

    def _op(self, op: str, value: Any) -> Any:
        key, ops = self._scopes[-1]
        ops[op] += 1
        return self.on_op(Key(key.path, key.call, op, ops[op]), op, value)


# What gives Python the value of a tensor, which it may then go by.
_READING = {"__bool__", "__int__", "__float__", "__index__", "__contains__", "item", "tolist", "numpy"}


class _OpMode(TorchFunctionMode):
    """Calls back for every operation of `fmx.ops` that Python code asks torch for, and when it asks for a value."""

    def __init__(
        self, report: Callable[[str, Any], Any], read: Callable[[], None], call: Callable[[Any, Any], None]
    ) -> None:
        super().__init__()
        self._report = report
        self._read = read
        self._call = call

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        self._call((args, kwargs), value)
        name = getattr(func, "__name__", "")
        if name in _READING:
            self._read()
        op = canonical_op(name)
        if op is None:
            return value
        replaced = self._report(op, value)
        return value if replaced is None else replaced
