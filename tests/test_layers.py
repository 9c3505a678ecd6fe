"""Layers: what is known of them and how some are picked, against a matcher that goes segment by segment."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.errors import LayerError
from fmx.layers import LayerInfo, auto_layers, native_dims, parse_patterns, said_layer, select_layers


def layer(name, kind="Conv2d", shape=(4, 8, 8), dtype="float32"):
    return LayerInfo(name, kind, native_dims(shape, kind), tuple(shape), dtype)


def resnet_like():
    """Name the values of a ResNet with one block a stage, at their resolutions for 224 pixels."""
    found = [
        layer("conv1", "Conv2d", (64, 112, 112)),
        layer("bn1", "BatchNorm2d", (64, 112, 112)),
        layer("relu", "ReLU", (64, 112, 112)),
        layer("maxpool", "MaxPool2d", (64, 56, 56)),
    ]
    for stage, (channels, side) in enumerate([(64, 56), (128, 28), (256, 14), (512, 7)], 1):
        shape = (channels, side, side)
        found += [
            layer(f"layer{stage}.0.conv1", "Conv2d", shape),
            layer(f"layer{stage}.0.relu", "ReLU", shape),
            layer(f"layer{stage}.0.add", "add", shape),
            layer(f"layer{stage}.0.relu:2", "ReLU", shape),
            layer(f"layer{stage}.0", "BasicBlock", shape),
            layer(f"layer{stage}", "Sequential", shape),
        ]
    return [*found, layer("avgpool", "AdaptiveAvgPool2d", (512, 1, 1)), layer("fc", "Linear", (1000,))]


LAYERS = resnet_like()
NAMES = [info.name for info in LAYERS]


def names(patterns, layers=LAYERS):
    return [info.name for info in select_layers(layers, patterns)]


class TestLayerInfo:
    @pytest.mark.parametrize(
        ("shape", "dtype", "nbytes"),
        [((4, 8, 8), "float32", 1024), ((10,), "float64", 80), ((2, 3, 4, 5), "float16", 240), ((), "int64", 8)],
    )
    def test_bytes_of_one_sample(self, shape, dtype, nbytes):
        assert layer("a", shape=shape, dtype=dtype).nbytes == nbytes

    @pytest.mark.parametrize(
        ("shape", "kind", "spatial"),
        [
            ((4, 8, 9), "Conv2d", (8, 9)),
            ((4, 3, 8, 9), "Conv3d", (3, 8, 9)),
            ((4, 9), "Conv1d", (9,)),
            ((197, 768), "Encoder", ()),
            ((10,), "Linear", ()),
        ],
    )
    def test_spatial_lengths(self, shape, kind, spatial):
        assert layer("a", kind, shape).spatial == spatial

    @pytest.mark.parametrize(
        ("shape", "kind", "dims"),
        [
            ((), "sum", ()),
            ((10,), "Linear", ("channel",)),
            ((197, 768), "LayerNorm", ("token", "channel")),
            ((16, 100), "BatchNorm1d", ("channel", "x")),
            ((3, 4, 5), "Conv2d", ("channel", "y", "x")),
            ((3, 2, 4, 5), "Conv3d", ("channel", "z", "y", "x")),
            ((1, 2, 3, 4, 5), "view", ("dim_0", "dim_1", "dim_2", "dim_3", "dim_4")),
        ],
    )
    def test_names_of_axes(self, shape, kind, dims):
        assert native_dims(shape, kind) == dims

    @pytest.mark.parametrize(
        ("shape", "roles", "dims"),
        [
            ((56, 56, 96), ("y", "x", "channel"), ("y", "x", "channel")),
            ((56, 56, 96), ("", "", "channel"), ("y", "x", "channel")),
            ((4, 9, 9, 96), ("", "", "", "channel"), ("z", "y", "x", "channel")),
            ((49, 96), ("", "channel"), ("token", "channel")),
            ((96, 49), ("channel", ""), ("channel", "token")),
            ((3, 4, 5), ("", "", ""), ("channel", "y", "x")),
            ((3, 4, 5), (), ("channel", "y", "x")),
            ((3, 4, 5), ("", "y", "x"), ("channel", "y", "x")),
            ((4, 5), ("y", "x"), ("y", "x")),
            ((64, 49, 96), ("token", "token", "channel"), ("window", "token", "channel")),
            ((1, 49, 96), ("", "token", "channel"), ("window", "token", "channel")),
            ((1, 3, 49, 49), ("x", "head", "token", "key"), ("window", "head", "token", "key")),
            ((3, 49, 32), ("head", "", "channel"), ("head", "token", "channel")),
            ((3, 32, 32), ("head", "channel", "channel"), ("head", "channel", "dim_2")),
            ((2, 3, 4, 5), ("", "channel", "y", "x"), ("dim_0", "channel", "y", "x")),
            ((7,), ("token",), ("token",)),
            ((7,), ("sample",), ("channel",)),
        ],
    )
    def test_names_of_axes_with_roles(self, shape, roles, dims):
        assert native_dims(shape, "", roles) == dims


class TestAuto:
    def test_tokens_of_a_map_are_of_its_resolution(self):
        maps = LayerInfo("maps", "Conv2d", ("y", "x", "channel"), (4, 4, 8), "float32")
        tokens = LayerInfo("tokens", "Linear", ("token", "channel"), (16, 8), "float32")
        more = LayerInfo("more", "cat", ("token", "channel"), (17, 8), "float32")
        assert auto_layers([maps, tokens, more]) == [tokens, more]

    def test_what_is_inside_attention_is_left_out(self):
        dims = [("head", "token", "channel"), ("window", "token", "channel"), ("head", "token", "key")]
        inside = [LayerInfo(f"a{i}", "mul", names, (3, 16, 8), "float32") for i, names in enumerate(dims)]
        tokens = LayerInfo("tokens", "Linear", ("token", "channel"), (16, 8), "float32")
        assert auto_layers([tokens, *inside]) == [tokens]

    def test_resnet_gives_stem_and_stages(self):
        assert names("auto") == ["relu", "layer1", "layer2", "layer3", "layer4"]

    def test_last_output_of_each_resolution(self):
        maps = [layer("a", shape=(4, 8, 8)), layer("b", shape=(4, 4, 4)), layer("c", shape=(9, 8, 8))]
        assert [info.name for info in auto_layers(maps)] == ["b", "c"]

    def test_a_number_of_tokens_is_a_resolution(self):
        vit = [
            layer("conv", shape=(8, 4, 4)),
            *(layer(n, "Block", (17, 8)) for n in ("a", "b")),
            layer("fc", shape=(5,)),
        ]
        assert [info.resolution for info in vit] == [(4, 4), (17,), (17,), ()]
        assert names("auto", vit) == ["conv", "b"]

    @pytest.mark.parametrize("kind", ["ZeroPad2d", "ReflectionPad1d", "ConstantPad3d", "Pad"])
    def test_padding_is_no_resolution(self, kind):
        maps = [layer("a", shape=(4, 8, 8)), layer("pad", kind, (4, 10, 10)), layer("b", shape=(4, 4, 4))]
        assert [info.name for info in auto_layers(maps)] == ["a", "b"]

    def test_without_maps_the_last_of_each_shape(self):
        flat = [layer("a", "Linear", (8,)), layer("b", "ReLU", (8,)), layer("c", "Linear", (3,))]
        assert [info.name for info in auto_layers(flat)] == ["b", "c"]

    def test_single_positions_alone_fall_back_too(self):
        flat = [layer("pool", "AdaptiveAvgPool2d", (8, 1, 1)), layer("fc", "Linear", (3,))]
        assert [info.name for info in auto_layers(flat)] == ["pool", "fc"]

    def test_auto_with_more(self):
        assert names("auto,fc") == ["relu", "layer1", "layer2", "layer3", "layer4", "fc"]


@pytest.mark.parametrize(
    ("name", "alone", "with_kind"),
    [
        ("22", "layer 22", "22 · ReLU"),
        ("0.1", "layer 0.1", "0.1 · ReLU"),
        ("6:2", "layer 6:2", "6:2 · ReLU"),
        ("layer1.0", "layer1.0", "layer1.0"),
        ("", "", ""),
    ],
)
def test_bare_numbers_are_said_to_be_layers(name, alone, with_kind):
    assert said_layer(name) == alone
    assert said_layer(name, "ReLU") == with_kind


class TestParsing:
    @pytest.mark.parametrize(
        ("given_patterns", "parsed"),
        [
            ("a, b ,,c", ["a", "b", "c"]),
            ("a,re:b{1,2},c", ["a", "re:b{1,2},c"]),
            ("a,!re:b{1,2}", ["a", "!re:b{1,2}"]),
            (["a,b", "re:x,y", "!c"], ["a", "b", "re:x,y", "!c"]),
            ("core:2", ["core:2"]),
            ("a,layer1.score:3,b", ["a", "layer1.score:3", "b"]),
            ("", []),
        ],
    )
    def test_splits_at_commas_but_not_in_expressions(self, given_patterns, parsed):
        assert parse_patterns(given_patterns) == parsed


class TestSelection:
    def test_names_come_in_order_of_computation_and_once(self):
        assert names("fc,conv1,fc,conv*") == ["conv1", "fc"]

    def test_a_list_selects_as_a_string_does(self):
        assert names(["conv1", "layer*"]) == names("conv1,layer*")

    def test_star_stays_in_its_segment(self):
        assert names("layer*") == ["layer1", "layer2", "layer3", "layer4"]
        assert names("layer1.*") == ["layer1.0"]
        assert names("*.0.conv1") == [f"layer{i}.0.conv1" for i in range(1, 5)]
        assert names("layer[12].?") == ["layer1.0", "layer2.0"]

    def test_negated_class(self):
        assert names("layer[!12]") == ["layer3", "layer4"]

    def test_two_stars_cross_dots(self):
        assert names("**.conv1") == ["conv1", *(f"layer{i}.0.conv1" for i in range(1, 5))]
        assert names("layer1.**.conv1") == ["layer1.0.conv1"]
        assert names("layer1.**.0") == ["layer1.0"]
        assert names("layer1.**") == [n for n in NAMES if n.startswith("layer1.")]
        assert names("**") == names("all") == NAMES

    def test_kinds(self):
        assert names("kind:Linear") == ["fc"]
        assert names("kind:*Pool2d") == ["maxpool", "avgpool"]
        assert names("kind:relu,kind:ReLU", [layer("a", "relu"), layer("b", "ReLU")]) == ["a", "b"]
        assert names("kind:ReLU", [layer("a", "relu"), layer("b", "ReLU")]) == ["b"]

    def test_expressions_match_whole_names_and_may_hold_commas(self):
        assert names(r"re:layer\d") == ["layer1", "layer2", "layer3", "layer4"]
        assert names(r"fc,re:la.{2,3}r[12]") == ["layer1", "layer2", "fc"]

    def test_exclusions(self):
        assert names("layer*,!layer2") == ["layer1", "layer3", "layer4"]
        assert names("!layer2,layer*") == ["layer1", "layer3", "layer4"]
        assert names(r"layer*,!re:layer[12]{1,1}") == ["layer3", "layer4"]

    def test_excluding_alone_starts_from_all(self):
        assert names("!**.conv1,!kind:ReLU") == [i.name for i in LAYERS if "conv1" not in i.name and i.kind != "ReLU"]

    @pytest.mark.parametrize("name", ["layer1.0.relu:2", "core:2", "torch/score:0", "x[0]"])
    def test_every_name_selects_itself_alone(self, name):
        others = [layer(n) for n in ("x0", "layer1.0.relu", "core", "2", "0")]
        assert names([name], [*others, layer(name)]) == [name]


class TestMistakes:
    @pytest.mark.parametrize(
        ("patterns", "sentence"),
        [
            ("layer5", "No layer is called layer5: did you mean .*layer4"),
            ("layer1.0.convv1", r"did you mean layer1\.0\.conv1"),
            ("kind:Conv2", "No layer is of kind Conv2: did you mean Conv2d"),
            ("zzz", r"there are conv1, bn1, relu, maxpool, … \(\d+ in all\)"),
            ("re:(", "is not a regular expression"),
            ("all,!all", "leaves no layer"),
            ("fc,!nothing", "No layer is called nothing"),
            ("fc,nothing", "No layer is called nothing"),
            ("", "No layers asked for"),
            (" , ", "No layers asked for"),
        ],
    )
    def test_says_what_exists(self, patterns, sentence):
        with pytest.raises(LayerError, match=sentence):
            select_layers(LAYERS, patterns)

    def test_an_exclamation_mark_alone(self):
        with pytest.raises(LayerError):
            select_layers(LAYERS, "!")


# -- globs, against a slow reference ---------------------------------------------------------------


def slow_segment(pattern, text):
    """Match one segment, a character at a time."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return slow_segment(pattern[1:], text) or (text != "" and slow_segment(pattern, text[1:]))
    return text != "" and pattern[0] in ("?", text[0]) and slow_segment(pattern[1:], text[1:])


