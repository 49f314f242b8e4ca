"""The audit on a set whose copies, hides and shortcut are known, because it was made for this."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.config import CLASS_NAMES
from src.data.tables import index_images, read_image_list, write_image_list
from src.eda import audit as audit_module
from src.eda.audit import audit, colour_only_baseline
from src.eda.describe import describe_images
from src.synthetic.leather import render_leather

COLOURS = ((170, 60, 60), (60, 150, 60), (60, 60, 170), (160, 160, 50), (110, 110, 110), (150, 60, 150))


@pytest.fixture(scope="module", autouse=True)
def small_forests():
    """What a forest of colours learns here, it learns with few trees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_module, "TREES", 20)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six classes of 20 pictures, each class on two hides of its own, with planted copies and odd files."""
    root = tmp_path_factory.mktemp("audit")
    for label, colour in zip(CLASS_NAMES, COLOURS, strict=True):
        (root / label).mkdir()
        for number in range(20):
            relief = render_leather(np.random.default_rng([CLASS_NAMES.index(label), number]), 64)
            relief = relief.astype(float).mean(2, keepdims=True)
            shade = 1.0 if number < 10 else 0.55  # the second hide is darker
            pixels = shade * np.array(colour) + (relief - relief.mean()) * 0.5
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(root / label / f"tile ({number + 1}).png")
    tile = root / "grain_off" / "tile (3).png"
    (root / "grain_off" / "tile (4).png").write_bytes(tile.read_bytes())
    (root / "grain_off" / "tile (5).png").write_bytes(tile.read_bytes())
    turned = np.rot90(np.asarray(Image.open(root / "pinhole" / "tile (7).png")))
    Image.fromarray(np.ascontiguousarray(turned)).save(root / "pinhole" / "turned.jpg", quality=80)
    mislabelled = np.asarray(Image.open(root / "pinhole" / "tile (1).png"))[:, ::-1]
    Image.fromarray(np.ascontiguousarray(mislabelled)).save(root / "loose_grain" / "wrong.png")
    Image.open(root / "grain_off" / "tile (1).png").resize((80, 90)).save(root / "grain_off" / "large.png")
    (root / "pinhole" / "broken.png").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def audited(folder):
    return audit(describe_images(index_images(folder)))


def test_copies_and_odd_files_are_counted(audited):
    report = audited.report
    assert (report["images"], report["unique_images"], report["exact_duplicate_files"]) == (124, 121, 2)
    assert report["unreadable"] == ["pinhole/broken.png"]
    assert report["unexpected_size"] == ["grain_off/large.png"]
    assert report["near_duplicate_pairs"] == report["near_duplicate_files"] == 3
    assert report["label_conflicts"] == [["loose_grain/wrong.png", "pinhole/tile (1).png"]]


def test_copies_point_to_their_first_file(audited):
    rows = audited.table.set_index("file")
    assert rows.loc["grain_off/tile (5).png", "copy_of"] == "grain_off/tile (3).png"
    assert rows["copy_kind"].value_counts().to_dict() == {"distinct": 118, "changed": 3, "exact": 2}
    assert (rows.loc[rows["copy_kind"] == "distinct", "copy_of"] == rows.index[rows["copy_kind"] == "distinct"]).all()


def test_no_copy_leaves_its_hide(audited):
    assert (audited.table.groupby("copy_of")["group"].nunique() == 1).all()


def test_hides_are_those_of_the_colours(audited):
    hides = audited.report["hide_groups"]
    assert hides["count"] == 12 and sum(hides["sizes"].values()) == 123
    assert hides["source"] == "colour of runs of file numbers"
    classes = [set(counts) for counts in hides["classes_per_group"].values()]
    assert sum(len(names) == 1 for names in classes) == 11  # the wrongly labelled copy follows its picture's hide
    assert all(0 <= entry["adjusted_rand_index"] <= 1 for entry in hides["stability"].values())


def test_colour_is_a_shortcut_only_where_hides_are_shared(audited):
    """Each hide is of one class, so colour names the class at random and misleads on an unseen hide."""
    baseline = audited.report["colour_only_baseline"]
    assert baseline["random"]["accuracy"] > 0.9
    assert baseline["hide"]["accuracy"] < baseline["random"]["accuracy"] - 0.3
    assert baseline["hide"]["n"] == 118


def test_the_report_is_json_and_known_hides_are_kept(audited, folder):
    assert json.loads(json.dumps(audited.report)) == audited.report
    described = describe_images(index_images(folder))
    named = described.assign(group=["own"] * 60 + ["other"] * (len(described) - 60))
    few = audit(named).report["colour_only_baseline"]
    assert set(few) == {"random"}  # two hides make no five folds
    named["group"] = [f"own {number % 11}" for number in range(len(named))]
    report = audit(named).report
    hides = report["hide_groups"]
    assert hides["source"] == "hides.csv" and hides["count"] == 11 and "stability" not in hides
    assert set(report["colour_only_baseline"]) == {"random", "hide"}


def test_the_baseline_never_sees_the_hides_it_is_tested_on():
    """Colour says the hide and nothing else; hide and class are drawn apart, so nobody can beat chance by much."""
    generator = np.random.default_rng(0)
    hides = generator.integers(0, 30, 600)
    colours = generator.uniform(0, 255, (30, 6))
    label_of = np.array(CLASS_NAMES)[generator.integers(0, 6, 30)]  # every hide has one class
    table = pd.DataFrame(colours[hides], columns=["red", "green", "blue", "red_std", "green_std", "blue_std"])
    table = table.assign(label=label_of[hides], group=hides.astype(str), file=[str(i) for i in range(600)])
    table["copy_of"] = table["file"]
    accuracies = colour_only_baseline(table)
    assert accuracies["random"]["accuracy"] == 1.0 and accuracies["hide"]["accuracy"] < 0.5


def test_every_picture_is_in_the_list(audited, folder, tmp_path):
    images = audited.images.set_index("file")
    assert len(images) == 124 and images["unreadable"].sum() == 1 and images["digest"].notna().all()
    assert images.loc["pinhole/broken.png", ["group", "copy_of"]].isna().all()
    file = write_image_list(audited.images, tmp_path / "images.csv")
    table = read_image_list(folder, file)
    assert table["copy_of"].tolist() == audited.table["copy_of"].tolist() and len(table) == 123


@pytest.mark.parametrize("names", [("good", "scratch"), ("ok", "a", "b", "c", "d", "e", "f")])
def test_two_and_seven_classes(tmp_path, names):
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        for tile in range(12):
            pixels = render_leather(np.random.default_rng([number, tile]), 48)
            Image.fromarray(pixels).save(tmp_path / name / f"{tile}.png")
    audited = audit(describe_images(index_images(tmp_path)))
    assert audited.report["images"] == 12 * len(names)
    assert audited.report["colour_only_baseline"]["random"]["chance"] == pytest.approx(1 / len(names))


def test_classes_of_three_pictures_need_no_validation_part(tmp_path):
    """The forest of colours has no use for one."""
    generator = np.random.default_rng(0)
    for label in ("bad", "good"):
        (tmp_path / label).mkdir()
        for number in range(3):
            pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    described = describe_images(index_images(tmp_path))
    figures = audit(described).report["colour_only_baseline"]
    assert list(figures) == ["random"] and figures["random"]["n"] == 2
