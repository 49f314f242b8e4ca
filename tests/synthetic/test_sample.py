"""The built-in sample: complete or absent, balanced over hides, with masks that match."""

import csv
import json
import multiprocessing
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GroupKFold, cross_val_score

from src.config import CLASS_NAMES
from src.synthetic import sample as sample_module
from src.synthetic.painter import MVTEC_KINDS
from src.synthetic.sample import MVTEC_COUNTS, write_sample

SMALL = {
    "images_per_class": 30,
    "size": 64,
    "mvtec_size": 64,
    "hide_size": 320,
    "mvtec_counts": {"train/good": 3, "test/good": 2} | {f"test/{defect}": 2 for defect in MVTEC_KINDS},
}
TINY = SMALL | {"images_per_class": 15, "size": 32, "mvtec_size": 32}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("data") / "sample", **SMALL)


def hides(sample):
    with open(sample / "leather_defect_classification" / "hides.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pixels(path):
    return np.asarray(Image.open(path))


def test_every_class_is_on_every_hide_in_equal_number(sample):
    rows = hides(sample)
    counts = {}
    for row in rows:
        counts[row["label"], row["hide"]] = counts.get((row["label"], row["hide"]), 0) + 1
        image = pixels(sample / "leather_defect_classification" / row["path"])
        assert image.shape == (64, 64, 3) and row["path"].startswith(f"{row['label']}/{row['label']}_")
    assert {label for label, _ in counts} == set(CLASS_NAMES)
    assert len(counts) == 6 * 15 and set(counts.values()) == {2}
    files = (sample / "leather_defect_classification").rglob("*.png")
    assert {path.relative_to(sample / "leather_defect_classification").as_posix() for path in files} == {
        row["path"] for row in rows
    }


def test_mvtec_layout_and_masks(sample):
    root = sample / "mvtec" / "leather"
    for folder, count in SMALL["mvtec_counts"].items():
        assert sorted(p.name for p in (root / folder).iterdir()) == [f"{i:03d}.png" for i in range(count)]
    assert sorted(p.name for p in (root / "ground_truth").iterdir()) == sorted(MVTEC_KINDS)
    for defect in MVTEC_KINDS:
        for image in (root / "test" / defect).iterdir():
            mask = pixels(root / "ground_truth" / defect / f"{image.stem}_mask.png")
            assert mask.dtype == np.uint8 and mask.shape == pixels(image).shape[:2]
            assert set(np.unique(mask)) == {0, 255}


def test_three_hides_with_their_masks(sample):
    pictures = sorted((sample / "hides").iterdir())
    assert [path.name for path in pictures] == ["01_black_table.jpg", "02_white_table.jpg", "03_wood_table.jpg"]
    for path in pictures:
        leather, defects = (
            pixels(sample / "hides_truth" / part / f"{path.stem}.png") for part in ("leather", "defects")
        )
        assert pixels(path).shape == (256, 320, 3) and leather.shape == defects.shape == (256, 320)
        assert set(np.unique(leather)) == set(np.unique(defects)) == {0, 255}
        assert (leather[defects > 0] == 255).all() and 0.35 < (leather > 0).mean() < 0.7


def test_masks_cover_what_was_painted(sample, tmp_path, monkeypatch):
    def paint_nothing(image, generator, *, kind, scale):
        return image, np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(sample_module, "add_defect", paint_nothing)
    clean = write_sample(tmp_path / "clean", **SMALL) / "mvtec" / "leather"
    for defect in MVTEC_KINDS:
        for image in (sample / "mvtec" / "leather" / "test" / defect).iterdir():
            mask = pixels(sample / "mvtec" / "leather" / "ground_truth" / defect / f"{image.stem}_mask.png") > 0
            before, after = (pixels(file).astype(float) for file in (clean / "test" / defect / image.name, image))
            change = np.abs(after - before).mean(axis=2)
            assert change[mask].mean() > 3.5 and (change[mask] > 0).mean() > 0.9
            assert (change[~mask] > 1).mean() < 0.15  # shading and dents around it
            assert change[~mask].mean() < 0.1 * change[mask].mean()


def test_all_images_are_different(sample):
    images = [path for path in sample.rglob("*.png") if not {"ground_truth", "hides_truth"} & set(path.parts)]
    assert len({pixels(path).tobytes() for path in images}) == len(images) == 6 * 30 + 3 + 2 + 5 * 2


def test_sample_json_lists_every_file_with_its_sum(sample):
    listed = json.loads((sample / "sample.json").read_text(encoding="utf-8"))
    files = {p.relative_to(sample).as_posix() for p in sample.rglob("*") if p.is_file()} - {"sample.json"}
    assert set(listed["sha256"]) == files and listed["seed"] == 42 and listed["images_per_class"] == 30
    for name, digest in listed["sha256"].items():
        assert sha256((sample / name).read_bytes()).hexdigest() == digest


def test_second_call_keeps_the_files(sample):
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*")}
    assert write_sample(sample, **SMALL) == sample
    assert {path: path.stat().st_mtime_ns for path in sample.rglob("*")} == before


def test_same_seed_same_sample_and_other_seed_another(tmp_path):
    roots = [write_sample(tmp_path / str(i), seed=seed, **TINY) for i, seed in enumerate((7, 7, 8))]
    first, second, other = (json.loads((root / "sample.json").read_text())["sha256"] for root in roots)
    assert first == second
    assert all(first[name] != other[name] for name in first if "ground" not in name and "csv" not in name)


def test_an_image_does_not_depend_on_the_others(sample, tmp_path):
    fewer = SMALL | {"images_per_class": 15, "mvtec_counts": {"test/poke": 1}}
    small = write_sample(tmp_path / "fewer", **fewer)
    for name in ("mvtec/leather/test/poke/000.png", "leather_defect_classification/pinhole/pinhole_001.png"):
        assert np.array_equal(pixels(small / name), pixels(sample / name))


@pytest.mark.parametrize("failing", ["render_leather", "write_json"])
def test_interrupted_call_leaves_nothing(tmp_path, monkeypatch, failing):
    working, calls = getattr(sample_module, failing), []

    def fail_later(*arguments, **options):
        calls.append(1)
        if len(calls) > 20 or failing == "write_json":
            raise KeyboardInterrupt
        return working(*arguments, **options)

    monkeypatch.setattr(sample_module, failing, fail_later)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "sample", **TINY)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert (write_sample(tmp_path / "sample", **TINY) / "sample.json").is_file()


