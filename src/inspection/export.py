"""The report's files for other programs: COCO for annotation tools, DXF and SVG for cutting rooms."""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable
from html import escape
from pathlib import Path

from ..files import whole_file
from .grade import Rules
from .records import HideMeasure, PictureRecord, RegionRecord

NO_CLASS = "defect"  # category of regions without a class
NAME_LENGTH = 60  # characters of a file's name before its digest
DIGITS = 2  # of coordinates in px, after the point
SEVERITY_COLOURS = ("#fed976", "#feb24c", "#fd8d3c", "#fc4e2a", "#e31a1c", "#bd0026", "#800026")  # light to dark


def safe_name(file: str) -> str:
    """A name, without suffix, for what is written about a picture: the same on every system, another for each file.

    ASCII letters and digits of the file's path, and the start of a digest of the path.
    """
    plain = unicodedata.normalize("NFKD", re.sub(r"\.\w{1,5}$", "", file)).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_-")[-NAME_LENGTH:].lstrip("_-") or "picture"
    return f"{words}-{hashlib.sha256(file.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def write_coco(records: Iterable[PictureRecord], path: Path) -> None:
    """The regions of all readable pictures as COCO annotations: a polygon, its box and its area in pixels, for each."""
    pictures = [record for record in records if record.error is None]
    labels = sorted({region.label for record in pictures for region in record.regions if region.label})
    categories = {name: number for number, name in enumerate([NO_CLASS, *labels], start=1)}
    images, annotations = [], []
    for number, record in enumerate(pictures, start=1):
        images.append({"id": number, "file_name": record.file, "width": record.width, "height": record.height})
        for region in record.regions:
            numbers = {"id": len(annotations) + 1, "image_id": number}
            category = {"category_id": categories[region.label or NO_CLASS]}
            annotations.append(numbers | category | _annotation(region))
    content = {
        "info": {
            "description": "regions of an inspection of leather; score: how sure, from 0 to 1 where there is a head"
        },
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name, "supercategory": NO_CLASS} for name, number in categories.items()],
    }
    with whole_file(path) as stream:
        stream.write(json.dumps(content, allow_nan=False).encode())


def _annotation(region: RegionRecord) -> dict:
    left, top, right, bottom = region.box
    return {
        "segmentation": [[round(float(value), DIGITS) for point in region.outline[:-1] for value in point]],
        "bbox": [round(float(value), DIGITS) for value in (left, top, right - left, bottom - top)],
        "area": round(float(region.area), DIGITS),
        "iscrowd": 0,
        "score": round(float(region.score), 4),
    }


def write_hide(record: PictureRecord, folder: Path, *, rules: Rules) -> None:
    """A .dxf and an .svg in mm, named by `safe_name`, of a picture whose hide was measured."""
    for suffix, content in (("dxf", _dxf(record, record.hide, rules)), ("svg", _svg(record, record.hide).encode())):
        with whole_file(Path(folder) / f"{safe_name(record.file)}.{suffix}") as stream:
            stream.write(content)


def _dxf(record: PictureRecord, hide: HideMeasure, rules: Rules) -> bytes:
    """Closed polylines; y goes up, from the lower edge of the picture."""
    import ezdxf  # here: only who measures hides needs it

    ezdxf.options.write_fixed_meta_data_for_testing = True  # no dates, no random identity: same hide, same file
    drawing = ezdxf.new("R2000", units=ezdxf.units.MM)
    shapes = [(rules.outline_layer, ring) for ring in hide.outline]
    shapes += [(rules.defect_layers[region.severity], region.outline) for region in record.regions]
    for layer in dict.fromkeys([rules.outline_layer, *rules.defect_layers]):
        if not drawing.layers.has_entry(layer):  # names that differ in case alone are one, and "0" is always there
            drawing.layers.add(layer)
    for layer, ring in shapes:
        points = [(x * hide.mm_per_pixel, (record.height - y) * hide.mm_per_pixel) for x, y in ring[:-1]]
        drawing.modelspace().add_lwpolyline(points, close=True, dxfattribs={"layer": layer})
    text = io.StringIO()
    drawing.write(text)
    return text.getvalue().encode("ascii")


def _svg(record: PictureRecord, hide: HideMeasure) -> str:
    """The picture's rectangle in mm; each shape says what it is when pointed at."""
    width, height = (f"{side * hide.mm_per_pixel:.2f}" for side in (record.width, record.height))
    area = f"{hide.area_m2:.3f} m², {hide.usable_share:.1%} usable, {hide.grade}"
    shapes = [_path(hide.outline, hide, "#f6e8d5", f"{record.file}: {area}")]
    for region in record.regions:
        colour = SEVERITY_COLOURS[min(region.severity, len(SEVERITY_COLOURS) - 1)]
        named = f"{region.number}. {region.label or NO_CLASS}"
        text = f"{named}: {region.longest_mm:.1f} mm, severity {region.severity}, {region.edge_mm:.0f} mm from the edge"
        shapes.append(_path([region.outline], hide, colour, text))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}mm" height="{height}mm" '
        f'viewBox="0 0 {width} {height}" stroke="#57606a" stroke-width="1" stroke-linejoin="round">\n'
        + "".join(shapes)
        + "</svg>\n"
    )


def _path(rings: Iterable, hide: HideMeasure, colour: str, text: str) -> str:
    scale = hide.mm_per_pixel
    course = " ".join("M" + " ".join(f"{x * scale:.2f},{y * scale:.2f}" for x, y in ring[:-1]) + "Z" for ring in rings)
    clean = "".join(sign for sign in text if sign.isprintable())
    return f'<path fill="{colour}" d="{course}"><title>{escape(clean)}</title></path>\n'
