"""What other programs read: pycocotools, ezdxf and an XML parser take it, and find what was written."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import ezdxf
import numpy as np
import pytest
from pycocotools.coco import COCO

from src.inspection.export import safe_name, write_coco, write_hide
from src.inspection.grade import read_rules
from src.inspection.hide import measure_hide
from src.inspection.records import PictureRecord, RegionRecord

HOSTILE = ["../../etc/passwd.jpg", "/etc/passwd", "C:\\Windows\\a.jpg", "..", ".", "", "~", "-rf", "$(rm)", "<b>.jpg"]
HOSTILE += ["a\0b.jpg", "a\nb", "\udcff.jpg", "CON.jpg", "con", "nul.txt", "x" * 5000 + ".jpg", "x" * 5001 + ".jpg"]
HOSTILE += ["革.jpg", "皮.jpg", "Häute/ß.jpg", "Haute/ß.jpg", "A.jpg", "a.jpg", "a.png", " a.jpg", "a.jpg ", "a..jpg"]
HOSTILE += ["a/b.jpg", "a_b.jpg", "a\\b.jpg"]


@pytest.mark.parametrize("file", HOSTILE)
def test_names_are_plain_on_every_system(file, tmp_path):
    name = safe_name(file)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*-[0-9a-f]{10}", name) and len(name) <= 71
    (tmp_path / f"{name}.svg").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.svg"]


def test_names_are_different_also_where_case_does_not_count_and_never_change():
    assert len({safe_name(file).lower() for file in HOSTILE}) == len(HOSTILE)
    assert safe_name("line 3/hide_07.jpg") == "line_3_hide_07-c5dc4b5509"


def region(number, *outline, label=None):
    (left, top), (right, bottom) = np.min(outline, axis=0), np.max(outline, axis=0)
    x, y = np.array([*outline, outline[0]], dtype=float).T
    area = abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2
    closed = tuple((float(x), float(y)) for x, y in [*outline, outline[0]])
    return RegionRecord(number, (left, top, right, bottom), area, 0.9, 0.8, closed, label)


SQUARE = (100, 60), (110, 60), (110, 70), (100, 70)
TRIANGLE = (40.5, 40.25), (80.125, 41), (60, 77.75)


@pytest.fixture(scope="module")
def rules():
    return read_rules()


@pytest.fixture(scope="module")
def records(rules):
    leather = np.zeros((140, 240), bool)
    leather[20:120, 20:220] = True
    regions = (region(1, *SQUARE, label="hole"), region(2, *TRIANGLE))
    hide, regions = measure_hide(leather, regions, mm_per_pixel=0.7, rules=rules)
    return [
        PictureRecord("plain.jpg", "good", 50, 40),
        PictureRecord("../a<b>&\x07.jpg", "defective", 240, 140, 0.9, regions, hide=hide),
        PictureRecord("broken.jpg", "error", error="truncated"),
    ]


def test_coco_loads_and_its_polygons_cover_what_was_found(records, tmp_path, capsys):
    write_coco(records, tmp_path / "annotations.json")
    coco = COCO(str(tmp_path / "annotations.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["plain.jpg", "../a<b>&\x07.jpg"]
    assert {one["name"] for one in coco.loadCats(coco.getCatIds())} == {"defect", "hole"}
    square, triangle = coco.loadAnns(coco.getAnnIds(imgIds=2))
    assert not coco.getAnnIds(imgIds=1) and [square["id"], triangle["id"]] == [1, 2]
    assert square["bbox"] == [100, 60, 10, 10] and square["area"] == 100 and coco.annToMask(square).sum() == 100
    assert coco.annToMask(square)[60:70, 100:110].all()
    assert abs(coco.annToMask(triangle).sum() - triangle["area"]) < 0.05 * triangle["area"]
    assert coco.loadCats(square["category_id"])[0]["name"] == "hole"
    assert all(len(one["segmentation"]) == 1 and one["iscrowd"] == 0 for one in (square, triangle))


def test_coco_of_nothing_is_a_file_too(tmp_path, capsys):
    write_coco([], tmp_path / "a.json")
    assert COCO(str(tmp_path / "a.json")).getImgIds() == []
    assert [one["name"] for one in json.loads((tmp_path / "a.json").read_text())["categories"]] == ["defect"]


def farthest(first, second):
    """How far the vertices of one ring are from the nearest side of the other, at most."""
    second = np.array([*second, second[0]])
    starts, sides = second[:-1], np.diff(second, axis=0)
    share = np.clip(((first[:, None] - starts) * sides).sum(2) / (sides**2).sum(1), 0, 1)
    return np.linalg.norm(first[:, None] - starts - share[..., None] * sides, axis=2).min(1).max()


def test_dxf_passes_the_auditor_and_holds_the_same_polygons_in_mm(records, rules, tmp_path):
    write_hide(records[1], tmp_path / "hides", rules=rules)
    name = safe_name(records[1].file)
    assert sorted(path.name for path in (tmp_path / "hides").iterdir()) == [f"{name}.dxf", f"{name}.svg"]
    drawing = ezdxf.readfile(tmp_path / "hides" / f"{name}.dxf")
    assert not drawing.audit().errors and drawing.dxfversion >= "AC1015" and drawing.units == ezdxf.units.MM
    shapes = list(drawing.modelspace().query("LWPOLYLINE"))
    assert len(shapes) == len(drawing.modelspace()) == 3 and all(shape.closed for shape in shapes)
    assert [shape.dxf.layer for shape in shapes] == ["1", "53", "53"]  # a hole of 10 mm; 28 mm without a class
    wanted = [records[1].hide.outline[0], *(one.outline for one in records[1].regions)]
    for shape, ring in zip(shapes, wanted, strict=True):
        back = np.array(shape.get_points("xy"))
        ring = np.array([(0.7 * x, 0.7 * (140 - y)) for x, y in ring[:-1]])
        assert max(farthest(back, ring), farthest(ring, back)) < 0.5
    assert {"1", "50", "56"} <= {layer.dxf.name for layer in drawing.layers}


def test_the_same_hide_gives_the_same_files_also_if_it_is_the_first(records, rules, tmp_path):
    ezdxf.options.write_fixed_meta_data_for_testing = False  # as in a process that has written none
    for folder in ("first", "second"):
        write_hide(records[1], tmp_path / folder, rules=rules)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_svg_is_in_mm_and_says_what_each_shape_is(records, rules, tmp_path):
    write_hide(records[1], tmp_path, rules=rules)
    root = ElementTree.parse(next(tmp_path.glob("*.svg"))).getroot()
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("168.00mm", "98.00mm", "0 0 168.00 98.00")
    outline, square, triangle = root
    assert "../a<b>&.jpg" in outline[0].text and "% usable" in outline[0].text
    assert square[0].text.startswith("1. hole: 9.9 mm, severity 3") and "severity 3" in triangle[0].text
    assert square.get("d") == "M70.00,42.00 77.00,42.00 77.00,49.00 70.00,49.00Z"


def test_layers_may_have_names_that_every_drawing_has_or_that_differ_in_case(records, rules, tmp_path):
    own = replace(rules, outline_layer="0", defect_layers=("Zone", "zone", *rules.defect_layers[2:]))
    write_hide(records[1], tmp_path, rules=own)
    drawing = ezdxf.readfile(next(tmp_path.glob("*.dxf")))
    assert not drawing.audit().has_errors and len(drawing.modelspace()) == 3
