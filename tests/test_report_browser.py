"""The report in a real headless Chromium: nothing broken, nothing from the network, keys, phones, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import BINARY, Page
from small_stores import write_store
from test_resume import extract

from fmx.report import write_report

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs a chromium on the path")

# Where names lead; the second call of stem is a layer, and not its channel 2.
FOUND = {
    "stem:2": "layer-4",
    "stem:2:8": "layer-4-channel-8",
    "stem:8": "layer-1-channel-8",
    'a/b "c" & d:0': "layer-5-channel-0",
    "<script>throw 1</script>": "layer-6",
    "層": "layer-7",
}
LONG = "encoder." + "a_block_with_a_long_name." * 4 + "convolution_number_1"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page and a folder about a store with classes, noise, pictures, names that are long or would be markup."""
    folder = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    values = {
        "stem": np.maximum(rng.normal(size=(12, 2, 1, 9, 8, 8)), 0).astype(np.float32),
        LONG: rng.normal(size=(12, 2, 1, 5, 4, 4)).astype(np.float32),
        "<b>head</b>": rng.normal(size=(12, 2, 1, 70)).astype(np.float32),
    }
    odd = {"stem:2": (9, 8, 8), 'a/b "c" & d': (3, 4, 4), "<script>throw 1</script>": (4, 4, 4), "é ü 層": (3,)}
    values |= {name: rng.normal(size=(12, 2, 1, *shape)).astype(np.float32) for name, shape in odd.items()}
    values |= {f"block{i}": rng.normal(size=(12, 2, 1, 4, 4, 4)).astype(np.float32) for i in range(15)}
    store = write_store(
        folder / "acts.zarr",
        values,
        ids=[f"<img src=x onerror=alert({i})>.png" if i == 3 else f"{i}.png" for i in range(12)],
        labels=["cat", "dog"] * 6,
        noise=(0.0, 0.3),
        pictures=rng.integers(0, 256, (12, 1, 16, 16, 3), dtype=np.uint8),
        about={"model": "tests.networks:small", "input_shape": [3, 16, 16]},
    )
    page = write_report(store, folder / "report.html")
    found = {"page": page, "assets": write_report(store, folder / "report", assets=True)}
    data = rng.random((5, 3, 32, 32), dtype=np.float32)
    summed = extract(folder / "summed.zarr", data, reduce=["stats", "hist", "quantiles", "top-samples"])
    found["summaries"] = write_report(summed, folder / "summaries.html")
    steps = {"epoch": [0] * 6 + [1] * 6, "step": range(12)}
    recorded = {name: values[name][:, :1] for name in ("stem", LONG)}
    training = write_store(folder / "training.zarr", recorded, more_labels=steps)
    found["training"] = write_report(training, folder / "training.html")
    return found


@pytest.fixture(params=["page", "assets"])
def shown(request: pytest.FixtureRequest, reports: dict[str, Path]) -> Iterator[Page]:
    with Page(reports[request.param].as_uri()) as page:
        yield page


