"""Letters that the usual fonts lack: taken from other fonts, in pictures and in plots."""

from __future__ import annotations

import re
from unittest import mock

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from plot_checks import check_layout

from fmx.render import fonts, plots, shaping, text
from fmx.render.plots import style
from fmx.render.plots import text as plot_text

CAT = "猫"


@pytest.fixture
def clean():
    caches = (fonts.font_with, fonts._font_files, text.plain, text.text_width, text.text_picture)
    caches += (plot_text.plain, plot_text.text_width, plot_text.short)
    caches += (fonts.font_with_all, shaping.shaped_runs)
    before = dict(style._further)

    def clear():
        for one in caches:
            one.cache_clear()

    clear()
    yield
    clear()
    style._further.clear()
    style._further.update(before)


@pytest.fixture
def installed(tmp_path, clean):
    """A font whose only letter is a black square of a whole em, in place of those that the machine has."""
    pen = TTGlyphPen(None)
    for i, place in enumerate([(0, 0), (0, 700), (1000, 700), (1000, 0)]):
        (pen.lineTo if i else pen.moveTo)(place)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CAT): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Only Cats", "styleName": "Regular", "psName": "OnlyCats"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    path = tmp_path / "OnlyCats.ttf"
    builder.save(path)
    broken = tmp_path / "Broken.ttf"
    broken.write_bytes(b"no font")
    with mock.patch("matplotlib.font_manager.findSystemFonts", return_value=[str(broken), str(path)]):
        yield path


def test_letters_come_from_the_fonts_that_are_there(installed):
    assert fonts.drawable(f"{CAT} a\tж\U000e0001") == f"{CAT} a ж"
    assert fonts.font_with(CAT) == str(installed)
    drawn = text.text_picture(f"a{CAT}", 20)
    assert drawn.shape == (text.line_height(20), text.text_width(f"a{CAT}", 20))
    assert text.text_width(f"a{CAT}", 20) == pytest.approx(
        text.text_width("aж", 20) - text.text_width("ж", 20) + 20, abs=1
    )
    # The square stands on the line of the other letters.
    square = drawn[:, -12] < 128
    assert square.sum() == pytest.approx(14, abs=1)
    letter = (text.text_picture("aж", 20)[:, :8] < 128).any(axis=1)
    assert np.flatnonzero(square)[-1] == pytest.approx(np.flatnonzero(letter)[-1], abs=1)


def test_letters_that_no_font_has_are_told_by_their_code(clean):
    with mock.patch("matplotlib.font_manager.findSystemFonts", return_value=[]):
        assert text.plain(f"{CAT} cat \x07 ạ̈\udcff") == f"[{ord(CAT):04X}] cat [0007] ạ̈[DCFF]"
        assert plot_text.plain(CAT) == "[732B]"
        # A script letter is in STIX, which comes with Matplotlib.
        assert text.plain("𝒜") == "𝒜"


needs_raqm = pytest.mark.skipif(not shaping.can_shape(), reason="Pillow finds no FriBiDi here")


@needs_raqm
@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("قطة صغيرة 12.png", [("قطة صغيرة 12", "rtl"), (".png", "")]),
        ("of כלב, לבן or a", [("of ", ""), ("כלב, לבן", "rtl"), (" or a", "")]),
        ("3 · قطة", [("3 · ", ""), ("قطة", "rtl")]),
        ("כלב a 7", [("כלב", "rtl"), (" a 7", "")]),
        ("כלב · 7 · קטן", [("כלב", "rtl"), (" · 7 · ", ""), ("קטן", "rtl")]),
        ("é 猫", [("é 猫", "")]),
    ],
)
def test_what_is_shaped_together(line, parts):
    with mock.patch.object(shaping, "font_with_all", return_value="a.ttf"):
        shaping.shaped_runs.cache_clear()
        found = shaping.shaped_runs(line)
    shaping.shaped_runs.cache_clear()
    assert [(part, way) for part, _, way in found] == parts
    assert "".join(part for part, _, _ in found) == line


@needs_raqm
def test_letters_from_right_to_left(clean):
    # Hebrew letters keep their form: drawn one by one from the end, they look the same but for the places of pixels.
    drawn = text.text_picture("a יייששש b", 40) < 128
    with mock.patch.object(shaping, "can_shape", return_value=False):
        for cache in (shaping.shaped_runs, text.text_picture, text.text_width):
            cache.cache_clear()
        turned, unshaped = (text.text_picture(line, 40) < 128 for line in ("a שששייי b", "a יייששש b"))
    assert abs(drawn.shape[1] - turned.shape[1]) <= 2
    ink, other, wrong = (found.sum(axis=0).cumsum() / found.sum() for found in (drawn, turned, unshaped))
    width = min(len(ink), len(other), len(wrong))
    assert np.abs(ink[:width] - other[:width]).max() < 0.04
    assert np.abs(ink[:width] - wrong[:width]).max() > 0.06
    # Arabic letters join: what stands alone is wider.
    assert text.text_width("قطط", 40) < text.text_width("ق", 40) + 2 * text.text_width("ط", 40) - 4


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_plots_take_letters_from_other_fonts(installed, tmp_path, form, caplog):
    before = list(mpl.rcParams["font.family"])
    values = {name: ("channel", [1.0, 2.0]) for name in ("mean", "std", "max", "sparsity")}
    figure = plots.channel_statistics(xr.Dataset(values, {"channel": [0, 1]}), title=f"cat {CAT}")
    check_layout(figure)
    caplog.clear()
    (title,) = [t for t in figure.texts if t.get_gid() == "title"]
    assert title.get_text() == f"cat {CAT}"
    assert title.get_fontfamily() == ["DejaVu Sans", "Only Cats"]
    data = plots.save_figure(figure, tmp_path / f"a.{form}").read_bytes()
    if form == "svg":
        assert f"cat {CAT}".encode() in data and b"Only Cats" in data
    if form == "pdf":
        assert re.search(rb"/BaseFont /\w*\+?OnlyCats", data)
    assert list(mpl.rcParams["font.family"]) == before
    # That the font has no bold letters is nothing that one has to be told.
    assert not caplog.records
