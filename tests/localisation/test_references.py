"""Distances to the own picture, to a folder and to normal pictures: by hand on small tokens."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from src.localisation import references
from src.localisation.references import References, choose_pictures, gather, own_distances, sample_rows

LEATHER, DEFECT, TABLE = torch.eye(4)[:3].half()


def drawn_tokens(*shape, seed=0):
    return F.normalize(torch.randn(*shape, 8, generator=torch.Generator().manual_seed(seed)), dim=-1).half()


def leather(height, width):
    return LEATHER.repeat(1, height, width, 1)


def literal_own(tokens, valid):
    """Each patch against all valid ones outside its 5 x 5, one by one."""
    blocks, height, width, _ = tokens.shape
    places = [place for place in np.ndindex(height, width) if valid[place]]
    counts = [max(1, round(share * len(places))) for share in (5 / 1024, 100 / 1024, 300 / 1024)]
    values = torch.empty(blocks, 3, height, width)
    for block, row, column in np.ndindex(blocks, height, width):
        far = [place for place in places if max(abs(place[0] - row), abs(place[1] - column)) > 2]
        cosines = sorted(float(tokens[block, row, column].float() @ tokens[block][p].float()) for p in far)[::-1]
        for number, count in enumerate(counts):
            values[block, number, row, column] = 1 - np.mean(cosines[:count])
    return values.flatten(0, 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("at_once", [4096, 10])
def test_own_distances_by_hand(monkeypatch, masked, at_once):
    monkeypatch.setattr(references, "QUERIES_AT_ONCE", at_once)
    tokens, valid = drawn_tokens(2, 9, 8), torch.ones(9, 8, dtype=bool)
    valid[:3, :4] = not masked
    distances = own_distances(tokens, valid=valid if masked else None)
    assert distances.shape == (6, 9, 8) and distances.dtype == torch.float32
    torch.testing.assert_close(distances, literal_own(tokens, valid).clamp(0, 2), atol=1e-5, rtol=0)


def test_a_defect_does_not_excuse_itself_but_its_twin_far_away_excuses_the_nearest_share():
    tokens = leather(16, 16)
    tokens[0, 3:5, 3:5] = DEFECT  # lies within 5 x 5 patches of each of its own
    nearest, some, many = own_distances(tokens)[:, 3, 3]
    assert (nearest, some, many) == (1, 1, 1) and own_distances(tokens)[:, 10, 10].max() == 0
    tokens[0, 12, 12] = DEFECT  # 1 of the nearest 1, 25 and 75 of 256
    assert own_distances(tokens)[:, 3, 3].tolist() == pytest.approx([0, 24 / 25, 74 / 75])


def test_the_table_is_no_reference():
    tokens, valid = leather(16, 16), torch.ones(16, 16, dtype=bool)
    tokens[0, :, 10:], valid[:, 10:] = DEFECT, False  # the table looks like the defect
    tokens[0, 4, 4] = DEFECT
    assert own_distances(tokens)[:, 4, 4].max() == 0
    assert own_distances(tokens, valid=valid)[:, 4, 4].min() == 1


def test_of_a_large_picture_some_patches_are_drawn_by_the_seed():
    tokens = drawn_tokens(1, 40, 40)
    some = own_distances(tokens, seed=1)
    assert torch.equal(some, own_distances(tokens, seed=1)) and not torch.equal(some, own_distances(tokens, seed=2))
    torch.testing.assert_close(some.mean((1, 2)), literal_mean(tokens), rtol=0.05, atol=0)


def literal_mean(tokens):
    """Of the nearest 0.5, 10 and 30 % of all patches, with the 5 x 5 in it: a small share of 1,600."""
    flat = tokens[0].flatten(0, 1).float()
    ordered = (1 - flat @ flat.T).fill_diagonal_(9).sort(dim=1).values
    return torch.stack([ordered[:, :count].mean() for count in (8, 156, 469)])


# -- other pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [4096, 5])
@pytest.mark.parametrize("without", [None, 4])
def test_distances_to_other_pictures_by_hand(monkeypatch, at_once, without):
    monkeypatch.setattr(references, "QUERIES_AT_ONCE", at_once)
    tokens, rows = drawn_tokens(2, 3, 4), drawn_tokens(2, 10, 6, seed=1)
    normals, folder = (References(rows, is_n).distances(tokens, without=without) for is_n in (True, False))
    assert normals.shape == folder.shape == (2, 3, 4)
    for block, row, column in np.ndindex(2, 3, 4):
        cosines = rows[block].float() @ tokens[block, row, column].float()  # (10 pictures, 6)
        nearest = sorted(1 - cosines[number].max().item() for number in range(10) if number != without)
        assert normals[block, row, column].item() == pytest.approx(nearest[0], abs=1e-5)
        assert folder[block, row, column].item() == pytest.approx(np.mean(nearest[:3]), abs=1e-5)  # 30 % of 9 or 10


@pytest.mark.parametrize(("showing", "distance"), [(1, 2 / 3), (3, 0)])
def test_a_rare_defect_does_not_excuse_in_a_folder_a_common_look_does(showing, distance):
    rows = LEATHER.repeat(1, 10, 5, 1)
    rows[0, :showing, 2] = DEFECT
    query = DEFECT.repeat(1, 1, 1, 1)
    assert References(rows, are_normal=False).distances(query).item() == pytest.approx(distance)
    assert References(rows, are_normal=True).distances(query).item() == 0  # a normal picture may excuse alone


def test_distances_lie_in_0_to_2():
    opposite = References(-LEATHER.repeat(1, 3, 2, 1), are_normal=False)
    assert opposite.distances(leather(1, 1)).item() == 2
    same = drawn_tokens(1, 5, 5)
    distances = References(same.flatten(1, 2)[:, None], are_normal=True).distances(same)
    assert distances.min() >= 0 and distances.max() < 2e-3  # a picture among the references; float16


def test_rows_are_tokens_at_their_positions_within_bounds():
    tokens, valid = drawn_tokens(2, 5, 7), torch.zeros(5, 7, dtype=bool)
    valid[1:4, 2:6] = True
    everything, places = sample_rows(tokens, 100)
    assert torch.equal(everything, tokens.flatten(1, 2)) and places[-1].tolist() == [4, 6]
    first, places = sample_rows(tokens, 6, seed=1, valid=valid)
    assert first.shape == (2, 6, 8) and len(set(map(tuple, places.tolist()))) == 6
    assert valid[places[:, 0], places[:, 1]].all()
    assert torch.equal(first, tokens[:, places[:, 0], places[:, 1]])
    assert torch.equal(first, sample_rows(tokens, 6, seed=1, valid=valid)[0])
    assert not torch.equal(first, sample_rows(tokens, 6, seed=2, valid=valid)[0])
    assert sample_rows(tokens, 100, valid=valid)[0].shape == (2, 12, 8)


def test_pictures_with_fewer_rows_repeat_them():
    many, few = drawn_tokens(2, 1, 5).flatten(1, 2), drawn_tokens(2, 1, 2, seed=1).flatten(1, 2)
    gathered = gather([many, few], are_normal=True)
    assert gathered.rows.shape == (2, 2, 5, 8) and gathered.are_normal
    assert torch.equal(gathered.rows[:, 0], many) and torch.equal(gathered.rows[:, 1], few[:, [0, 1, 0, 1, 0]])


def test_pictures_are_chosen_within_bounds():
    assert choose_pictures(5) == [0, 1, 2, 3, 4]
    some = choose_pictures(1000, seed=1)
    assert len(some) == references.ROWS // references.FEWEST_ROWS and some == sorted(set(some)) and max(some) > 500
    assert some == choose_pictures(1000, seed=1) != choose_pictures(1000, seed=2)
