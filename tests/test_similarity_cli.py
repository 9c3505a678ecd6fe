"""The commands that compare stores and layers, as a user meets them."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from small_stores import write_store

from fmx.analyze.compare import compare
from fmx.analyze.likeness import similarity
from fmx.cli.app import app
from fmx.cli.matrix import print_matrix
from fmx.cli.similarity import register_comparisons
from fmx.store import open_analysis, open_store

N = 20
LABELS = ["cat", "dog"] * (N // 2)
COMMANDS = ("compare", "similarity", "decompose", "information")

if "similarity" not in {(c.name or c.callback.__name__) for c in app.registered_commands}:
    register_comparisons(app)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores of three layers and two noise levels, and an unfinished one."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("stores")
    maps = rng.normal(size=(N, 2, 1, 6, 4, 3))
    maps[::2, 0, 0, 2] += 3
    values = {"maps": maps.astype("f4"), "flat": rng.normal(size=(N, 2, 1, 5)).astype("f4")}
    values["still"] = np.ones((N, 2, 1, 4), "f4")
    other = {name: (v + 0.1 * rng.normal(size=v.shape)).astype("f4") for name, v in values.items()}
    other["flat"] = other["flat"][..., ::-1]
    for name, own, units in (("a", values, None), ("b", other, None), ("part", values, (0, 1, 2))):
        write_store(folder / f"{name}.zarr", own, labels=LABELS, noise=(0.0, 0.5), units=units)
    return folder


@pytest.fixture
def here(stores, tmp_path, monkeypatch):
    shutil.copytree(stores, tmp_path / "s")
    monkeypatch.chdir(tmp_path / "s")


def rows(ran):
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_the_command_would_take(command, cli):
    text = " ".join(cli(command, "--help").out.split())
    assert f"Example: fmx {command} " in text
    options = [word for word in text.rpartition("Example:")[2].split() if word.startswith("-")]
    assert all(option in text.rpartition("Example:")[0] for option in options)


@pytest.mark.usefixtures("here")
class TestSimilarity:
    def test_a_matrix(self, cli):
        ran = cli("similarity", "a.zarr")
        header, *lines = ran.out.splitlines()
        assert header.split() == ["layer", "#", "1", "2", "3"]
        assert [line.split()[:2] for line in lines] == [["maps", "1"], ["flat", "2"], ["still", "3"]]
        wanted = similarity(open_store("a.zarr")).similarity.values
        assert lines[0].split()[2:] == ["1.00", f"{wanted[0, 0, 1, 0]:.2f}", "–"]
        assert "cka-linear unbiased of 20 samples" in ran.err
        assert "a dash" in ran.err

    def test_rows(self, cli):
        found = rows(cli("similarity", "a.zarr", "--noise", "all", "--layers", "maps,flat", "--json"))
        assert len(found) == 16
        wanted = similarity(open_store("a.zarr"), noise="all").similarity
        for row in found:
            labels = {key: row[key] for key in ("layer", "noise", "other_layer", "other_noise")}
            assert row["similarity"] == pytest.approx(wanted.sel(labels).item())
            assert row["undefined"] is False
            assert row["nan"] == 0

    def test_two_stores_and_noise(self, cli):
        ran = cli("similarity", "a.zarr", "b.zarr", "--layers", "flat", "--other-layers", "maps,flat", "--noise", "all")
        assert ran.out.splitlines()[0] == "column 1: maps @0"
        assert ran.out.splitlines()[-1].startswith("flat @0.5")

    @pytest.mark.parametrize("method", ["cka-rbf", "svcca", "pwcca", "rsa"])
    def test_other_measures(self, cli, method):
        ran = cli("similarity", "a.zarr", "--method", method, "--layers", "maps,flat")
        assert ran.code == 0, ran.err
        assert method in ran.err

    def test_saved(self, cli):
        assert cli("similarity", "a.zarr", "--save", "alike").code == 0
        saved = open_analysis(open_store("a.zarr").tree, "alike")
        wanted = similarity(open_store("a.zarr"))
        assert list(saved) == ["flat", "maps", "still"] or set(saved) == {"flat", "maps", "still"}
        for name, dataset in saved.items():
            np.testing.assert_allclose(dataset.similarity.values, wanted.similarity.sel(layer=name).values)


@pytest.mark.usefixtures("here")
class TestCompare:
    def test_a_table(self, cli):
        ran = cli("compare", "a.zarr", "b.zarr", "--noise", "0")
        assert ran.out.splitlines()[0].split()[:3] == ["layer", "rel.", "L2"]
        assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ["maps", "flat", "still"]

    def test_rows(self, cli):
        wanted = compare(open_store("a.zarr"), open_store("b.zarr"))
        for row in rows(cli("compare", "a.zarr", "b.zarr", "--json")):
            data = wanted[row["layer"]].sel(noise=row["noise"])
            assert row["layer_rmse"] == pytest.approx(data.layer_rmse.item())
            assert row["moved"] == (4 if row["layer"] == "flat" else 0)
        found = rows(cli("compare", "a.zarr", "b.zarr", "--json", "--per", "channel", "--layers", "flat"))
        assert [row["match"] for row in found] == [4, 3, 2, 1, 0] * 2 or {row["channel"] for row in found} == set(
            range(5)
        )
        for row in found:
            assert row["match"] == 4 - row["channel"]

    def test_pairs_of_layers(self, cli):
        ran = cli("compare", "a.zarr", "b.zarr", "--map", "maps=flat", "--noise", "0")
        assert ran.out.splitlines()[0].split()[:3] == ["layer", "other", "layer"]
        assert "the shapes differ" in ran.err

    def test_maps_are_saved(self, cli):
        assert cli("compare", "a.zarr", "b.zarr", "--maps", "--save", "diff").code == 0
        saved = open_analysis(open_store("a.zarr").tree, "diff")
        assert saved["maps"].difference_map.dims == ("noise", "channel", "y", "x")
        assert "--save" in cli("compare", "a.zarr", "b.zarr", "--maps").err


@pytest.mark.usefixtures("here")
class TestDecompose:
    def test_principal_components(self, cli):
        ran = cli("decompose", "a.zarr", "--components", "3", "--save", "pca")
        assert ran.out.splitlines()[0].split()[:4] == ["layer", "channels", "components", "share"]
        saved = open_analysis(open_store("a.zarr").tree, "pca")
        assert saved["maps"].coordinates.shape == (N, 3)
        found = rows(cli("decompose", "a.zarr", "--components", "3", "--json", "--layers", "maps"))
        np.testing.assert_allclose([r["explained_ratio"] for r in found], saved["maps"].explained_ratio.values)
        assert found[0]["channels"][0] == 2

    def test_factors_and_maps(self, cli):
        ran = cli("decompose", "a.zarr", "--method", "nmf", "--clip", "--components", "2", "--layers", "maps")
        assert "clipped" in ran.out.splitlines()[0]
        found = rows(cli("decompose", "a.zarr", "--method", "tsne", "--layers", "maps", "--json"))
        assert [row["channel"] for row in found] == list(range(6))
        assert {"x", "y"} <= set(found[0])


@pytest.mark.usefixtures("here")
class TestInformation:
    def test_a_table_and_rows(self, cli):
        ran = cli("information", "a.zarr", "--bins", "4")
        header, first, *_ = ran.out.splitlines()
        assert header.split() == ["layer", "best", "channel", "its", "bits", "mean", "bits", "by", "chance", "samples"]
        assert first.split()[:2] == ["maps", "2"]
        assert "about label (1 bits)" in ran.err
        found = rows(cli("information", "a.zarr", "--bins", "4", "--json", "--noise", "all", "--layers", "maps"))
        assert len(found) == 12
        assert max(found, key=lambda row: row["information"])["channel"] == 2

    def test_by_channel(self, cli):
        ran = cli("information", "a.zarr", "--bins", "4", "--per", "channel", "--of", "component", "--layers", "maps")
        assert ran.out.splitlines()[0].split()[:3] == ["layer", "noise", "component"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("similarity a.zarr --method cca", "There is no measure cca"),
        ("similarity a.zarr --noise much", "--noise takes numbers"),
        ("similarity a.zarr --samples 3", "at least 4 samples"),
        ("similarity a.zarr --layers nothing", "No layer is called nothing"),
        ("similarity a.zarr missing.zarr", "There is no store missing.zarr"),
        ("similarity part.zarr", "--allow-partial"),
        ("compare a.zarr part.zarr", "--allow-partial"),
        ("compare a.zarr b.zarr --map maps", "--map takes key=value"),
        ("compare a.zarr b.zarr --map maps=none", "No layer is called none"),
        ("compare a.zarr b.zarr --per pixel", "--per takes layer or channel"),
        ("decompose a.zarr --method nmf", "--clip"),
        ("decompose part.zarr", "--allow-partial"),
        ("information a.zarr --about brightness", "holds no pictures"),
        ("information a.zarr --per pixel", "--per takes layer or channel"),
        ("information part.zarr", "--allow-partial"),
    ],
    ids=str,
)
def test_one_sentence_for_every_mistake(words, told, cli):
    ran = cli(*words.split())
    assert ran.code == 2
    assert told in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not ran.out


@pytest.mark.usefixtures("here")
def test_what_is_there_of_an_unfinished_store(cli):
    for words in ("similarity part.zarr", "compare a.zarr part.zarr", "decompose part.zarr"):
        ran = cli(*words.split(), "--allow-partial")
        assert ran.code == 0, ran.err
        assert "12 of 20 samples are analysed" in ran.err


def test_a_wide_matrix_is_cut_for_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    names = [f"layer{i}" for i in range(12)]
    print_matrix(names, names, [[i / 100 - 0.003 for i in range(12)] for _ in names], "layer")
    lines = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 60
    assert sum("layer11" in line for line in lines) == 2
    assert " 0.11" in "".join(lines)
    assert "-0.00" not in "".join(lines)


@pytest.mark.real
def test_the_same_network_in_two_formats(real, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in (("a", "cifar10_cnn_traced.pt"), ("b", "cifar10_cnn_legacy.onnx")):
        words = ("--layers", "12,20,29", "--range", "0,255", "--noise", "0,0.3")
        ran = cli("extract", real / "models" / file, real / "images/cifar10/cat", "-o", f"{name}.zarr", *words)
        assert ran.code == 0, ran.err
    for row in rows(cli("compare", "a.zarr", "b.zarr", "--json")):
        assert row["layer_relative_l2"] < 1e-5
        assert row["layer_match_correlation"] > 0.9999
        assert row["moved"] == 0
    found = {
        (r["layer"], r["other_layer"]): r["similarity"] for r in rows(cli("similarity", "a.zarr", "b.zarr", "--json"))
    }
    assert found["12", "12"] == pytest.approx(1, abs=1e-5)
    assert found["12", "20"] > found["12", "29"]
