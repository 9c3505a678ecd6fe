"""The commands that analyse stores, as a user meets them."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_stores import LABELS, adversarial_values, random_values, write_store

from fmx.analyze.parts import split_samples
from fmx.store import open_store, saved_analyses

COMMANDS = {
    "stats": "--by label,channel --quantiles 0.1,0.5",
    "hist": "--by noise --bins 8",
    "aggregate": "--over channel,space --how mean",
    "rank": "--per class --top 2",
    "top-samples": "--top 2 --per-class",
    "class-sums": "--n-each-class 2",
    "robustness": "--per layer",
    "health": "",
    "temporal": "--per channel --top 1",
}


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    """A store of two layers, two noise levels and three timesteps, with values that are not finite."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(11, 2, 3, 5)).astype(np.float32)
    values = {"maps": adversarial_values(noise=2, steps=3), "vectors": vectors}
    return write_store(tmp_path_factory.mktemp("made") / "acts.zarr", values, noise=(0.0, 0.5)).path


@pytest.fixture
def copied(acts, tmp_path):
    """A store that may be written to."""
    return shutil.copytree(acts, tmp_path / "acts.zarr")


def rows(ran):
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


@pytest.mark.parametrize("command", [*COMMANDS, "export"])
def test_help_has_an_example_that_the_command_would_take(command, cli):
    ran = cli(command, "--help")
    assert ran.code == 0
    text = " ".join(ran.out.split())
    assert f"Example: fmx {command} " in text
    options = [word for word in text.rpartition("Example:")[2].split() if word.startswith("-")]
    assert all(option in text.rpartition("Example:")[0] for option in options)


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_fit_and_json_is_flat(command, acts, cli):
    words = COMMANDS[command].split()
    table = cli(command, acts, *words)
    assert table.code == 0, table.err
    header = table.out.splitlines()[0].split()
    assert header[0] == "layer"
    assert max(map(len, table.out.splitlines())) <= 140
    found = rows(cli(command, acts, *words, "--json"))
    assert {row["layer"] for row in found} == {"maps", "vectors"}
    assert all(not isinstance(value, dict | list) for row in found for value in row.values())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["csv", "parquet", "npy", "h5"])
def test_results_are_saved_shown_and_exported(command, form, copied, cli, tmp_path):
    words = COMMANDS[command].split()
    saved = cli(command, copied, *words, "--save", "mine")
    assert saved.code == 0, saved.err
    assert "saved as mine" in saved.err
    assert saved_analyses(copied) == ["mine"]
    files = cli("export", copied, "--analysis", "mine", "-o", tmp_path / "out", "--format", form)
    assert files.code == 0, files.err
    listed = [Path(line) for line in files.out.splitlines()]
    assert listed
    assert all(file.is_file() and file.suffix == f".{form}" and file.stat().st_size for file in listed)
    assert {file.name.split(".")[0].split("_")[0] for file in listed} == {"maps", "vectors"}
    if form == "csv":
        assert len(pd.read_csv(listed[0])) > 0


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in {"top-samples", "health"}])
def test_what_is_nan_has_its_count_beside_it(command, acts, cli):
    words = [*COMMANDS[command].split(), "--layers", "maps", "--nan", "keep"]
    table = cli(command, acts, *words)
    assert table.code == 0, table.err
    # Rankings leave out what they would have to call NaN.
    told = {"NaN", "NaN/inf"} & set(table.out.splitlines()[0].split())
    assert told or command in {"rank", "class-sums"}, table.out
    counts = {"nan", "inf", "not_finite", "lost"}
    found = rows(cli(command, acts, *words, "--json"))
    assert all(counts & set(row) for row in found)
    said = cli(command, acts, *words[:-1], "drop")
    assert said.code == 2
    assert "left out (skip) or make results NaN (keep), not 'drop'" in said.err