def _make(root):
    write_sample(root, **TINY)


def test_two_processes_at_once_make_one_sample_and_leftovers_go(tmp_path):
    (tmp_path / ".sample.999.unfinished" / "mvtec").mkdir(parents=True)  # of a process that was killed
    processes = [multiprocessing.get_context("fork").Process(target=_make, args=(tmp_path / "sample",)) for _ in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]
    _make(tmp_path / "sample")  # whole


def test_a_full_disk_is_named_with_a_remedy(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="could not write .*sample: No space left.*Free some space"):
        write_sample(tmp_path / "sample", **TINY)
    assert list(tmp_path.iterdir()) == []


def test_fills_an_empty_folder_and_makes_parents(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (write_sample(tmp_path / "empty", **TINY) / "sample.json").is_file()
    assert (write_sample(tmp_path / "a" / "b", **TINY | {"mvtec_counts": {}}) / "sample.json").is_file()


def test_never_overwrites_what_is_there(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="no sample.json"):
        write_sample(tmp_path / "photos", **TINY)
    root = write_sample(tmp_path / "sample", **TINY)
    with pytest.raises(FileExistsError, match="expected .*'seed': 1"):
        write_sample(root, seed=1, **TINY)
    (root / "mvtec" / "leather" / "train" / "good" / "001.png").unlink()
    with pytest.raises(FileExistsError, match="001.png"):
        write_sample(root, **TINY)
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"x"


@pytest.mark.parametrize(
    "wrong",
    [
        {"images_per_class": 0},
        {"images_per_class": 13},
        {"size": 31},
        {"mvtec_size": 31},
        {"hide_size": 319},
        {"mvtec_counts": {"test/scratch": 1}},
        {"mvtec_counts": {"test/cut": -1}},
    ],
)
def test_refuses_wrong_numbers(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_sample(tmp_path / "sample", **TINY | wrong)
    assert list(tmp_path.iterdir()) == []


def test_default_counts():
    assert MVTEC_COUNTS == {
        "train/good": 40,
        "test/good": 12,
        "test/color": 8,
        "test/cut": 8,
        "test/fold": 8,
        "test/glue": 8,
        "test/poke": 8,
    }


def test_colour_tells_little_about_the_class(sample):
    rows = hides(sample)
    images = [pixels(sample / "leather_defect_classification" / row["path"]).reshape(-1, 3) for row in rows]
    numbers = [np.concatenate([image.mean(axis=0), image.std(axis=0)]) for image in images]
    forest = RandomForestClassifier(100, random_state=0)
    labels, groups = ([row[column] for row in rows] for column in ("label", "hide"))
    accuracy = cross_val_score(forest, numbers, labels, groups=groups, cv=GroupKFold(4)).mean()
    assert accuracy < 0.5  # chance is 0.167; at 224 pixels and 60 images a class it is 0.33


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "leather_defect_classification/loose_grain/loose_grain_001.png",
            [36.2, 36.4, 41.2, 44.5, 35.1, 37.5, 38.8, 40.6, 35.1, 38.6, 39.4, 40.9, 38.8, 39.2, 39.1, 41.2],
        ),
        (
            "mvtec/leather/test/glue/000.png",
            [64.0, 65.0, 64.5, 66.2, 65.7, 64.8, 62.8, 62.8, 68.3, 66.0, 65.6, 65.5, 68.3, 66.1, 67.7, 65.3],
        ),
    ],
)
def test_fingerprint(sample, name, expected):
    """Means of 4 x 4 blocks of the green channel; a change here means `_VERSION` must be raised."""
    blocks = pixels(sample / name)[..., 1].reshape(4, 16, 4, 16).mean(axis=(1, 3))
    assert np.abs(blocks.ravel() - expected).max() < 0.5, blocks.ravel().round(2).tolist()


@pytest.mark.parametrize("content", ["", "[]", "7", "{}", '{"sha256": 3}', '{"sha256": [[]]}', '{"version": 2'])
def test_a_sample_whose_list_is_damaged_is_named(tmp_path, content):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "sample.json").write_text(content)
    with pytest.raises(FileExistsError, match="sample.json is damaged .*: delete or rename it"):
        write_sample(tmp_path / "sample", **TINY)
