"""The page: everything in one file, nothing from a network, no file's name becomes HTML, the palette of the figures."""

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from src import style
from src.inspection import judge, report
from src.inspection.export import safe_name
from src.inspection.records import HideMeasure, PictureRecord, RegionRecord, picture_table
from src.inspection.report import write_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SETTINGS = {
    "title": "day 3",
    "mode": "each other",
    "pictures": 4,
    "engine": "torch float32",
    "threshold": 0.65,
    "outline": 0.5,
    "source": "painted defects",
    "unit": "probability of a defect",
    "scale": [0, 1],
    "mm_per_pixel": None,
    "classifier": None,
    "options": {"mask": "auto", "normals": None, "weights": "shipped"},
    "seconds": 12.5,
    "versions": {"python": "3.11"},
    "tables": "csv",
}
HOSTILE = (
    "</script><script>alert(1)</script>.jpg",
    "<img src=x onerror=alert(1)>.png",
    'it\'s "quoted" & more #50%?.jpg',
    "javascript:alert(1)//.jpg",
    "@@data@@ \\1 \u2028 \u00e9.jpg",
    "not unicode \udcff.jpg",
    "<!--.jpg",
)


def ring(x, y, radius, points=40):
    turn = np.linspace(0, 2 * np.pi, points)
    circle = np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)
    return tuple(map(tuple, np.vstack([circle[:-1], circle[:1]]).tolist()))


def region(number=1, score=0.9, x=50.0, y=40.0, radius=10.0, points=40):
    box = (x - radius, y - radius, x + radius, y + radius)
    area = np.pi * radius**2
    return RegionRecord(number, box, area, min(1.0, score + 0.01), score, ring(x, y, radius, points))


def picture(file="a.jpg", score=0.9, **changes):
    regions = (region(score=score),) if score >= SETTINGS["threshold"] else ()
    return replace(PictureRecord(file, "defective" if regions else "good", 200, 100, score, regions), **changes)


def broken(file="b.jpg"):
    return PictureRecord(file, "error", error=f"cannot read {file}")


def write(folder, *records, **settings):
    """The page's text and what it holds."""
    plain = [
        replace(one, file=str(n), overlay=None, error=one.error and "why") for n, one in enumerate(records)
    ]  # valid Unicode
    page = write_page(records, picture_table(plain), folder, SETTINGS | settings).read_text(encoding="utf-8")
    return page, json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page)[1])


def test_the_most_odd_come_first_and_unreadable_pictures_have_their_own_place(tmp_path):
    records = picture("good.jpg", 0.2), broken(), picture("worse.jpg", 0.95), picture("bad.jpg", 0.7)
    page, data = write(tmp_path, *records)
    assert [one["file"] for one in data["pictures"]] == ["worse.jpg", "bad.jpg", "good.jpg"]
    assert data["errors"] == [["b.jpg", "cannot read b.jpg"]]
    assert data["counts"] == {"defective": 2, "good": 1, "error": 1}
    assert data["run"]["source"] == "painted defects" and f"<title>Inspection {tmp_path.name}</title>" in page


def test_a_score_at_the_threshold_reaches_it_on_the_page_too(tmp_path):
    threshold = float(np.nextafter(np.float32(0.654321), np.float32(2)))
    _, data = write(tmp_path, picture(score=threshold), threshold=threshold)
    assert data["pictures"][0]["regions"][0]["score"] == data["run"]["threshold"] == threshold


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_name_becomes_html(tmp_path, name):
    plain, _ = write(tmp_path, picture("a.jpg"), broken("b.jpg"))
    page, data = write(tmp_path, picture(name, overlay=f"overlays/{name}"), broken(name), title=name)
    assert data["pictures"][0]["file"] == data["errors"][0][0] == name
    tags = [re.findall("<[a-z/!][^>]*", text) for text in (page, plain)]
    assert tags[0] == tags[1]
    for link in (data["pictures"][0]["link"], data["pictures"][0]["overlay"]):
        assert re.fullmatch(r"[\w./%~-]+", link, re.ASCII)
    assert data["pictures"][0]["overlay"].startswith("overlays/")


