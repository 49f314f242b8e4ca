"""Classes of tiles: by the model itself, and where tiles lie in a photograph."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.classifier.checkpoints import save_checkpoint
from src.classifier.predict import PUBLISHED_SIDE, class_probabilities, honest_figure, main, tiles_at, trained_side
from src.config import paths


@pytest.fixture
def photograph():
    """300 x 200 px; red is the column, green the row."""
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.minimum(np.arange(300), 255), np.arange(200)[:, None]
    return Image.fromarray(pixels)


def corners(tiles):
    return [tuple(np.asarray(tile)[0, 0, :2].tolist()) for tile in tiles]


def test_a_tile_is_centred_on_a_small_box_and_stays_inside(photograph):
    assert corners(tiles_at(photograph, (100, 90, 110, 100), 50)) == [(80, 70)]
    assert corners(tiles_at(photograph, (0, 0, 4, 4), 50)) == [(0, 0)]
    (tile,) = tiles_at(photograph, (290, 190, 300, 200), 50)
    assert corners([tile]) == [(250, 150)] and tile.size == (50, 50)


def test_a_large_box_is_covered_by_tiles_of_the_same_scale(photograph):
    tiles = tiles_at(photograph, (20, 20, 120, 60), 50)
    assert sorted(corners(tiles)) == [(20, 15), (70, 15)] and {tile.size for tile in tiles} == {(50, 50)}
    assert len(tiles_at(photograph, (0, 0, 300, 200), 10)) == 16


def test_a_picture_that_is_smaller_than_a_tile_is_mirrored_not_squashed(photograph):
    (tile,) = tiles_at(photograph.crop((0, 0, 30, 100)), (5, 5, 9, 9), 40)
    assert np.asarray(tile)[0, :, 0].tolist() == [*range(30), *range(29, 19, -1)]


def test_older_checkpoints_take_the_published_size():
    assert trained_side({"run": None}) == PUBLISHED_SIDE and trained_side({"run": {"picture_side": 96}}) == 96


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"total_samples": 3}', '{"total_samples": 3, "run": {"protocol": "x"}}']
)
def test_a_damaged_report_of_the_run_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(paths, "reports", tmp_path)
    file = tmp_path / "mine" / "resultados_multiclase" / "results_summary.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    said = honest_figure({"run": {"name": "mine"}})
    assert "not known" in said and "results_summary.json is damaged" in said


def test_the_command_prints_the_models_own_answers(model, pictures, tmp_path, capsys):
    save_checkpoint(model, tmp_path / "tiny.pth", run={"name": "nobody"})
    files = sorted(map(str, (pictures / "pinhole").glob("*.png")))[:3]
    main([*files, str(tmp_path / "gone.png"), "--model", str(tmp_path / "tiny.pth")])
    out, err = capsys.readouterr()
    table = pd.read_csv(io.StringIO(out))
    shares = class_probabilities(model, [Image.open(file).convert("RGB") for file in files])
    assert list(table["file"]) == [*files, str(tmp_path / "gone.png")] and "not known" in err
    assert np.allclose(table[list(model.class_names)].to_numpy()[:3], shares, atol=2e-6)
    assert list(table["class"])[:3] == [model.class_names[best] for best in shares.argmax(1)]
    assert "cannot read the image" in table["error"][3]
