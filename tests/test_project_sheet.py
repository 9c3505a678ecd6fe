"""Sheets of pictures, and colours of values about 0."""

from __future__ import annotations

import numpy as np
import pytest

from fmx.errors import FmxError
from fmx.render.sheet import picture_sheet, signed_rgb


def colour(value):
    """Give a colour that no text has."""
    return np.array([value, 1, 200], np.uint8)


def tiles(count, shape=(20, 30)):
    return [np.tile(colour(10 * i), (*shape, 1)) for i in range(count)]


def places(sheet, value, shape):
    """Find where a tile lies: its top left corner."""
    found = np.argwhere((sheet == colour(value)).all(axis=2))
    (top, left), (bottom, right) = found.min(axis=0), found.max(axis=0)
    assert (bottom - top + 1, right - left + 1) == shape
    assert len(found) == shape[0] * shape[1]
    return int(top), int(left)


def test_every_picture_lies_on_the_sheet_once_in_reading_order():
    sheet = picture_sheet(tiles(7), columns=3).pixels
    corners = [places(sheet, 10 * i, (20, 30)) for i in range(7)]
    assert corners == sorted(corners)
    assert len({top for top, _ in corners}) == 3
    assert len({left for _, left in corners}) == 3


def test_rows_have_titles_and_tell_the_number_of_columns():
    plain = picture_sheet(tiles(6), columns=3).pixels
    titled = picture_sheet(tiles(6), row_titles=["channel 3", "channel 5"]).pixels
    corners = [places(titled, 10 * i, (20, 30)) for i in range(6)]
    assert [top for top, _ in corners[:3]] == [corners[0][0]] * 3
    assert titled.shape[0] > plain.shape[0]


@pytest.mark.parametrize("caption", ["a", "many words that go on " * 20, "oneverylongwordthatfitsnowhere" * 5])
def test_captions_stay_below_their_own_picture(caption):
    pictures = tiles(4, (40, 100))
    without = picture_sheet(pictures, ["", "", "", ""], columns=2)
    sheet = picture_sheet(pictures, [caption, "", "", ""], columns=2).pixels
    corners = [places(sheet, 10 * i, (40, 100)) for i in range(4)]
    assert sheet.shape[0] > without.size[1]
    below = sheet[corners[0][0] + 40 : corners[2][0]]
    assert (below[:, corners[0][1] : corners[0][1] + 100] < 255).any()
    outside = np.delete(below, slice(corners[0][1], corners[0][1] + 100), axis=1)
    assert (outside == 255).all()


def test_a_sheet_keeps_its_labels_and_enlarges_by_whole_pixels():
    sheet = picture_sheet([tiles(1, (4, 5))[0]], labels={"layer": "a"}, title="t", notes=["n"], scale=3)
    assert sheet.labels == {"layer": "a"}
    places(sheet.pixels, 0, (12, 15))


@pytest.mark.parametrize(
    ("pictures", "more", "said"),
    [
        ([], {}, "at least one picture"),
        ([np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)], {}, "one size: these are 2×2 and 3×2"),
        ([np.zeros((2, 2))], {}, "uint8"),
        (tiles(1), {"captions": ["a", "b"]}, "2 captions for 1 pictures"),
        (tiles(2), {"columns": 0}, "at least one column"),
        (tiles(2), {"columns": 2, "row_titles": ["a", "b"]}, "2 titles for 1 rows"),
        (tiles(2), {"scale": 0}, "at least 1, not 0"),
    ],
)
def test_what_makes_no_sheet_is_said(pictures, more, said):
    with pytest.raises(FmxError, match=said):
        picture_sheet(pictures, **more)


def test_zero_is_mid_grey_and_both_ends_are_equally_far_from_it():
    values = np.linspace(-1, 1, 401).reshape(1, 401)
    drawn = signed_rgb(values)[0, :, 0].astype(int)
    assert drawn[200] == 128
    assert (np.abs(drawn + drawn[::-1] - 255) <= 1).all()
    assert (np.diff(drawn) >= 0).all()
    assert (drawn[0], drawn[-1]) == (0, 255)
    np.testing.assert_array_equal(signed_rgb(values * 1e-20), signed_rgb(values))


def test_colours_keep_their_ratio_and_odd_values_do_no_harm():
    values = np.zeros((4, 4, 3))
    values[0, 0] = 1, -0.5, np.nan
    reach = np.percentile(np.abs(np.nan_to_num(values)), 99.5)
    assert 0.5 < reach < 1
    np.testing.assert_array_equal(signed_rgb(values)[0, 0], [255, round(127.5 - 127.5 * 0.5 / reach), 128])
    assert (signed_rgb(np.zeros((3, 3))) == 128).all()
    assert (signed_rgb(np.full((3, 3), np.nan)) == 128).all()
    assert signed_rgb(np.array([[np.inf, -np.inf, 1.0]]))[0, :, 0].tolist() == [255, 0, 255]
    sparse = np.zeros((100, 100))
    sparse[5, 5] = -3.0
    assert signed_rgb(sparse)[5, 5, 0] == 0
    for shape in ((3,), (2, 2, 2), (0, 3)):
        with pytest.raises(FmxError, match="to colour"):
            signed_rgb(np.zeros(shape))
