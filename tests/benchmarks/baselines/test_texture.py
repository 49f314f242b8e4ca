"""Numbers of the grain: what they know, what they do not, and that a table of them is kept."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.baselines import texture
from benchmarks.baselines.texture import SIDE, texture_numbers, texture_table


def grain(seed, *, width=2, side=SIDE):
    """Seeded grey noise of a certain coarseness, mean 120."""
    small = np.random.default_rng(seed).normal(0, 1, (side // width + 1,) * 2)
    return 120 + 25 * np.kron(small, np.ones((width, width)))[:side, :side]


def save(values, file):
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB").save(file)
    return str(file)


@pytest.fixture
def numbers(tmp_path):
    """The numbers of a picture of these grey values."""
    return lambda values: texture_numbers(save(values, tmp_path / "picture.png"))


def test_numbers_are_finite_even_without_texture(numbers):
    assert numbers(grain(0)).shape == (288,)
    for flat in (0, 255):
        assert np.isfinite(numbers(np.full((SIDE, SIDE), flat))).all()


def test_patterns_are_shares(numbers):
    values = numbers(grain(0))
    for start, stop in ((0, 10), (10, 28), (28, 54), (54, 64), (190, 216)):
        assert np.square(values[start:stop]).sum() == pytest.approx(1)


def test_light_and_exposure_matter_less_than_grain(numbers):
    plain = numbers(grain(1))
    slope = np.linspace(0.6, 1.2, SIDE)[None, :]
    other_light = np.abs(numbers(grain(1) * slope) - plain).mean()
    other_grain = np.abs(numbers(grain(1, width=5)) - plain).mean()
    assert other_light < 0.2 * other_grain


def test_mirrored_leather_has_the_same_numbers(numbers):
    values = grain(2)
    assert numbers(values[:, ::-1]) == pytest.approx(numbers(values), abs=0.02)


def test_table_is_by_file_and_takes_any_size(tmp_path):
    paths = [save(grain(number, side=side), tmp_path / f"{number}.png") for number, side in enumerate((64, 300))]
    rows = pd.DataFrame({"path": paths[::-1], "file": ["b", "a"]})
    values = texture_table(rows)
    assert list(values.index) == ["b", "a"] and values.shape == (2, 288)
    assert np.isfinite(values.to_numpy()).all()


def test_a_table_is_kept_for_the_same_pictures_wherever_they_are(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    rows = pd.DataFrame({"path": [save(grain(0), file)], "file": ["a"]})
    first = texture_table(rows, cache=tmp_path / "cache")
    monkeypatch.setattr(texture, "Parallel", None)  # would fail
    moved = file.rename(tmp_path / "b.png")
    pd.testing.assert_frame_equal(texture_table(rows.assign(path=str(moved)), cache=tmp_path / "cache"), first)
    save(grain(1), moved)
    with pytest.raises(TypeError):
        texture_table(rows.assign(path=str(moved)), cache=tmp_path / "cache")
