"""The report's page: one HTML file with a small picture of each photograph, which opens without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from skimage.measure import approximate_polygon

from ..config import paths
from ..data.pictures import UnreadableImageError, load_image
from ..files import printable, whole_file
from .export import safe_name
from .records import VERDICTS, PictureRecord, RegionRecord

SHOWN, REGIONS, POINTS = 1000, 40, 480  # most pictures, regions of one and points of their outlines; the CSVs have all
SUMMED = ["file", "verdict", "score", "grade", "area_m2", "usable_share", "engine"]  # columns of all pictures
THUMBNAIL, BYTES = 240, 8000  # pixels of the longer side, and a JPEG's bytes if its quality can do that
GIVEN = (
    "title mode pictures engine threshold outline source unit scale mm_per_pixel classifier options seconds versions "
    "tables"
)


def shown_files(table: pd.DataFrame) -> list[str]:
    """Files that a page shows of a table with a row a picture: the most odd, and some that could not be read."""
    ranked = table.sort_values(["score", "file"], ascending=[False, True])
    defective, good, error = (ranked["file"][ranked["verdict"] == verdict] for verdict in VERDICTS)
    return [*[*defective, *good][:SHOWN], *error[:SHOWN]]


def _summary(table: pd.DataFrame) -> dict:
    """What the page says of all pictures: how many of each verdict, hides, and scores of defective ones not shown."""
    scores = table["score"][table["verdict"] == "defective"].sort_values(ascending=False)
    return {
        "counts": {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS},
        "hides": table.loc[table["grade"].notna(), ["area_m2", "usable_share", "grade"]].to_numpy().tolist(),
        "rest": scores[SHOWN:].tolist(),
    }


def write_page(records: Sequence[PictureRecord], table: pd.DataFrame, folder: Path, settings: dict) -> Path:
    """Writes ``folder/index.html``: what needs attention, then the thousand most odd pictures, most odd first.

    ``settings`` has the keys of `GIVEN` (``scale``: both ends of the map; ``classifier``: None, or texts: its name and
    its worth; ``tables``: ``csv`` or ``parquet``, as they lie beside the page) and may have ``photographs``, the folder
    of the records' files: the page names it by its place beside ``folder``, and opens the photographs while they are
    there; without it the small pictures are made of the overlays.
    ``table`` has a row for all pictures, ``records`` are all or those of `shown_files`. Raises KeyError for a missing
    setting.
    """
    folder = Path(folder)
    read = [record for record in records if record.error is None]
    read.sort(key=lambda record: (not record.regions, -record.score, record.file))
    photographs = settings.get("photographs")
    data = {
        "run": {key: settings[key] for key in GIVEN.split()} | _given(settings, photographs),
        "photographs": photographs and _address(Path(photographs).resolve(), folder.resolve()),
        **_summary(table),
        "pictures": [_picture(one, folder, photographs) for one in read[:SHOWN]],
        "errors": [[one.file, one.error] for one in records if one.error is not None][:SHOWN],
    }
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")  # ends no script
    parts = {"title": html.escape(folder.resolve().name), "policy": _policy(page), "data": text}
    page = re.sub("@@(title|policy|data)@@", lambda name: parts[name[1]], page)
    with whole_file(folder / "index.html") as stream:
        stream.write(page.encode("utf-8", "xmlcharrefreplace"))
    return folder / "index.html"


def _policy(page: str) -> str:
    """A content security policy: nothing from a network, no script and no style but those of the template."""
    parts = (re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1] for tag in ("script", "style"))
    script, style = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
    own = f"img-src 'self' data:; script-src 'sha256-{script}'; style-src 'sha256-{style}'"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def _given(settings: dict, photographs: Path | None) -> dict:
    """What tells reports apart, without this machine's folders: where the pictures are, and options."""
    options = {
        name: printable(paths.relative(value)) if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in dict(settings["options"]).items()
    }
    return {"options": options, "from": printable(paths.relative(photographs)) if photographs else settings["title"]}


def _address(place: Path, folder: Path) -> str:
    """A folder's URL, as short as it can be, from a page in another folder."""
    try:
        return quote(os.fsencode(Path(os.path.relpath(place, folder)).as_posix())) + "/"
    except ValueError:  # another drive of Windows
        return place.as_uri() + "/"


def _picture(record: PictureRecord, folder: Path, photographs: Path | None) -> dict:
    original = photographs and Path(photographs) / record.file
    regions, detail, hide = record.regions[:REGIONS], max(1, record.width / 1500, record.height / 1500), record.hide
    if hide:
        rings = [_outline(ring, detail, POINTS // len(hide.outline)) for ring in hide.outline]
        hide = vars(hide) | {"outline": rings, "drawing": f"hides/{safe_name(record.file)}"}
    return {name: getattr(record, name) for name in ("file", "width", "height", "score")} | {
        "link": quote(os.fsencode(record.file)),  # no character of a name has a meaning in a URL
        "overlay": record.overlay and quote(os.fsencode(record.overlay)),
        "thumbnail": _thumbnail([original, record.overlay and folder / record.overlay]),
        "left_out": len(record.regions) - len(regions),
        "regions": [_region(region, detail, POINTS // len(regions)) for region in regions],
        "hide": hide,
    }


def _region(region: RegionRecord, detail: float, most: int) -> dict:
    detail = min(detail, min(np.ptp(region.outline, axis=0)) / 10)  # a tiny or thin region keeps its form
    shown = {"outline": _outline(region.outline, detail, most), "box": np.round(region.box, 1).tolist()}
    return {key: value for key, value in vars(region).items() if value is not None} | shown


def _outline(ring: Sequence[tuple[float, float]], detail: float, most: int) -> list[float]:
    """x, y, x, y ... as near to the closed ring as so many points (8 or more) allow; the last one joins the first."""
    points = np.asarray(ring)[np.append(np.arange(0, len(ring) - 1, 1 + len(ring) // 1000), -1)]
    while len(points := approximate_polygon(points, detail)) > max(most, 8):
        detail *= 1.5
    return points[:-1].round(1).ravel().tolist()


def _thumbnail(sources: list[Path | None]) -> str | None:
    """A small JPEG, as a data URI, of the first of these files that can be read."""
    for path in filter(None, sources):
        with suppress(UnreadableImageError):
            picture = load_image(path)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            for quality in (50, 30, 15, 5):
                stream = io.BytesIO()
                picture.save(stream, "JPEG", quality=quality, optimize=True)
                if stream.tell() <= BYTES:
                    break
            return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return None
