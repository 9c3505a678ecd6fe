"""The pages of workflows, run as they stand there, on fewer and smaller pictures and without downloads."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("workflows/*.md"))
PICTURES = re.compile(r"\]\(([^)]+)\)")
# Pages download weights that tests must not; the pictures need not be large for commands to be tried.
SMALLER = {" --weights DEFAULT": "", "--size 256 --crop 224": "--size 96", "--size 224": "--size 96"}


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """Give the commands and Python blocks of a page, in their order."""
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", page.read_text(), flags=re.DOTALL):
        if language == "python":
            yield language, block
        else:
            yield from ((language, line) for line in block.splitlines())


def run(page: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run all steps of a page here, and give their number."""
    from fmx.cli import main

    done = 0
    names: dict[str, object] = {}
    for language, step in steps(DOCS / "workflows" / f"{page}.md"):
        done += 1
        if language == "python":
            exec(compile(step, f"{page}.md", "exec"), names)
            continue
        command = step
        for long, short in SMALLER.items():
            command = command.replace(long, short)
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        try:
            main()
        except SystemExit as end:
            assert not end.code, step
    return done


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the index makes, with fewer tiles in them."""
    folder = tmp_path_factory.mktemp("workflows")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for _, block in steps(DOCS / "workflows" / "index.md"):
            exec(compile(block, "index.md", "exec"), {})
    finally:
        os.chdir(before)
    assert len(list(folder.glob("textures/*/*.png"))) == 6 * 16
    for tile in folder.glob("textures/*/*.png"):
        if tile.stem not in {"01", "05", "10", "14"}:
            tile.unlink()
    return folder


@pytest.fixture
def here(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures in it, as the current one."""
    for name in ("photos", "textures", "clips"):
        shutil.copytree(pictures / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def drawn(folder: Path) -> dict[str, list[str]]:
    """Give the files of each folder of pictures, and see that its index lists them."""
    found = {}
    for index in sorted(folder.glob("*/*/index.csv")):
        files = sorted(f.name for f in index.parent.iterdir() if f.name != "index.csv")
        assert sorted(pd.read_csv(index)["file"]) == files
        found[index.parent.name] = files
    return found


def test_noise(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("noise", monkeypatch) >= 9
    depth = pd.read_csv(here / "depth003.csv", index_col=0)
    table = pd.read_csv(here / "depths" / "_blocks.11._swish_noise0.2.csv")
    same = table[(table["sample"] == "chelsea.png") & (table["channel"] == 3)]["activation"]
    assert depth.to_numpy().ravel() == pytest.approx(same.to_numpy())
    assert len(list((here / "sums").glob("*.csv"))) == 5 * 6  # layers × levels
    made = drawn(here / "out")
    assert len(made["gray"]) == 3 * 4  # levels × pages
    assert len(made["histograms"]) == 3
    assert len(made["over-depth"]) == 1


def test_frames(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("frames", monkeypatch) >= 11
    assert len(pd.read_csv(here / "tables" / "statistics" / "features.1.csv")) == 64  # channels
    made = drawn(here / "out")
    assert [len(made[name]) for name in ("frames", "values", "filter", "layer", "clipped", "equalised", "top")] == [
        8,
        8,
        1,
        1,
        1,
        1,
        1,
    ]
    assert made["film"][0].endswith(".avi")
    differences = [line for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"[0-9.]+(e-\d+)?", line)]
    assert len(differences) == 1
    assert float(differences[0]) < 1e-3


def test_classes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fmx

    assert run("classes", monkeypatch) >= 10
    made = drawn(here / "out")
    assert set(made) == {"best", "unique", "sums", "top-maps", "one-map", "top-samples"}
    assert len(made["top-maps"]) == 1  # where a class has channels of its own is up to the pictures
    ranking = fmx.open_store("classes.zarr").tree["analysis/unique"]
    assert ranking.groups


def test_deconvnet(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("deconvnet", monkeypatch) >= 8
    made = drawn(here / "deconv")
    assert set(made) == {"one", "twentieth", "all", "strongest", "each", "film", "top"}
    with Image.open(next((here / "deconv").glob("*/film/*.gif"))) as film:
        assert 2 < film.n_frames <= 12


def test_video(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fmx

    assert run("video", monkeypatch) >= 10
    made = drawn(here / "out")
    assert len(made["plots"]) == 4
    assert len(made["half"]) == len(made["steps"]) == 1
    assert list(fmx.open_store("training.zarr").tree["epoch"].values) == [0, 1, 2, 3]


def test_pictures_and_links_are_there() -> None:
    assert len(PAGES) == 6
    shown = set()
    for page in PAGES:
        targets = [t for t in PICTURES.findall(page.read_text()) if "://" not in t]
        assert targets, page
        for target in targets:
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve()
            assert path.is_file(), (page, target)
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target
            shown |= {path} & set(DOCS.glob("images/workflows/*"))
    assert shown == set(DOCS.glob("images/workflows/*"))
    assert all(path.stat().st_size < 60_000 for path in shown)
