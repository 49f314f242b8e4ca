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


def numbers(values):
    return texture_numbers(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB"))


def test_numbers_are_finite_even_without_texture():
    assert numbers(grain(0)).shape == (288,)
    for flat in (0, 255):
        assert np.isfinite(numbers(np.full((SIDE, SIDE), flat))).all()


def test_patterns_are_shares():
    found = numbers(grain(0))
    for start, stop in ((0, 10), (10, 28), (28, 54), (54, 64), (190, 216)):
        assert np.square(found[start:stop]).sum() == pytest.approx(1)


def test_light_and_exposure_matter_less_than_grain():
    plain = numbers(grain(1))
    slope = np.linspace(0.6, 1.2, SIDE)[None, :]
    other_light = np.abs(numbers(grain(1) * slope) - plain).mean()
    other_grain = np.abs(numbers(grain(1, width=5)) - plain).mean()
    assert other_light < 0.2 * other_grain


def test_mirrored_leather_has_the_same_numbers():
    values = grain(2)
    assert numbers(values[:, ::-1]) == pytest.approx(numbers(values), abs=0.02)


def test_table_is_by_file_and_takes_any_size(tmp_path):
    for number, side in enumerate((64, 300)):
        Image.fromarray(grain(number, side=side).clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    rows = pd.DataFrame({"path": [str(tmp_path / f"{i}.png") for i in (1, 0)], "file": ["b", "a"]})
    found = texture_table(rows)
    assert list(found.index) == ["b", "a"] and found.shape == (2, 288)
    assert np.isfinite(found.to_numpy()).all()


def test_a_table_is_kept_for_the_same_files(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(grain(0).clip(0, 255).astype(np.uint8)).save(path)
    rows = pd.DataFrame({"path": [str(path)], "file": ["a"]})
    first = texture_table(rows, cache=tmp_path / "cache")
    monkeypatch.setattr(texture, "Parallel", None)  # would fail
    pd.testing.assert_frame_equal(texture_table(rows, cache=tmp_path / "cache"), first)
    path.touch()
    with pytest.raises(TypeError):
        texture_table(rows, cache=tmp_path / "cache")