def test_stats_by_class_with_quantiles(acts, cli):
    array = open_store(acts).activation("vectors").values.astype(float)
    found = rows(
        cli("stats", acts, "--layers", "vectors", "--by", "label", "--quantiles", "0.1,0.5", "--exact", "--json")
    )
    for row, name in zip(found, sorted(set(LABELS)), strict=True):
        part = array[[own == name for own in LABELS]]
        assert row["label"] == name
        assert row["mean"] == pytest.approx(part.mean())
        assert row["median"] == pytest.approx(np.median(part))
        assert row["q0.1"] == pytest.approx(np.quantile(part, 0.1))
    table = cli("stats", acts, "--layers", "vectors", "--by", "label", "--quantiles", "0.1,0.5").out
    assert table.split()[:8] == ["layer", "label", "mean", "std", "min", "max", "q0.1", "median"]


def test_histograms_are_drawn_and_listed_bin_by_bin(acts, cli):
    table = cli("hist", acts, "--layers", "vectors", "--bins", "8").out
    assert "█" in table.splitlines()[1]
    found = rows(cli("hist", acts, "--layers", "vectors", "--bins", "8", "--range", "-1,1", "--json"))
    values = open_store(acts).activation("vectors").values
    assert [row["bin_count"] for row in found] == np.histogram(values, 8, (-1, 1))[0].tolist()
    assert found[-1]["cdf"] == pytest.approx((values <= 1).mean())


