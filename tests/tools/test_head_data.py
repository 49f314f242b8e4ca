"""What a head learns from: originals on one side, like textures together, labels and references as they should be."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.localisation.encoder import Encoder
from src.synthetic.leather import render_leather
from tools import head_data
from tools.head_data import _read_group, boxed_examples, draw_validation, like_groups, painted_examples, read_textures


def textures_in(root):
    """Four leathers, the first with a turned copy in a grey folder, and boxes on two."""
    for name in ("colour", "grey"):
        (root / name).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(render_leather(np.random.default_rng(number), 128)).save(root / "colour" / f"{number}.png")
    grey = Image.open(root / "colour" / "0.png").convert("L").transpose(Image.Transpose.ROTATE_90)
    grey.save(root / "grey" / "0.png")
    boxes = "file,left,top,right,bottom\n1.png,0.25,0.5,0.5,1\n1.png,0,0,0.1,0.1\n3.png,0,0,0.5,0.5\n"
    (root / "colour_boxes.csv").write_text(boxes)
    return root, root / "colour_boxes.csv"


@pytest.fixture
def textures(tmp_path):
    return textures_in(tmp_path / "textures")


@pytest.fixture
def encoder(backbone):
    return Encoder(backbone, (1, 3), zoom=448 / 256)


def test_copies_and_boxes_are_found(textures):
    table = read_textures(*textures)
    assert list(table["file"]) == [*(f"colour/{number}.png" for number in range(4)), "grey/0.png"]
    assert list(table["copy_of"]) == [*(f"colour/{number}.png" for number in range(4)), "colour/0.png"]
    assert list(table["boxed"]) == [False, True, False, True, False]


def of_originals(sizes, boxed):
    """A table of so many copies of each original, of which some have boxes."""
    rows = [(f"{n}_{copy}", f"{n}_0", n in boxed) for n, size in enumerate(sizes) for copy in range(size)]
    return pd.DataFrame(rows, columns=["file", "copy_of", "boxed"])


def test_no_original_stands_on_both_sides(monkeypatch):
    monkeypatch.setattr(head_data, "BOXED", 6)
    table, drawn = of_originals([1, 2, 3] * 12 + [11], boxed=range(0, 36, 2)), set()
    for seed in range(5):
        validation = draw_validation(table, seed=seed)
        rest = table.drop(validation.index)
        assert not set(validation["copy_of"]) & set(rest["copy_of"])
        assert "36_0" not in set(validation["copy_of"])  # a large group
        assert 6 <= validation["boxed"].sum() < 6 + 3
        wanted = 0.12 * (~table["boxed"]).sum()
        assert wanted <= (~validation["boxed"]).sum() < wanted + 3
        pd.testing.assert_frame_equal(validation, draw_validation(table, seed=seed))
        drawn.add(tuple(validation["file"]))
    assert len(drawn) > 1


def test_like_textures_are_together(tmp_path, monkeypatch):
    monkeypatch.setattr(head_data, "TOGETHER", 4)
    generator, looks, rows = np.random.default_rng(0), [(60, 4), (200, 4), (60, 40), (200, 40)], []
    for number in range(16):
        mean, spread = looks[number % 4]
        pixels = np.clip(generator.normal(mean, spread, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append((str(tmp_path / f"{number}.png"), number % 4))
    groups = like_groups(pd.DataFrame(rows, columns=["path", "look"]))
    assert [len(group) for group in groups] == [4] * 4
    assert sorted(group["look"].unique().tolist() for group in groups) == [[0], [1], [2], [3]]


def test_painted_examples_are_kept(textures, encoder, tmp_path, monkeypatch):
    table = read_textures(*textures)
    groups = [table[:2], table[2:4]]
    made = painted_examples(groups, encoder, tmp_path / "work", textures[1], seed=1)
    assert made.files == [file for file in table["file"][:4] for _ in range(2)]  # two pieces each
    assert made.distances.shape == (8, 5, 9, 32, 32) and torch.isfinite(made.distances).all()
    assert made.pixels.shape == (8, 8, 256, 256) and made.pixels.dtype == torch.int8
    assert set(made.labels.unique().tolist()) == {0, 1, 2, 3}
    assert [bool((label == 3).any()) for label in made.labels] == [False, False, True, True, False, False, True, True]
    next((tmp_path / "work").glob("0001*")).unlink()
    again = painted_examples(groups, encoder, tmp_path / "work", textures[1], seed=1)
    monkeypatch.setattr(Encoder, "tokens", lambda *_: pytest.fail("read again"))
    kept = painted_examples(groups, encoder, tmp_path / "work", textures[1], seed=1)
    for one in (again, kept):
        assert one.files == made.files
        assert torch.equal(one.labels, made.labels) and torch.equal(one.pixels, made.pixels)
        torch.testing.assert_close(one.distances, made.distances, atol=1e-2, rtol=0)


def test_another_seed_paints_other_defects(textures, encoder, tmp_path):
    groups = [read_textures(*textures)[:2]]
    one, other = (painted_examples(groups, encoder, tmp_path / str(seed), textures[1], seed=seed) for seed in (1, 2))
    assert not torch.equal(one.labels, other.labels)


def test_copies_are_no_references(textures, encoder, tmp_path):
    """Real pictures: none of copies alone. Painted ones: the other piece, and never a copy as a like leather."""
    table = read_textures(*textures)
    groups = [table.iloc[[0, 4]], table.iloc[[1, 2, 4]]]
    present = boxed_examples(groups, encoder, tmp_path / "real", textures[1]).distances[:, :, -1, 0, 0]
    assert present.tolist() == [[0, 0, 0]] * 2 + [[0, 1, 1]] * 3
    made = painted_examples(groups, encoder, tmp_path / "painted", textures[1], seed=1)
    present = made.distances[:, :, -1, 0, 0]
    assert present.tolist() == [[0, 1, 1, 0, 0]] * 4 + [[0, 1, 1, 1, 1]] * 6
    assert (made.distances[:4, 3:, 6:] == 0).all() and (made.distances[:, 1:3, 6:8] != 0).any()


def test_real_and_painted_defects_are_no_normal_reference(encoder, backbone):
    """Only patches without any defect are normal; those in boxes are no reference at all."""
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 255, (256, 256, 3), dtype=np.uint8) for _ in range(2)]
    labels = [np.zeros((256, 256), np.uint8) for _ in range(2)]
    labels[1][:], labels[1][:64] = 2, 3

    def present():
        made = _read_group(list(zip(pictures, labels, strict=True)), np.array(["a", "a"]), encoder, 0, pieces=2)
        return made["distances"][0, :, -1, 0, 0].tolist()

    assert present() == [0, 0, 1, 0, 0]  # a folder may show defects
    labels[1][:] = 3
    assert present() == [0, 0, 0, 0, 0]
    labels[1][128:] = 0
    assert present() == [0, 1, 1, 0, 0]


def test_boxes_are_labels(textures, encoder, tmp_path):
    root, boxes = textures
    table = read_textures(root, boxes)
    labels = boxed_examples([table[1:3]], encoder, tmp_path / "work", boxes).labels
    expected = np.zeros((256, 256), np.uint8)
    expected[128:256, 64:128] = expected[:26, :26] = 3
    assert np.array_equal(labels[0], expected) and not labels[1].any()
