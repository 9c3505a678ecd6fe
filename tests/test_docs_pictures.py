"""The pictures of the documentation are those that `remake_pictures` makes, and no others."""

from __future__ import annotations

import re

import remake_pictures
from PIL import Image
from remake_pictures import DOCS, IMAGES, MOST, MOST_OF_WORKFLOWS, known_pictures


def test_every_picture_can_be_made_again() -> None:
    assert known_pictures() == set(IMAGES.rglob("*.png"))
    for path in known_pictures():
        assert path.stat().st_size < (MOST if path.parent == IMAGES else MOST_OF_WORKFLOWS)


def test_every_picture_is_shown() -> None:
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]
    shown = {(page.parent / target).resolve() for page in pages for target in _pictures(page.read_text())}
    assert known_pictures() <= shown
    assert all(path.is_file() for path in shown)


def test_pictures_fit_into_their_bytes(tmp_path) -> None:
    noise = Image.effect_noise((400, 300), 80).convert("RGB")
    remake_pictures._save(noise, tmp_path / "large.png", 30_000)
    with Image.open(tmp_path / "large.png") as kept:
        assert 100 < kept.width < 400 and abs(kept.width / kept.height - 4 / 3) < 0.02
    assert (tmp_path / "large.png").stat().st_size < 30_000
    flat = Image.new("RGB", (400, 300), (12, 120, 200))
    remake_pictures._save(flat, tmp_path / "flat.png", 30_000)
    with Image.open(tmp_path / "flat.png") as kept:
        assert kept.convert("RGB").tobytes() == flat.tobytes()


def _pictures(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]*\]\(([^)#]+)\)", text)
