"""Damaged and odd pictures, masks, tables and lists: a result, or an error that names the file, and nothing else."""

import io
import json
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from src.config import paths
from src.data.manifest import record
from src.data.pictures import UnreadableImageError, load_image, load_mask, picture_size
from src.data.tables import digests, index_images, read_image_list, write_image_list
from src.synthetic.sample import write_sample
from tests.fuzz.limits import damaged, damages, limits, with_checksums

HIGHEST = 1_500_000  # kB of memory that one picture of this size may take


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def make_pictures():
    """Good files of every kind that the reader knows, and some that it does not."""
    generator = np.random.default_rng(0)
    colour = Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    values = generator.integers(0, 65536, (20, 24))
    deep, wide, real = (Image.fromarray(values.astype(kind)) for kind in ("<u2", "<i4", "<f4"))
    clear, turned = colour.copy(), Image.Exif()
    clear.putalpha(Image.fromarray(generator.integers(0, 256, (20, 24), dtype=np.uint8)))
    turned[274], turned[282], turned[270] = 6, 72.0, "leather"
    png = [encoded(colour.convert(mode), "PNG") for mode in ("1", "L", "RGB", "P")]
    png += [encoded(clear, "PNG", exif=turned), encoded(deep, "PNG"), encoded(colour, "PNG", transparency=(1, 2, 3))]
    jpeg = [encoded(colour, "JPEG", exif=turned), encoded(colour, "JPEG", progressive=True, subsampling=0)]
    jpeg += [encoded(colour.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    jpeg.append(encoded(colour, "MPO", save_all=True, append_images=[colour]))
    tiff = [encoded(one, "TIFF") for one in (colour, clear, deep, wide, real, colour.convert("1"))]
    tiff += [
        encoded(colour, "TIFF", compression=name, exif=turned) for name in ("tiff_lzw", "tiff_deflate", "packbits")
    ]
    tiff.append(encoded(deep, "TIFF", tiffinfo={281: 4095, 341: 1023}))
    webp = [encoded(colour, "WEBP", exif=turned), encoded(clear, "WEBP", lossless=True)]
    webp.append(encoded(colour, "WEBP", save_all=True, append_images=[clear]))
    others = [encoded(colour, "BMP"), encoded(colour.convert("P"), "BMP"), encoded(colour, "GIF"), b"", b"<html>"]
    return png + jpeg + tiff + webp + others


PICTURES = make_pictures()


@pytest.fixture(scope="module")
def folder():
    """A folder for all cases, and a bound on the memory that any of them takes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with TemporaryDirectory() as name:
        yield Path(name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < HIGHEST


def written(folder, picture, changes, repair):
    content = damaged(picture, changes)
    (folder / "x.png").write_bytes(with_checksums(content) if repair and content.startswith(b"\x89PNG") else content)
    return folder / "x.png"


@limits(800)
@given(picture=st.sampled_from(PICTURES), changes=damages(), repair=st.booleans())
@example(picture=PICTURES[4], changes=[], repair=False)
def test_a_damaged_picture_is_a_picture_or_a_named_error(folder, picture, changes, repair):
    path = written(folder, picture, changes, repair)
    for read in (load_image, picture_size):
        try:
            result = read(path)
            assert not isinstance(result, Image.Image) or result.mode == "RGB"
        except UnreadableImageError as error:
            assert str(path) in str(error)


@limits(250)
@given(picture=st.sampled_from(PICTURES), changes=damages(), repair=st.booleans())
def test_a_damaged_mask_is_a_mask_or_a_named_error(folder, picture, changes, repair):
    path = written(folder, picture, changes, repair)
    try:
        mask = load_mask(str(path), size=(24, 20))
        assert mask.shape == (20, 24) and mask.dtype == bool
    except ValueError as error:
        assert str(path) in str(error)


@limits(150)
@given(
    value=st.integers(1, 65535),
    kind=st.sampled_from(("u1", "<u2", "<i4", "<f4")),
    share=st.floats(0, 0.8),
    seed=st.integers(0, 999),
)
def test_a_mask_of_two_values_is_read_whatever_they_are(folder, value, kind, share, seed):
    defect = np.random.default_rng(seed).random((20, 24)) < share
    Image.fromarray((defect * (value % 256 if kind == "u1" else value)).astype(kind)).save(folder / "m.tif")
    if defect.mean() <= 0.8 and (kind != "u1" or value % 256):
        assert (load_mask(str(folder / "m.tif"), size=(24, 20)) == defect).all()


# -- tables and lists -----------------------------------------------------------------------------------------------

FILES = [f"{label}/{number}.png" for label in ("bad", "good") for number in range(2)]
cells = st.one_of(
    st.text(max_size=12), st.sampled_from([*FILES, "good", "bad", "1", " ", '"', "=cmd()", "\0", "é", "NaN"])
)
tables = st.lists(st.lists(cells, max_size=4), max_size=6)


@pytest.fixture(scope="module")
def leather(folder):
    """Two classes of two pictures; what images.csv says of them, and the manifest."""
    root = folder / "leather"
    for number, file in enumerate(FILES):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3), 40 * number).save(root / file)
    table = index_images(root)
    listed = table.assign(digest=digests(table["path"]), group="h", copy_of=table["file"], unreadable=False)
    write_image_list(listed, folder / "images.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "manifest", folder / "manifest.json")
        record(root, "data", origins={}, thorough=False)
        yield root, (folder / "images.csv").read_bytes(), (folder / "manifest.json").read_bytes()


def as_csv(header, rows):
    return "\n".join([header, *(",".join(row) for row in rows)]).encode("utf-8", "surrogatepass")


GOOD_HIDES = "\n".join(["path,label,hide", *(f"{file},{file.split('/')[0]},1" for file in FILES)]).encode()
hides = st.one_of(
    st.builds(as_csv, st.sampled_from(("path,label,hide", "path,hide", "")), tables), st.binary(max_size=60)
)


@limits(150)
@given(content=st.one_of(hides, st.builds(damaged, st.just(GOOD_HIDES), damages())))
def test_damaged_hides_are_hides_or_a_named_error(leather, content):
    (leather[0] / "hides.csv").write_bytes(content)
    try:
        table = index_images(leather[0])
        assert table["group"].notna().all() and (table["group"].str.strip() == table["group"]).all()
    except ValueError as error:
        assert str(leather[0] / "hides.csv") in str(error)
    finally:
        (leather[0] / "hides.csv").unlink()


@limits(120)
@given(changes=damages(), rows=st.one_of(st.none(), tables))
def test_a_damaged_list_of_pictures_is_a_list_or_a_named_error(leather, changes, rows):
    file = leather[0].parent / "images.csv"
    file.write_bytes(damaged(leather[1], changes) if rows is None else as_csv(leather[1].decode().split("\n")[0], rows))
    try:
        assert len(read_image_list(leather[0], file)) <= len(FILES)
    except ValueError as error:
        assert str(file) in str(error)


KEYS = (
    "entries",
    "data",
    "source",
    "root",
    "date",
    "counts",
    "sizes",
    "checksums",
    "left",
    "sha256",
    "version",
    "seed",
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
    max_leaves=8,
)


@limits(80)
@given(changes=damages(), value=st.one_of(st.just(...), values))
def test_a_damaged_manifest_is_a_manifest_or_a_named_error(leather, changes, value):
    paths.manifest.write_bytes(damaged(leather[2], changes) if value is ... else json.dumps(value).encode())
    try:
        entry = record(leather[0], "data", origins={}, thorough=False)
        assert len(entry.sizes) == len(FILES)
    except ValueError as error:
        assert str(paths.manifest) in str(error)


@limits(50)
@given(value=st.one_of(values, st.binary(max_size=30)))
def test_a_damaged_list_of_a_sample_is_a_named_error(folder, value):
    (folder / "sample").mkdir(exist_ok=True)
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    (folder / "sample" / "sample.json").write_bytes(content)
    with pytest.raises(FileExistsError, match="sample"):
        write_sample(folder / "sample")
