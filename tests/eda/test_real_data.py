"""The audit on the published six-class set; skipped unless ``LEATHER_DATA`` names a folder that holds it."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.baselines.splits import load_split
from src.config import KAGGLE_FOLDER, paths
from src.data.pictures import load_image
from src.data.tables import index_images
from src.eda.audit import audit
from src.eda.copies import near_duplicates
from src.eda.describe import describe_images

FOLDER = paths.data / KAGGLE_FOLDER
PLANTED = 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the six-class set is not here; LEATHER_DATA names its folder"),
]


@pytest.fixture(scope="module")
def audited():
    return audit(describe_images(index_images(FOLDER)))


def test_known_oddities_are_counted(audited):
    report = audited.report
    assert (report["images"], report["exact_duplicate_files"], report["unique_images"]) == (3600, 546, 3054)
    assert sorted(report["unexpected_size"]) == ["grain_off/Grain off 01 (327).jpg", "pinhole/Pinhole 01 (465).jpg"]
    assert report["unreadable"] == []


def test_planted_copies_are_found_and_random_pairs_are_not(audited, tmp_path):
    generator = np.random.default_rng(0)
    distinct = audited.table[audited.table["copy_of"] == audited.table["file"]]
    chosen = distinct.sample(PLANTED, random_state=0).reset_index(drop=True)
    copies = []
    for number, row in enumerate(chosen.itertuples()):
        picture = load_image(row.path)
        if generator.integers(2):
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = picture.rotate(90 * int(generator.integers(4)), expand=True)
        path = tmp_path / f"{number}.jpg"
        picture.save(path, quality=int(generator.integers(50, 96)))
        copies.append((str(path), path.name))
    both = pd.concat([chosen[["path", "file"]], pd.DataFrame(copies, columns=["path", "file"])], ignore_index=True)
    pairs = set(near_duplicates(both)[["first", "second"]].itertuples(index=False, name=None))
    planted = {(file, f"{number}.jpg") for number, file in enumerate(chosen["file"])}
    assert len(pairs & planted) / PLANTED >= 0.99
    draws = (generator.choice(PLANTED, 2, replace=False) for _ in range(1000))
    others = {(chosen["file"][i], f"{j}.jpg") for i, j in draws}
    assert len(others) > 900 and not pairs & others


def test_exact_copies_of_test_tiles_are_in_training_as_readme_says(audited):
    table = load_split(paths.root / "reports" / "baselines" / "splits" / "random-80-20.csv.gz", audited.table)
    original = table["file"].groupby(table["digest"]).transform("first")
    test = table["part"] == "test"
    seen = set(original[table["part"] == "train"])
    assert (test.sum(), original[test].isin(seen).sum()) == (720, 153)
