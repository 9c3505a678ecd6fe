"""What the README tells people to run, run as it stands there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data_dir

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``photos/`` in it, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        with Image.open(Path(data_dir) / name) as picture:
            picture.save(tmp_path / "photos" / name)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fmx.cli import main

    monkeypatch.setattr(sys, "argv", shlex.split(command))
    try:
        main()
    except SystemExit as end:
        assert not end.code, command


def test_commands_run(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("fmx ")]
    assert len(commands) >= 7
    for command in commands:
        run(command, monkeypatch)
    drawn = sorted(p.name for p in (photos / "out").rglob("*.png"))
    assert "grid_layer1_chelsea.png_noise0_page001.png" in drawn
    assert "overlay_auto_chelsea.png_mean_noise0.png" in drawn
    assert '"sparsity"' in capsys.readouterr().out


def test_python_examples_run(photos: Path) -> None:
    names: dict[str, object] = {}
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), names)
    assert (photos / "grid.png").stat().st_size > 1000
    assert len(names["rows"]) == 5 * 3  # layers × noise levels
    assert names["maps"].dims == ("sample", "y", "x")


def test_five_lines_are_five_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 5


def test_set_up_commands_are_those_of_ci() -> None:
    setup = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("pip ")]
    assert setup == ['pip install ".[demo]" && fmx demo', 'pip install -e ".[test]" && pytest -n auto']
    ci = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert '-e ".[test]"\npytest -n auto\n' in ci


def test_pictures_and_links_are_there() -> None:
    root = Path(__file__).parents[1]
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", README) if "://" not in t]
    assert len(targets) >= 5
    assert all((root / target).is_file() for target in targets)


def test_demo_says_what_it_sees_and_writes_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("fmx demo", monkeypatch)
    said = capsys.readouterr().out
    clean = [line for line in said.splitlines() if re.match(r"\w+\.png\s+0\s", line)]
    assert all(name in clean[0] for name in ("Egyptian cat", "tabby", "tiger cat"))
    assert "espresso" in clean[1].split("%")[0]
    written = [Path(line.strip()) for line in said.partition("Written:")[2].partition("Try next:")[0].split("\n")[1:-2]]
    assert len(written) >= 4
    assert all((tmp_path / path).exists() for path in written)
    following = [line.strip() for line in said.partition("Try next:")[2].splitlines() if line.strip()]
    assert len(following) == 4
    for command in following:
        run(command, monkeypatch)