def slow_glob(pattern, name):
    """Match segment by segment; ``**`` takes any number of them, at least one at the end."""
    if not pattern or not name:
        return not pattern and not name
    if pattern[0] == "**":
        takes = range(1, len(name) + 1) if len(pattern) == 1 else range(len(name) + 1)
        return any(slow_glob(pattern[1:], name[i:]) for i in takes)
    return slow_segment(pattern[0], name[0]) and slow_glob(pattern[1:], name[1:])


SEGMENTS = st.text("ab0:", min_size=1, max_size=3)
DOTTED = st.lists(SEGMENTS, min_size=1, max_size=4)
GLOBS = st.lists(st.one_of(st.just("**"), st.text("ab0:*?", min_size=1, max_size=3)), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(DOTTED, min_size=1, max_size=12, unique_by=tuple), GLOBS)
def test_globs_match_like_the_reference(dotted, pattern):
    # A doubled star inside a longer segment is a star.
    pattern = [p if p == "**" else re.sub(r"\*+", "*", p) for p in pattern]
    wanted = [".".join(d) for d in dotted if slow_glob(pattern, d)]
    layers = [layer(".".join(d)) for d in dotted]
    if wanted:
        assert names(".".join(pattern), layers) == wanted
    else:
        with pytest.raises(LayerError):
            select_layers(layers, ".".join(pattern))


@settings(deadline=None)
@given(st.lists(st.sampled_from([*NAMES, "layer*", "**.relu", "kind:Conv2d", "auto", "!fc", "!layer1.**"]), min_size=1))
def test_result_keeps_the_order_and_repeats_nothing(patterns):
    chosen = names([*patterns, "conv1"])
    assert len(set(chosen)) == len(chosen)
    assert [NAMES.index(n) for n in chosen] == sorted(NAMES.index(n) for n in chosen)
