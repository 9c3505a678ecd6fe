"""Naming the values of a graph whose nodes say in which modules they run.

Formats that keep a flat graph (ONNX, exported programs) list their nodes in the order of computation as *steps*. From
which modules a step shares with the one before it, this module tells what is entered and left, finds what each module
puts out, and hands both to `fmx.naming`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fmx.naming import NamedValue, PassTrace

__all__ = ["ModuleCall", "Step", "name_steps"]


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """A call of a module.

    Attributes
    ----------
    path : str
    kind : str
        Class of the module, empty where the file does not say.
    call : str
        Tells calls of the same module apart, where the file does.
    """

    path: str
    kind: str = ""
    call: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A node of a graph.

    Attributes
    ----------
    modules : tuple of ModuleCall
        The modules that it runs in, outermost first, without the root.
    op : str or None
        Canonical operation (see `fmx.ops`), None for one that makes no layer.
    kind : str
        Kind of a module that consists of this one node.
    value : str
        What it computes.
    reads : tuple of str
        What it reads.
    group : str
        Steps of one group are parts of one operation of the original network.
    """

    modules: tuple[ModuleCall, ...]
    op: str | None
    kind: str
    value: str
    reads: tuple[str, ...]
    group: str


def name_steps(
    steps: Sequence[Step],
    outputs: Iterable[str],
    *,
    choose: Callable[[Sequence[str]], str | None] = lambda values: values[-1],
) -> list[NamedValue[str]]:
    """Name the values of a graph, in the order of completion.

    Parameters
    ----------
    steps : sequence of Step
        In the order of computation.
    outputs : iterable of str
        Values that the graph puts out.
    choose : callable
        Given the values that leave a module, in the order of computation, says which one bears the module's name;
        None if that can't be told. The last one if left out.
    """
    users = _users(steps, outputs)
    trace: PassTrace[str] = PassTrace()
    open_calls: list[tuple[ModuleCall, int]] = []
    last_of_group = {step.group: i for i, step in enumerate(steps)}

    def leave(depth: int, end: int) -> None:
        while len(open_calls) > depth:
            _, start = open_calls.pop()
            chosen = choose(_leaving(steps, users, start, end))
            trace.exit(*([] if chosen is None else [("", chosen)]))

    for i, step in enumerate(steps):
        depth = _shared(open_calls, step.modules)
        leave(depth, i)
        for module in step.modules[depth:]:
            own = _leaf_kind(steps, i, module) if module == step.modules[-1] else "Module"
            trace.enter(module.path, module.kind or own)
            open_calls.append((module, i))
        if step.op is not None and last_of_group[step.group] == i:
            trace.op(step.op, step.value)
    leave(0, len(steps))
    return trace.named()


def _users(steps: Sequence[Step], outputs: Iterable[str]) -> dict[str, list[int]]:
    """List for each value the numbers of the steps that read it; the end of the graph reads its outputs."""
    users: dict[str, list[int]] = defaultdict(list)
    for i, step in enumerate(steps):
        for name in step.reads:
            users[name].append(i)
    for name in outputs:
        users[name].append(len(steps))
    return users


def _shared(open_calls: Sequence[tuple[ModuleCall, int]], modules: Sequence[ModuleCall]) -> int:
    depth = 0
    for (have, _), want in zip(open_calls, modules, strict=False):
        if (have.path, have.call) != (want.path, want.call):
            break
        depth += 1
    return depth


def _leaving(steps: Sequence[Step], users: dict[str, list[int]], start: int, end: int) -> list[str]:
    """List the values of steps start…end-1 that something outside uses: what the module puts out."""
    used = [s.value for s in steps[start:end] if any(not start <= user < end for user in users[s.value])]
    return used or [steps[end - 1].value]


def _leaf_kind(steps: Sequence[Step], start: int, module: ModuleCall) -> str:
    """Tell the kind of a module from its only node; one of several nodes is a plain Module."""
    inside = []
    for step in steps[start:]:
        if all(m.path != module.path for m in step.modules):
            break
        inside.append(step)
    return inside[0].kind if len(inside) == 1 else "Module"
