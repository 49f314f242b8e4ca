"""Boxes of real defects: their place, how much of them a crop shows, and what training makes of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from tools.boxes import BOX, USES, box_mask, read_boxes, shown_boxes, targets


def test_boxes_are_read_and_placed(tmp_path):
    (tmp_path / "colour_boxes.csv").write_text("file,left,top,right,bottom\n1.png,0.25,0.5,0.5,1\n2.png,0,0,1,1\n")
    listed = read_boxes(tmp_path / "colour_boxes.csv")
    assert list(listed["file"]) == ["colour/1.png", "colour/2.png"]
    expected = np.zeros((8, 8), bool)
    expected[4:, 2:4] = True
    assert np.array_equal(box_mask(listed, "colour/1.png", 8), expected)
    assert not box_mask(pd.DataFrame({"file": []}), "colour/1.png", 8).any()


@pytest.mark.parametrize(("start", "number"), [(4, 255), (3, 1), (0, 1)])
def test_a_box_has_to_be_shown(start, number):
    """Of a box in columns 0 to 9 a crop shows 6, 7 or 10: under 60 % there is nothing to look for."""
    label = torch.zeros(10, 20, dtype=torch.uint8)
    label[2:4, :10], label[8, 15] = BOX, BOX
    label[2:4, 3] = 1 if start == 4 else BOX  # a painted core covers a part: two boxes
    shown = shown_boxes(label, (slice(0, 5), slice(start + (start == 4) * 3, 20)))
    assert set(shown.unique().tolist()) <= {0, number} | ({255} if start == 4 else set())


def test_a_crop_without_boxes():
    assert not shown_boxes(torch.ones(6, 6, dtype=torch.uint8), (slice(0, 3), slice(0, 3))).any()


def test_what_boxes_count_as():
    logits = torch.arange(40.0).reshape(1, 4, 10)
    truth, boxes = torch.zeros(1, 4, 10, dtype=torch.bool), torch.zeros(1, 4, 10, dtype=torch.uint8)
    truth[0, 0, 0], boxes[0, 1:3], boxes[0, 3, 5:] = True, 1, 255
    found = {use: targets(logits, truth, boxes, use=use) for use in USES}
    sums = {use: (int(target.sum()), int(weight.sum())) for use, (target, weight) in found.items()}
    assert sums == {"normal": (1, 40), "ignored": (1, 15), "defects": (26, 40), "weak": (3, 17)}
    target, weight = found["weak"]
    assert target[0, 2, 8:].all() and weight[0, 2, 8:].all()  # the two likeliest of twenty
    assert weight[0, 0].all() and not weight[0, 3, 5:].any()
    assert not boxes[truth].any()
