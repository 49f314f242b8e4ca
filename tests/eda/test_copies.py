"""Copies: same bytes, and what survives recompression, flips, turns and another size."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.data.pictures import UnreadableImageError
from src.eda.copies import copy_groups, near_duplicates
from src.synthetic.leather import render_leather


@pytest.fixture(scope="module")
def leather():
    """Twelve different pictures of leather, uint8 (96, 96, 3)."""
    return [render_leather(np.random.default_rng(seed), 96) for seed in range(12)]


def write(folder, pictures, **options):
    rows = []
    for name, pixels in pictures.items():
        path = folder / name
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
        rows.append((str(path), name))
    return pd.DataFrame(rows, columns=["path", "file"])


def pairs_of(near):
    return {frozenset(pair) for pair in near[["first", "second"]].to_numpy().tolist()}


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_a_turned_recompressed_copy_is_found(leather, tmp_path, turns, flip):
    copy = np.rot90(leather[3][:, ::-1] if flip else leather[3], turns)
    table = write(tmp_path, {f"{i}.png": picture for i, picture in enumerate(leather)})
    planted = write(tmp_path, {"copy.jpg": copy}, quality=60)
    near = near_duplicates(pd.concat([table, planted]))
    assert pairs_of(near) == {frozenset(("3.png", "copy.jpg"))}
    assert 0.45 <= near["correlation"].iloc[0] <= 1


def test_another_size_and_format_are_found(leather, tmp_path):
    large = np.asarray(Image.fromarray(leather[0]).resize((300, 300), Image.Resampling.BICUBIC))
    table = write(tmp_path, {"a.png": leather[0], "b.bmp": large, "c.png": leather[1]})
    assert pairs_of(near_duplicates(table)) == {frozenset(("a.png", "b.bmp"))}


def test_the_same_texture_in_another_colour_is_no_copy(leather, tmp_path):
    other = np.clip(leather[0].astype(int) + (40, 0, -20), 0, 255).astype(np.uint8)
    table = write(tmp_path, {"a.png": leather[0], "b.png": other})
    assert near_duplicates(table).empty


def test_pictures_without_texture_are_like_nothing(tmp_path):
    flat = np.full((64, 64, 3), 120, np.uint8)
    table = write(tmp_path, {"a.png": flat, "b.png": flat})
    assert near_duplicates(table).empty


def test_pairs_are_listed_once_highest_first(leather, tmp_path):
    noisy = np.clip(leather[0] + np.random.default_rng(0).normal(0, 6, leather[0].shape), 0, 255).astype(np.uint8)
    table = write(tmp_path, {"a.png": leather[0], "b.png": noisy, "c.png": leather[0]})
    near = near_duplicates(table)
    assert near[["first", "second"]].iloc[0].tolist() == ["a.png", "c.png"]
    assert near["correlation"].iloc[0] == pytest.approx(1, abs=1e-5)
    assert len(near) == 3 and near["correlation"].is_monotonic_decreasing


def test_an_unreadable_picture_is_named(leather, tmp_path):
    table = write(tmp_path, {"a.png": leather[0], "b.png": leather[1]})
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match="b.png"):
        near_duplicates(table)


def test_groups_follow_chains_of_pairs():
    files = pd.Series(["a", "b", "c", "d", "e"], index=[7, 3, 9, 1, 0])
    pairs = pd.DataFrame([("b", "d"), ("d", "e")], columns=["first", "second"])
    groups = copy_groups(files, pairs)
    assert groups.tolist() == ["a", "b", "c", "b", "b"] and groups.index.equals(files.index)
    assert copy_groups(files, pairs.iloc[:0]).tolist() == list("abcde")