def test_maps_go_to_one_file_for_each_layer_and_level(acts, cli, tmp_path):
    ran = cli("aggregate", acts, "--layers", "maps", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert [Path(line).name for line in ran.out.splitlines()] == ["maps_noise0.csv", "maps_noise0.5.csv"]
    values = open_store(acts).activation("maps").values[:, 1]
    table = pd.read_csv(tmp_path / "out" / "maps_noise0.5.csv")
    known = np.where(np.isfinite(values), values, 0).sum(axis=2, dtype=float)
    np.testing.assert_allclose(table["sum"].to_numpy().reshape(known.shape), known, rtol=1e-6)
    assert table["not_finite"].sum() == (~np.isfinite(values)).sum()


def test_activations_are_exported(acts, cli, tmp_path):
    ran = cli("export", acts, "--layers", "vectors", "--noise", "0.5", "--format", "npy", "-o", tmp_path)
    assert ran.code == 0, ran.err
    (file,) = ran.out.split()
    np.testing.assert_array_equal(np.load(file)[:, 0], open_store(acts).activation("vectors").values[:, 1])


def test_ranks_of_held_out_samples(acts, cli):
    found = rows(
        cli("rank", acts, "--layers", "vectors", "--per", "class", "--held-out", "0.5", "--seed", "4", "--json")
    )
    assert all({"precision_held_out", "chance", "votes", "unique", "label", "channel"} <= set(row) for row in found)
    used, _ = split_samples(LABELS, 0.5, 4)
    sizes = {name: sum(u and own == name for u, own in zip(used, LABELS, strict=True)) for name in set(LABELS)}
    assert {row["label"]: row["samples"] for row in found} == sizes


MISTAKES = [
    ("stats STORE --by chanel", "did you mean channel"),
    ("stats STORE --quantiles 2", "quantiles are numbers from 0 to 1"),
    ("stats STORE --quantiles half", "--quantiles takes numbers"),
    ("stats PART", "--allow-partial"),
    ("hist STORE --range 3", "two numbers"),
    ("hist STORE --bins 0", "1 to 1024 bins"),
    ("aggregate STORE --how average", "by average"),
    ("aggregate STORE --over chanel", "did you mean channel"),
    ("rank STORE --by biggest", "by biggest"),
    ("rank STORE --per category", "all, class or sample"),
    ("rank STORE --layers mapz", "did you mean maps"),
    ("rank STORE --noise 0.1", "no noise level 0.1"),
    ("rank UNLABELLED --per class", "have no labels"),
    ("rank UNLABELLED --held-out 0.5", "have no labels"),
    ("top-samples STORE --top 0", "At least one sample"),
    ("top-samples STORE --channels one", "--channels takes numbers"),
    ("top-samples STORE --channels 0,99", "has a channel 99: there are channels up to 5"),
    ("class-sums UNLABELLED", "have no labels"),
    ("robustness UNLABELLED", "no noise level beside 0"),
    ("temporal UNLABELLED", "one timestep"),
    ("health PART", "--allow-partial"),
    ("export STORE -o out", "no saved results"),
    ("export STORE -o out --analysis stats", "No results called stats"),
    ("export STORE -o out --layers maps --format xls", "Nothing is written as xls"),
    ("health STORE --save a/b", "under a name of letters"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_mistakes(words, said, acts, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "UNLABELLED" in words:
        write_store("UNLABELLED", {"maps": random_values()}, labels=[""] * 11)
    if "PART" in words:
        write_store("PART", {"maps": random_values()}, units=[0])
    ran = cli(*(str(acts) if word == "STORE" else word for word in words.split()))
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("fmx: ")
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", COMMANDS)
def test_unfinished_stores_are_analysed_when_asked(command, cli, tmp_path):
    values = {"maps": random_values(noise=2, steps=2), "vectors": random_values(noise=2, steps=2)[..., 0, 0]}
    part = write_store(tmp_path / "part", values, noise=(0.0, 0.5), units=[0, 1])
    ran = cli(command, part.path, *COMMANDS[command].split(), "--allow-partial", "--save", "mine")
    assert ran.code == 0, ran.err
    assert "8 of 11 samples are analysed" in ran.err
    assert open_store(part.path).samples == part.samples


def test_values_that_are_not_finite_are_shown(acts, cli):
    for command, heading in (("stats", "NaN"), ("rank", "NaN/inf"), ("top-samples", "NaN"), ("robustness", "NaN/inf")):
        assert heading in cli(command, acts, "--layers", "maps").out.splitlines()[0]
        assert heading not in cli(command, acts, "--layers", "vectors").out.splitlines()[0]


def test_receptive_fields_of_a_model(cli, kit, monkeypatch, tmp_path):
    monkeypatch.chdir(kit)
    words = ["extract", "legacy.onnx", "pictures", "-o", tmp_path / "s", "--layers", "stem,layer1.0.bn1,fc"]
    assert cli(*words, "--range", "0,255").code == 0
    ran = cli("top-samples", tmp_path / "s", "--model", "legacy.onnx", "--json", "-k", "2")
    for row in rows(ran):
        if row["layer"] == "fc":
            assert "y0" not in row or row["y0"] is None or math.isnan(row["y0"])
            continue
        # The stem has one 3×3 convolution at stride 2, padded by 1; the next layer one at stride 1 on top of it.
        size, offset = (3, -1) if row["layer"] == "stem" else (7, -3)
        for axis in "yx":
            first = 2 * row[axis] + offset
            assert (row[f"{axis}0"], row[f"{axis}1"]) == (max(first, 0), min(first + size, 32))
    assert "approximate" in cli("top-samples", tmp_path / "s").err
    other = cli("top-samples", tmp_path / "s", "--model", "networks:tiny_resnet", "--layers", "stem")
    assert "not the one" in other.err


# -- real ------------------------------------------------------------------------------------------


@pytest.mark.real
def test_channels_of_a_real_network_tell_all_ten_classes_of_held_out_pictures(cli, real, tmp_path):
    model = real / "models" / "cifar10_cnn_traced.pt"
    words = [
        "extract",
        model,
        real / "images" / "cifar10",
        "-o",
        tmp_path / "s",
        "--layers",
        "16,26",
        "--range",
        "0,255",
    ]
    assert cli(*words).code == 0
    rank = ["rank", tmp_path / "s", "--per", "class", "--by", "precision", "--top", "1", "--held-out", "0.5", "--json"]
    found = rows(cli(*rank))
    assert len(found) == 20
    for row in found:
        # 50 pictures of each class are held out: 0.1 by chance, with a standard deviation of 0.04.
        assert row["chance"] == pytest.approx(0.1)
        assert row["precision_held_out"] > 0.1 + 3 * 0.04, row
    sums = rows(cli("class-sums", tmp_path / "s", "--layers", "26", "--held-out", "0.5", "--json"))
    right = [own["own"] == own["largest"] for own in {row["sample"]: row for row in sums}.values()]
    assert len(right) == 500
    assert sum(right) / 500 > 0.6


def test_one_row_for_each_class_and_sample(acts, cli):
    found = rows(cli("class-sums", acts, "--layers", "vectors", "--json"))
    assert len(found) == 11 * 3
    for _, own in itertools.groupby(found, key=lambda row: row["sample"]):
        sums = {row["label"]: row["sum"] for row in own}
        assert set(sums) == set(LABELS)


def test_long_tables_show_their_head_and_say_how_to_see_more(acts, cli):
    words = ["stats", acts, "--by", "sample,channel,noise"]
    ran = cli(*words)
    assert len(ran.out.splitlines()) == 1 + 40
    assert "these are 40 of 242 rows: --rows all or --json shows them all" in ran.err
    assert len(cli(*words, "--rows", "7").out.splitlines()) == 1 + 7
    whole = cli(*words, "--rows", "all")
    assert len(whole.out.splitlines()) == 1 + 242
    assert "rows" not in whole.err
    assert len(rows(cli(*words, "--json"))) == 242
    for wrong in ("0", "some", "-1", "1.5"):
        assert "--rows takes a number from 1 on, or all" in cli(*words, "--rows", wrong).err


def test_statistics_and_histograms_of_a_training_by_epoch_and_step(cli, tmp_path):
    more = {"epoch": [0] * 5 + [1] * 6, "step": [1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4]}
    values = random_values()
    store = write_store(tmp_path / "s", {"maps": values}, more_labels=more).path
    found = rows(cli("stats", store, "--by", "epoch,step", "--json"))
    assert [(row["epoch"], row["step"]) for row in found] == [(0, 1), (0, 2), (1, 3), (1, 4)]
    assert found[2]["mean"] == pytest.approx(values[5:9].mean(dtype=float))
    assert cli("stats", store, "--by", "epoch", "--save", "mine").out.split()[:2] == ["layer", "epoch"]
    assert len(cli("hist", store, "--by", "step").out.splitlines()) == 1 + 4
    assert "did you mean epoch" in cli("stats", store, "--by", "epochs").err


def test_classes_without_channels_of_their_own_are_named(cli, tmp_path):
    labels = ["a", "a", "b", "b", "c", "c"]
    values = np.zeros((6, 1, 1, 3), np.float32)
    # b's strongest channel is a's, too; c has one for itself.
    values[:, 0, 0] = [[9, 0, 0], [9, 0, 0], [5, 1, 0], [5, 1, 0], [1, 0, 7], [1, 0, 7]]
    store = write_store(tmp_path / "s", {"fc": values}, labels=labels).path
    ran = cli("class-sums", store, "--n-each-class", "1")
    assert "fc: no channels of their own for a, b" in ran.err
    lines = [line.split() for line in ran.out.splitlines()[1:]]
    assert lines[:2] == [["fc", "a", "0"], ["fc", "b", "0"]]
    assert lines[2] == ["fc", "c", "1", "7", "0", "2", "of", "2"]
    assert "no channels" not in cli("class-sums", store, "--n-each-class", "1", "--shared").err
    alone = write_store(tmp_path / "t", {"fc": values[:, :, :, :1]}, labels=labels).path
    nothing = cli("rank", alone, "--per", "class", "--unique", "--top", "1")
    assert (nothing.code, nothing.out) == (0, "")
    assert "there is nothing to list" in nothing.err
