"""One naming rule for every format.

An adapter reports what a forward pass does, in order: a module is entered, an operation runs, the module is left.
This module turns the report into layers with canonical names, so that the rule stands in one place:

- a module's output has the module's dotted path; its k-th call in one pass (k > 1) adds ``:k``;
- of a module that puts out several tensors (a tuple, a dict) the first one has the plain name, the others add where
  they lie: ``lstm[1.0]``, ``backbone[aux]``;
- a *leaf* is a module that called no other module; what it does inside belongs to it and has no name of its own;
- an operation outside a leaf is ``<scope>.<op>``, the next one of the same kind in that scope ``<scope>.<op>_1``;
- the root's own output has no name: it is the model's output, not a layer.

Names come in the order in which values are complete, so a container follows what is inside it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["NamedValue", "PassTrace"]

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class NamedValue(Generic[V]):
    """A value of the forward pass with its canonical name and kind."""

    name: str
    kind: str
    value: V


@dataclass(slots=True)
class _Op(Generic[V]):
    op: str
    value: V


@dataclass(slots=True)
class _Call(Generic[V]):
    path: str
    kind: str
    inside: list[_Call[V] | _Op[V]] = field(default_factory=list)
    values: list[tuple[str, V]] = field(default_factory=list)

    @property
    def is_leaf(self) -> bool:
        return not any(isinstance(item, _Call) for item in self.inside)


class PassTrace(Generic[V]):
    """The record of one forward pass, to be filled in order and then named."""

    def __init__(self) -> None:
        self._root: _Call[V] = _Call("", "")
        self._stack = [self._root]

    @property
    def scope(self) -> str:
        """Path of the module that is running."""
        return self._stack[-1].path

    def enter(self, path: str, kind: str) -> None:
        """Record that the module at `path` starts."""
        call: _Call[V] = _Call(path, kind)
        self._stack[-1].inside.append(call)
        self._stack.append(call)

    def op(self, op: str, value: V) -> None:
        """Record an operation (canonical name, see `fmx.ops`) of the running module."""
        self._stack[-1].inside.append(_Op(op, value))

    def exit(self, *values: tuple[str, V]) -> None:
        """Record that the running module ends, with where in its output each tensor lies: ``("1.0", value)``.

        The place of a module's only tensor is never shown; give it as ``("", value)``.
        """
        self._stack.pop().values = list(values)

    def named(self) -> list[NamedValue[V]]:
        """Name all recorded values, in the order of completion.

        The root is a scope even where it called no module, so that a network of nothing but
        functional operations has layers.
        """
        out: list[NamedValue[V]] = []
        self._name_inside(self._root, "", Counter(), self._paths(), out)
        return out

    def _paths(self) -> set[str]:
        paths, pending = set(), [self._root]
        while pending:
            call = pending.pop()
            paths.add(call.path)
            pending += [item for item in call.inside if isinstance(item, _Call)]
        return paths

    def _name_inside(
        self, call: _Call[V], suffix: str, calls: Counter[str], modules: set[str], out: list[NamedValue[V]]
    ) -> None:
        ops: Counter[str] = Counter()
        prefix = f"{call.path}." if call.path else ""
        for item in call.inside:
            if isinstance(item, _Call):
                calls[item.path] += 1
                nth = f":{calls[item.path]}" if calls[item.path] > 1 else ""
                if not item.is_leaf:
                    self._name_inside(item, nth, calls, modules, out)
                for i, (place, value) in enumerate(item.values):
                    out.append(NamedValue(item.path + nth + (f"[{place}]" if i else ""), item.kind, value))
            else:
                name = self._op_name(prefix, item.op, ops, modules)
                out.append(NamedValue(name + suffix, item.op, item.value))

    @staticmethod
    def _op_name(prefix: str, op: str, ops: Counter[str], modules: set[str]) -> str:
        while True:
            name = f"{prefix}{op}_{ops[op]}" if ops[op] else f"{prefix}{op}"
            ops[op] += 1
            if name not in modules:
                return name
