"""Names: what one forward pass calls its values, and what operations are called in every format."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.naming import PassTrace
from fmx.ops import LAYER_OPS, canonical_op


def record(*events):
    """Fill a trace: ``("module", …inside)`` is a call whose kind is its path's upper case, a string an operation."""
    trace = PassTrace()
    count = iter(range(10**6))

    def play(event):
        if isinstance(event, str):
            trace.op(event, next(count))
            return
        path, *inside = event
        trace.enter(path, path.upper())
        for one in inside:
            play(one)
        trace.exit(("", next(count)))

    for event in events:
        play(event)
    return trace.named()


def names(*events):
    return [value.name for value in record(*events)]


class TestModules:
    def test_path_kind_and_value(self):
        trace = PassTrace()
        trace.enter("features", "Sequential")
        assert trace.scope == "features"
        trace.enter("features.0", "Conv2d")
        assert trace.scope == "features.0"
        trace.exit(("", "conv"))
        trace.exit(("", "all"))
        assert trace.scope == ""
        assert [(v.name, v.kind, v.value) for v in trace.named()] == [
            ("features.0", "Conv2d", "conv"),
            ("features", "Sequential", "all"),
        ]

    def test_repeated_calls_are_numbered(self):
        assert names(("relu",), ("fc",), ("relu",), ("relu",)) == ["relu", "fc", "relu:2", "relu:3"]

    def test_calls_are_counted_over_the_whole_pass(self):
        assert names(("a", ("relu",)), ("b", ("relu",))) == ["relu", "a", "relu:2", "b"]

    def test_containers_follow_what_is_inside(self):
        assert names(("a", ("a.b", ("a.b.c",)), ("a.d",))) == ["a.b.c", "a.b", "a.d", "a"]

    def test_a_module_without_a_single_value_has_no_name_but_its_insides_do(self):
        trace = PassTrace()
        trace.enter("pair", "Pair")
        trace.enter("pair.one", "Linear")
        trace.exit(("", 1))
        trace.exit()
        trace.enter("pair", "Pair")
        trace.enter("pair.one", "Linear")
        trace.exit(("", 2))
        trace.exit(("", 3))
        assert [(v.name, v.value) for v in trace.named()] == [("pair.one", 1), ("pair.one:2", 2), ("pair:2", 3)]

    def test_nothing_recorded(self):
        assert PassTrace().named() == []


class TestOperations:
    def test_inside_leaves_they_are_hidden(self):
        assert names(("conv", "conv2d", "add"), ("block", ("block.bn", "batch_norm"), "relu")) == [
            "conv",
            "block.bn",
            "block.relu",
            "block",
        ]

    def test_scope_and_number(self):
        assert names(("block", ("block.conv",), "add", "relu", "add", "add")) == [
            "block.conv",
            "block.add",
            "block.relu",
            "block.add_1",
            "block.add_2",
            "block",
        ]

    def test_root_operations_have_no_scope(self):
        assert names("relu", ("fc",), "relu", "softmax") == ["relu", "fc", "relu_1", "softmax"]

    def test_a_network_of_operations_alone(self):
        assert names("conv2d", "relu", "conv2d") == ["conv2d", "relu", "conv2d_1"]

    def test_each_scope_counts_for_itself(self):
        found = names(("a", ("a.fc",), "add"), ("b", ("b.fc",), "add"), "add")
        assert found == ["a.fc", "a.add", "a", "b.fc", "b.add", "b", "add"]

    def test_second_call_of_a_scope(self):
        block = ("block", ("block.fc",), "add", "add")
        assert names(block, block)[4:] == ["block.fc:2", "block.add:2", "block.add_1:2", "block:2"]

    def test_second_call_of_a_scope_within_another(self):
        outer = ("a", ("a.b", ("a.b.fc",), "add"), "relu")
        assert names(outer, outer)[5:] == ["a.b.fc:2", "a.b.add:2", "a.b:2", "a.relu:2", "a:2"]

    def test_kind_is_the_operation(self):
        assert [v.kind for v in record(("a", ("a.fc",), "add", "add"))] == ["A.FC", "add", "add", "A"]

    def test_modules_of_the_same_name_are_stepped_over(self):
        assert names("relu", ("relu",)) == ["relu_1", "relu"]
        assert names(("a", ("a.add",), "add", ("a.add_1",), "add")) == ["a.add", "a.add_2", "a.add_1", "a.add_3", "a"]

    def test_modules_called_from_elsewhere_are_stepped_over_too(self):
        assert names(("head.relu",), ("head", ("head.fc",), "relu")) == ["head.relu", "head.fc", "head.relu_1", "head"]


PATHS = ["a", "b", "a.add", "a.b", "add", "add_1", "a.add_1"]
EVENTS = st.recursive(
    st.one_of(st.sampled_from(["add", "relu"]), st.sampled_from(PATHS).map(lambda p: (p,))),
    lambda inner: st.builds(lambda p, e: (p, *e), st.sampled_from(PATHS), st.lists(inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=5))
def test_every_value_has_a_name_of_its_own(events):
    found = names(*events)
    assert len(set(found)) == len(found)


class TestCanonicalOp:
    @pytest.mark.parametrize(
        ("name", "canonical"),
        [
            ("add", "add"),
            ("add_", "add"),
            ("aten::add", "add"),
            ("aten::add_", "add"),
            ("__add__", "add"),
            ("__iadd__", "add"),
            ("__radd__", "add"),
            ("__imul__", "mul"),
            ("__rsub__", "sub"),
            ("__truediv__", "div"),
            ("__itruediv__", "div"),
            ("__matmul__", "matmul"),
            ("relu", "relu"),
            ("relu_", "relu"),
            ("aten::relu_", "relu"),
            ("aten::_convolution", "conv2d"),
            ("addmm", "linear"),
            ("bmm", "matmul"),
            ("concat", "cat"),
            ("clamp_min_", "clamp"),
            ("aten::upsample_bilinear2d", "interpolate"),
            ("log_softmax", "log_softmax"),
            ("interpolate", "interpolate"),
        ],
    )
    def test_forms_of_an_operation(self, name, canonical):
        assert canonical_op(name) == canonical

    @pytest.mark.parametrize("name", ["__rtruediv__", "aten::__rtruediv__"])
    def test_reflected_division(self, name):
        assert canonical_op(name) == "div"

    @pytest.mark.parametrize(
        "name",
        ["rrelu", "aten::rrelu", "irelu", "radd", "iadd", "dropout", "unknown", "", "_", "__", "____", "aten::"],
    )
    def test_others_are_none(self, name):
        assert canonical_op(name) is None

    @pytest.mark.parametrize(
        "name",
        "view reshape flatten transpose permute squeeze unsqueeze_ contiguous expand slice select split chunk "
        "__getitem__ aten::t size detach clone to".split(),
    )
    def test_what_only_moves_values_is_no_layer(self, name):
        assert canonical_op(name) is None

    def test_canonical_names_stay(self):
        assert {op for op in LAYER_OPS if canonical_op(op) != op} == set()
        assert {op for op in LAYER_OPS if canonical_op(f"aten::{op}_") != op} == set()