def load_all(page: Page) -> None:
    """Let every picture load, those that wait until they are seen too."""
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.run("document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
    page.until("[...document.images].every(i => i.complete)")


def test_nothing_is_broken_and_nothing_comes_from_the_network(shown: Page) -> None:
    load_all(shown)
    assert shown.run("document.images.length") > 40
    check_whole(shown)


def check_whole(shown: Page) -> None:
    """See that pictures are there and named, that links lead somewhere, and that nothing was said or asked for."""
    assert shown.run("[...document.images].filter(i => !i.naturalWidth).map(i => i.alt)") == []
    assert shown.run("[...document.images].filter(i => !i.alt).length") == 0
    missing = "[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))"
    missing += ".filter(h => !h.startsWith('#') || !document.getElementById(decodeURIComponent(h.slice(1))))"
    assert shown.run(missing) == []
    ids = "[...document.querySelectorAll('[id]')].map(e => e.id)"
    assert shown.run(f"{ids}.length === new Set({ids}).size")
    assert shown.said == []
    assert {address.partition(":")[0] for address in shown.asked} <= {"file", "data"}


def test_names_are_text_whatever_they_hold(shown: Page) -> None:
    text = shown.run("document.body.textContent")
    assert "<b>head</b>" in text and "onerror=alert(3)" in text
    assert shown.run(
        "document.querySelectorAll('main b').length && ![...document.querySelectorAll('b')]"
        ".some(b => b.textContent === 'head')"
    )
    assert shown.run("document.querySelectorAll('img[onerror]').length") == 0


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_sideways_scrolling(reports: dict[str, Path], width: int) -> None:
    with Page(reports["page"].as_uri(), width=width, height=844) as page:
        load_all(page)
        check_width(page, width)


def check_width(page: Page, width: int) -> None:
    """See that all fits this width, but for what scrolls in itself."""
    page.run("document.querySelectorAll('article').forEach(a => { a.style.contentVisibility = 'visible'; })")
    assert page.run("document.documentElement.scrollWidth") <= width
    inside = "e => { for (let b = e; b; b = b.parentElement) if (getComputedStyle(b).overflowX !== 'visible')"
    inside += " return true; return false; }"
    out = f"[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > {width} + 1"
    assert page.run(f"{out} && !({inside})(e)).map(e => e.outerHTML.slice(0, 99))") == []


def test_keys_lead_through_the_layers(reports: dict[str, Path]) -> None:
    with Page(reports["page"].as_uri()) as page:
        page.run("document.documentElement.style.scrollBehavior = 'auto'")
        page.press("j")
        page.until("location.hash === '#layer-1' && document.activeElement.id === 'layer-1'")
        page.press("j")
        page.until("document.activeElement.id === 'layer-2'")
        page.until("document.querySelector('.layer-list a[aria-current]').hash === '#layer-2'")
        page.press("k")
        page.until("document.activeElement.id === 'layer-1'")
        page.press("t")
        page.until("location.hash === '#layers'")
        page.press("/")
        page.until("document.activeElement.id === 'find'")
        for key in "<b>head</b>:69":
            page.press(key)
        page.press("Enter")
        page.until("location.hash === '#layer-3-channel-69'")
        row = "document.getElementById('layer-3-channel-69')"
        assert page.run(f"{row}.closest('details') === null || {row}.closest('details').open")
        for text, found in FOUND.items():
            page.run("document.getElementById('find').focus()")
            page.run(f"document.getElementById('find').value = {json.dumps(text)}")
            page.press("Enter")
            page.until(f"location.hash === '#{found}' && document.activeElement.id === '{found}'")
        page.run("document.getElementById('find').focus()")
        page.run("document.getElementById('find').value = 'no such'")
        page.press("Enter")
        page.until("document.getElementById('jump-said').textContent === 'No layer has this name.'")
        assert page.said == []


def test_keys_that_are_pressed_quickly_count_each(reports: dict[str, Path]) -> None:
    with Page(reports["page"].as_uri()) as page:
        press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j'}))"
        page.run(f"{press}; {press}; {press}")
        assert page.run("document.activeElement.id") == "layer-3"
        page.until("document.querySelector('.layer-list a[aria-current]')?.hash === '#layer-3'")
        page.run(press.replace("'j'", "'k'"))
        page.until("document.activeElement.id === 'layer-2'")


def test_tab_reaches_the_page_first_and_shows_where_it_is(reports: dict[str, Path]) -> None:
    with Page(reports["page"].as_uri()) as page:
        page.press("Tab")
        assert page.run("document.activeElement.className") == "skip"
        assert page.run("document.activeElement.getBoundingClientRect().left") >= 0
        page.press("Enter")
        page.until("document.activeElement.id === 'main'")


def test_a_click_on_a_map_leads_to_its_channel(reports: dict[str, Path]) -> None:
    with Page(reports["page"].as_uri()) as page:
        page.run("document.querySelector('#layer-1 .paper').scrollIntoView({behavior: 'instant'})")
        page.until("document.querySelector('#layer-1 .paper img').complete")
        box = page.run(
            "(() => { const b = document.querySelector('#layer-1 .paper img').getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]; })()"
        )
        # Nine maps, eight in a row: the last of the first row is channel 7.
        x, y = box[0] + box[2] * 7.5 / 8, box[1] + box[3] / 4
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        page.until("location.hash === '#layer-1-channel-7'")


def test_rows_sort_by_numbers(reports: dict[str, Path]) -> None:
    with Page(reports["page"].as_uri()) as page:
        table = "document.querySelector('#layer-1 table.sortable')"
        page.run(f"{table}.closest('details').open = true")
        page.run(f"{table}.querySelectorAll('thead button')[4].click()")
        highest = page.run(f"[...{table}.tBodies[0].rows].map(r => parseFloat(r.cells[4].textContent))")
        assert highest == sorted(highest, reverse=True) and len(set(highest)) > 1


# Contrast as WCAG 2.1 defines it, of every piece of text against what is painted behind it.
CONTRAST = """(() => {
  const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
  const bad = new Set();
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('svg.matrix') && e.classList.contains('value')) continue;
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || ['SCRIPT', 'STYLE', 'TITLE', 'title', 'OPTION'].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = light(rgb(e instanceof SVGElement ? style.fill : style.color).slice(0, 3)), paper = light(behind(e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) bad.add(`${e.tagName}.${e.getAttribute('class')} ${ratio.toFixed(2)}`);
  }
  return [...bad];
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable_in_light_and_dark(reports: dict[str, Path], dark: bool) -> None:
    with Page(reports["page"].as_uri(), dark=dark) as page:
        page.run("document.querySelectorAll('article').forEach(a => { a.style.contentVisibility = 'visible'; })")
        page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        paper = page.run("getComputedStyle(document.querySelector('.side')).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") != dark
        assert page.run(CONTRAST) == []
        page.press("d")
        page.until(f"getComputedStyle(document.querySelector('.side')).backgroundColor !== '{paper}'")
        assert page.run(CONTRAST) == []


@pytest.mark.parametrize("what", ["summaries", "training"])
@pytest.mark.parametrize(("width", "dark"), [(320, True), (1280, False)])
def test_pages_of_summaries_and_trainings_are_whole(
    reports: dict[str, Path], what: str, width: int, dark: bool
) -> None:
    with Page(reports[what].as_uri(), width=width, height=844, dark=dark) as page:
        load_all(page)
        check_whole(page)
        check_width(page, width)
        assert page.run(CONTRAST) == []
        panel = "document.querySelector('#layer-1 .curves')"
        assert page.run(f"{panel}.querySelectorAll('svg').length") == 4
        # Words of a curve are as large as those of other charts, to within what the panel scales them by.
        assert page.run(f"[...{panel}.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width >= 190)")


def test_it_prints_in_dark_mode_too(reports: dict[str, Path]) -> None:
    with Page(reports["page"].as_uri(), dark=True) as page:
        printed = page.call("Page.printToPDF", printBackground=True)
        assert len(printed["data"]) > 20_000
        page.call("Emulation.setEmulatedMedia", media="print")
        assert page.run("getComputedStyle(document.querySelector('.panel')).backgroundColor") == "rgb(255, 255, 255)"
        assert page.run("getComputedStyle(document.querySelector('.side')).display") == "none"
        assert page.said == []