def test_nothing_comes_from_a_network(tmp_path):
    page, _ = write(tmp_path, picture(overlay="overlays/0001.jpg"))
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}
    assert set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\"' ]*", page)) <= namespaces
    policy = re.search('Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src 'self' data:; script-src 'sha256-")
    assert "unsafe" not in policy and not re.search(r"<(?:script|link|img|iframe)[^>]* src=", page)
    assert not re.search(r' (?:style|on\w+)="', page)  # the policy forbids them


def test_small_pictures_are_made_of_the_photograph_or_of_its_overlay(tmp_path):
    root, photographs = tmp_path / "report", tmp_path / "photographs"
    (root / "overlays").mkdir(parents=True)
    photographs.mkdir()
    Image.new("RGB", (400, 200), "red").save(root / "overlays" / "a.png")
    Image.new("RGB", (400, 200), "blue").save(photographs / "a.jpg")
    record = picture(overlay="overlays/a.png")
    for settings, expected in (({"photographs": photographs}, (0, 0, 255)), ({}, (255, 0, 0))):
        _, data = write(root, record, **settings)
        head, content = data["pictures"][0]["thumbnail"].split(",")
        small = Image.open(io.BytesIO(base64.b64decode(content)))
        assert head == "data:image/jpeg;base64" and small.size == (240, 120)
        assert np.allclose(small.getpixel((50, 50)), expected, atol=4)
    _, data = write(root, picture("gone.jpg"), photographs=photographs)
    assert data["pictures"][0]["thumbnail"] is None


@pytest.mark.parametrize(("place", "address"), [("my #1", "../my%20%231/"), ("page/in", "in/"), ("page", "./")])
def test_a_page_names_the_photographs_by_their_place_beside_it(tmp_path, place, address):
    page, data = write(tmp_path / "page", picture(), photographs=tmp_path / place)
    assert data["photographs"] == address and str(tmp_path) not in page
    assert data["run"]["from"] == "/".join((tmp_path / place).parts[-3:])
    assert write(tmp_path, picture())[1]["photographs"] is None


def test_photographs_on_another_drive_have_their_whole_address(tmp_path, monkeypatch):
    def relpath(*_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(report.os.path, "relpath", relpath)
    assert write(tmp_path / "page", picture(), photographs=tmp_path)[1]["photographs"] == f"{tmp_path.as_uri()}/"


def test_reports_are_told_apart_by_folder_and_options(tmp_path):
    options = {"normals": "good/day 3", "weights": str(tmp_path / "a" / "own.safetensors"), "threshold": 0.7}
    page, data = write(tmp_path / "<b> & 2", picture(), options=options)
    assert "<h1>Inspection &lt;b&gt; &amp; 2</h1>" in page and str(tmp_path) not in page
    weights = f"{tmp_path.name}/a/own.safetensors"
    assert data["run"]["options"] == options | {"weights": weights} and data["run"]["from"] == "day 3"


def test_outlines_stay_near_with_few_points(tmp_path):
    _, data = write(tmp_path, picture(regions=(region(radius=40, points=4000),)))
    points = np.reshape(data["pictures"][0]["regions"][0]["outline"], (-1, 2))
    middles = (points + np.roll(points, 1, axis=0)) / 2
    assert 12 <= len(points) <= 60
    assert np.allclose(np.hypot(*(np.vstack([points, middles]) - (50, 40)).T), 40, atol=1.1)  # pixels
    tiny = region(radius=0.8)
    _, data = write(tmp_path, picture(width=6000, height=4000, regions=(tiny,)))
    assert len(data["pictures"][0]["regions"][0]["outline"]) >= 6  # a region is never less than a triangle


def test_a_hide_keeps_its_measures(tmp_path):
    measured = replace(region(), longest_mm=12.0, area_mm2=300.0, edge_mm=40.0, severity=1)
    hide = HideMeasure(2.0, (ring(100, 50, 45),), 3.0, 300.0, 0.9, (1, 2, 3, 4), "No 1", "few", "B")
    other = replace(hide, area_m2=1.0, usable_share=0.5, grade="No 2")
    first = picture(hide=hide, regions=(measured,))
    _, data = write(tmp_path, first, picture("c.jpg", hide=other), picture("d.jpg"), mm_per_pixel=2.0)
    assert data["hides"] == [[3.0, 0.9, "No 1"], [1.0, 0.5, "No 2"]]
    shown = data["pictures"][0]["hide"]
    assert shown["drawing"] == f"hides/{safe_name('a.jpg')}"
    assert shown["grade"] == "No 1" and data["pictures"][0]["regions"][0]["longest_mm"] == 12


def test_more_than_a_thousand_pictures_show_the_most_odd(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "SHOWN", 3)
    records = [picture(f"{n}.jpg", score) for n, score in enumerate((0.7, 0.1, 0.99, 0.8, 0.9))]
    _, data = write(tmp_path, *records)
    assert [one["file"] for one in data["pictures"]] == ["2.jpg", "4.jpg", "3.jpg"]
    assert data["rest"] == [0.7] and data["counts"]["good"] == 1


def test_a_thousand_busy_pictures_stay_below_30_mb(tmp_path):
    """White noise and hides in pieces with many regions are the worst that can come; each has a thousandth of 30 MB."""
    photographs, generator = tmp_path / "photographs", np.random.default_rng(0)
    photographs.mkdir()
    regions = tuple(region(n + 1, 0.9, *generator.uniform(50, 5900, 2), 45.0, 400) for n in range(150))
    measures = {"longest_mm": 123.456789, "area_mm2": 12345.6789, "edge_mm": 1234.56789, "severity": 3}
    regions = tuple(replace(one, **measures) for one in regions)
    rings = tuple(ring(1000 * n, 3000, 450, 3000) for n in range(1, 5))
    hide = HideMeasure(0.8123456, rings, 3.123456, 1234.5678, 0.9123456, (1.5, 2.5, 3.5, 4.5), "No 3", 40 * "a", "B")
    for n in range(4):
        Image.fromarray(generator.integers(0, 256, (240, 240, 3), np.uint8)).save(photographs / f"{n}.png")
    busy = picture(width=6000, height=6000, regions=regions, hide=hide, overlay="overlays/0001.jpg")
    bare = len(write(tmp_path, picture())[0])
    page, data = write(tmp_path, *(replace(busy, file=f"{n}.png") for n in range(4)), photographs=photographs)
    assert (len(page) - bare) / 4 <= (30e6 - bare) / 1000
    assert data["pictures"][0]["left_out"] == 110 and data["pictures"][0]["thumbnail"]


def test_a_missing_setting_is_named(tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if key != "source"}
    with pytest.raises(KeyError, match="source"):
        write_page([], picture_table([]), tmp_path, settings)


def test_an_empty_report_is_a_page_too(tmp_path):
    _, data = write(tmp_path)
    assert data["pictures"] == [] and data["hides"] == []


def test_the_page_has_the_palette_of_the_figures(tmp_path):
    page, _ = write(tmp_path)
    light = dict(re.findall(r"--([a-z]+): (#\w+);", re.search(r":root \{(.*?)\}", page, re.DOTALL)[1]))
    assert (light["good"], light["defect"], light["outline"]) == (style.NORMAL, style.DEFECT, style.PREDICTED)
    assert (light["hide"], light["soft"]) == (style.NORMAL, style.NEUTRAL)
    stops = re.search(r"const MAP = (\[.*?\]);", page)[1]
    magma = [judge.mpl.colormaps["magma"](n / 5)[:3] + (judge.OPACITY * n / 5,) for n in range(6)]
    assert json.loads(stops) == [judge.mpl.colors.to_hex(colour, keep_alpha=True) for colour in magma]


@pytest.fixture
def browser(tmp_path):
    """Opens a picture of the page and returns what the browser made of it, without the data."""
    if not BROWSER:
        pytest.skip("needs Chromium")

    def opened(name):
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom"]
        address = (tmp_path / "index.html").as_uri() + f"#picture={name}"
        answer = subprocess.run(
            [*command, *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", address],
            capture_output=True,
            text=True,
            timeout=120,
        )
        return re.sub(r'<script id="data".*?</script>', "", answer.stdout, flags=re.DOTALL)

    return opened


def test_a_browser_opens_the_picture_of_a_link_and_runs_no_script_of_a_name(tmp_path, browser):
    names = [name for name in HOSTILE if "\udcff" not in name]  # --dump-dom prints valid Unicode alone
    hide = HideMeasure(2.0, (ring(100, 50, 45),), 3.0, 300.0, 0.9, (90, 40, 95, 50), "No 1", "few", "B")
    write(tmp_path, picture("good.jpg", 0.2), broken(), *map(picture, names), picture("hide.jpg", 0.8, hide=hide))
    page, shown = browser("hide.jpg"), len(names) + 2
    assert f"Showing {shown} of {shown} pictures: {shown - 1} defective, 1 good." in page
    assert re.search(r'<dialog id="viewer"[^>]* open=""', page) and '<h2 id="name">hide.jpg</h2>' in page
    assert page.count('class="card"') == shown and page.count("<script") == 1 and "<img src=" not in page


def test_a_browser_says_sizes_shares_and_settings_with_their_units(tmp_path, browser):
    measured = replace(region(score=0.9), longest_mm=12.3456, area_mm2=300.0, edge_mm=40.0, severity=1)
    hide = HideMeasure(2.0, (ring(100, 50, 45),), 0.5, 300.0, 0.9, (90, 40, 95, 50), "No 1", "few", "B")
    record = picture("a.jpg", width=1024, height=1030, regions=(measured,), hide=hide)
    source = "verdict: 5% of 295 pictures of real leather outside marked defects reach it"
    write(tmp_path, record, broken(), mm_per_pixel=2.0, seconds=125.4, source=source, photographs=tmp_path)
    page = browser("a.jpg").replace("\u00a0", " ").replace("&nbsp;", " ")
    for text in (
        "2,048 × 2,060 mm, 1,024 × 1,030 px",
        "score 0.900 (peak 0.910); longest distance across 12.3 mm; 1,260 mm², 0.251 % of the hide; ",
        "nearest point 40 mm from the edge; severity 1",
        'href="./a.jpg"',
        f'href="hides/{safe_name("a.jpg")}.dxf"',
        "mask auto; 2 mm a pixel; rules the usual; weights shipped",
        "2 min 5 s",
        "about 5 in 100 good pictures reach it",
        "1 picture could not be judged",
    ):
        assert text in page, text
    record = picture("b.jpg", width=1024, height=1030, overlay="gone.jpg")
    write(tmp_path, record, source="raised to the highest score of 4 normal images")
    page = browser("b.jpg").replace("\u00a0", " ").replace("&nbsp;", " ")
    assert "314 px², 0.0298 % of the picture" in page and "hides/*.dxf" in page and "The map is not" in page
    assert "The normal pictures that were tried stay below." in page


def test_a_browser_names_the_tables_that_are_beside_the_page(tmp_path, browser):
    for tables, named, absent in (("csv", "inspection.csv", "parquet"), ("parquet", "pictures/*.parquet", "csv")):
        write(tmp_path, picture("a.jpg"), tables=tables)
        hidden = re.findall(r'<span class="(csv|parquet)" hidden', page := browser("a.jpg"))
        assert hidden == [absent] and named in page
