"""Thresholds and settings from normal pictures alone: each is judged by the others, painted or under other light."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.metrics import average_precision_score

from src.data.pictures import load_image
from src.localisation import thresholds
from src.localisation.bank import PatchBank, evaluated_mask
from src.localisation.encoder import BankSettings, Encoder
from src.localisation.pixel_metrics import best_pixel_threshold
from src.localisation.thresholds import (
    Normals,
    candidate_settings,
    choose_settings,
    choose_thresholds,
    fit_detector,
    prediction_bound,
)
from src.synthetic.defects import add_synthetic_defect

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_and_quick")


@pytest.fixture
def pictures(normals):
    return [load_image(path) for path in normals]


def settings(backbone, **options):
    return BankSettings(**{"blocks": (backbone.patch_block,), "side": 96, "tile": 96} | options)


def fit(backbone, pictures, candidates):
    return fit_detector(backbone, pictures, protocol="a test", candidates=candidates, device=CPU)


def literal_bank(backbone, pictures, chosen):
    encoder = Encoder(backbone, chosen)
    return PatchBank(encoder, torch.cat([encoder.tokens(picture).rows(chosen.blocks) for picture in pictures]))


def literal_map(bank, picture):
    return bank.patch_map(bank.encoder.tokens(picture))


def literal_painted(backbone, pictures, chosen):
    """Maps and masks of painted pictures, each judged by a bank built from the other pictures."""
    maps, masks = [], []
    for number, picture in enumerate(pictures):
        bank = literal_bank(backbone, pictures[:number] + pictures[number + 1 :], chosen)
        generator = np.random.default_rng([0, number])
        for _ in range(2):
            painted, mask = add_synthetic_defect(np.asarray(picture), generator)
            maps.append(bank.full_size(literal_map(bank, Image.fromarray(painted)), (256, 256)))
            masks.append(evaluated_mask(mask.astype(bool)))
    return np.stack(maps), np.stack(masks)


# -- settings -------------------------------------------------------------------------------------------


def test_settings_are_chosen_by_pixel_ap_on_painted_defects(backbone, pictures):
    candidates = [settings(backbone, blocks=blocks) for blocks in ((0,), (0, 2), (2,), (2, 3, 4))]
    best, scores = choose_settings(Normals(backbone, pictures, candidates), candidates)
    for candidate, score in zip(candidates, scores, strict=True):
        maps, masks = literal_painted(backbone, pictures, candidate)
        assert score == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-4)
    assert best == candidates[int(np.argmax(scores))]
    detector = fit(backbone, pictures, candidates)
    assert detector.bank.settings == best
    wanted = f"highest pixel AP, {max(scores):.3f}, of 4 candidates on defects painted on normal images"
    assert detector.facts["settings_source"] == wanted
    assert fit(backbone, pictures, [best]).facts["settings_source"] == "given"
    torch.testing.assert_close(detector.bank.rows, literal_bank(backbone, pictures, best).rows)


def test_candidates_fit_any_depth(backbone):
    candidates = candidate_settings(backbone, Image.new("RGB", (96, 96)))
    depth, blocks = len(backbone.network.blocks), [candidate.blocks for candidate in candidates]
    assert all(depth // 3 <= min(each) and max(each) < depth for each in blocks) and len(blocks) == len(set(blocks))
    assert {len(each) for each in blocks} == {1, 2} and (depth - 1,) in blocks


def test_without_candidates_the_models_own_are_tried(backbone, pictures):
    detector = fit(backbone, pictures, None)
    candidates = candidate_settings(backbone, pictures[0])
    assert (
        detector.bank.settings in candidates and f"of {len(candidates)} candidates" in detector.facts["settings_source"]
    )
    with pytest.raises(ValueError, match="a test has no normal image"):
        fit(backbone, [], None)


# -- thresholds -----------------------------------------------------------------------------------------


def test_the_pixel_threshold_is_of_highest_f1_on_painted_defects(backbone, pictures):
    chosen = settings(backbone)
    limits = fit(backbone, pictures, [chosen]).thresholds
    maps, masks = literal_painted(backbone, pictures, chosen)
    assert limits.pixel == pytest.approx(best_pixel_threshold(maps, masks), abs=1e-5)
    marked = maps >= limits.pixel
    assert limits.painted_f1 == pytest.approx(2 * (marked & masks).sum() / (marked.sum() + masks.sum()), abs=1e-4)
    assert limits.pixel_source == "highest F1 on 8 defects painted on 4 normal images, each judged by the others"


def test_the_image_threshold_comes_from_each_picture_judged_by_the_others(backbone, pictures, monkeypatch):
    monkeypatch.setattr(thresholds, "LIGHT", (1.0,))  # only as it is
    limits = fit(backbone, pictures, [settings(backbone)]).thresholds
    scores = []
    for number, picture in enumerate(pictures):
        others = literal_bank(backbone, pictures[:number] + pictures[number + 1 :], settings(backbone))
        scores.append([others.image_score(literal_map(others, picture))])
    assert limits.image == pytest.approx(prediction_bound(np.array(scores)), rel=1e-5)


def test_other_light_is_judged_too(backbone, pictures, monkeypatch):
    wide = fit(backbone, pictures, [settings(backbone)]).thresholds
    monkeypatch.setattr(thresholds, "LIGHT", (1.0,))
    assert wide.image != fit(backbone, pictures, [settings(backbone)]).thresholds.image
    assert "brightnesses and contrasts of 0.8 to 1.25" in wide.image_source


def test_other_normal_pictures_give_other_thresholds(backbone, pictures):
    all_four, three = (fit(backbone, some, [settings(backbone)]).thresholds for some in (pictures, pictures[:3]))
    assert all_four != three


def test_the_bound_is_the_textbooks_and_takes_conditions_as_spread():
    logs = np.array([0.1, 0.5, 0.3, 0.9])
    reach = stats.t.ppf(0.95, 3) * logs.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert prediction_bound(np.exp(logs)[:, None]) == pytest.approx(np.exp(logs.mean() + reach))
    wider = np.exp(logs[:, None] + np.array([-0.4, 0.4]))
    assert prediction_bound(wider) > prediction_bound(np.exp(logs)[:, None])
    assert prediction_bound(wider, rate=0.01) > prediction_bound(wider)


@pytest.mark.parametrize("count", [2, 4, 16])
def test_the_bound_alarms_as_often_as_it_says(count):
    generator = np.random.default_rng(count)
    draws = np.exp(generator.normal(-2, 0.3, (4000, count + 1, 1)))
    alarms = np.mean([draw[-1, 0] > prediction_bound(draw[:-1]) for draw in draws])
    assert alarms == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("scores", [np.ones((1, 3)), np.ones(4), np.array([[1.0], [0.0]])])
def test_scores_that_bound_nothing_are_refused(scores):
    with pytest.raises(ValueError, match="expected scores above 0 of two pictures or more"):
        prediction_bound(scores)


def test_thresholds_cannot_see_test_data():
    assert list(inspect.signature(choose_thresholds).parameters) == ["normals", "settings", "rows"]


# -- pictures -------------------------------------------------------------------------------------------


def test_one_picture_is_quartered_at_the_same_scale(backbone, pictures):
    chosen = settings(backbone)
    alone = Normals(backbone, pictures[:1], [chosen])
    assert [picture.size for picture in alone.pictures] == 4 * [(48, 48)] and alone.is_quartered
    assert alone.encoder.settings.side == 48  # as many pixels a patch as in the whole picture
    assert [tuple(rows.shape) for rows in alone.rows(chosen, range(4)).values()] == 4 * [(9, 64)]
    detector = fit(backbone, pictures[:1], [chosen])
    assert len(detector.bank.rows) == 36 and detector.bank.settings == chosen  # of the whole picture
    assert detector.thresholds.pixel > 0 and detector.thresholds.image > 0
    for source in (detector.thresholds.pixel_source, detector.thresholds.image_source):
        assert "quarters of the one normal image" in source


def test_of_many_pictures_some_are_judged_and_all_are_in_the_banks(backbone, monkeypatch):
    monkeypatch.setattr(thresholds, "HELD_OUT", 4)
    generator = np.random.default_rng(0)
    many = [Image.fromarray(generator.integers(0, 255, (96, 96, 3), dtype=np.uint8)) for _ in range(10)]
    normals, chosen = Normals(backbone, many, [settings(backbone)]), settings(backbone, limit=95)
    assert list(normals.judged) == [0, 3, 6, 9] and len(normals.painted(3)) == 2
    rows = normals.rows(chosen, range(10))
    assert [len(part) for part in rows.values()] == [10] * 10  # each has its share of the limit
    others = normals.others(3, chosen, rows)
    everything = {tuple(row) for number, part in rows.items() if number != 3 for row in part.tolist()}
    assert len(others.rows) == 90 and {tuple(row) for row in others.rows.tolist()} == everything
    few = normals.others(3, settings(backbone, limit=50), rows)
    assert len(few.rows) == 50 and {tuple(row) for row in few.rows.tolist()} < everything


def test_the_limit_bounds_the_bank_and_its_seed_decides_which_patches_stay(backbone, pictures):
    chosen = settings(backbone, limit=21)
    everything = {tuple(row) for row in literal_bank(backbone, pictures[:3], chosen).rows.tolist()}
    first, again, other = (
        fit_detector(backbone, pictures[:3], protocol="a test", candidates=[chosen], seed=seed, device=CPU).bank.rows
        for seed in (1, 1, 2)
    )
    assert len(first) == len(other) == 21 and {tuple(row) for row in first.tolist()} <= everything
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_tokens_that_are_too_many_to_keep_are_computed_again(backbone, pictures, monkeypatch):
    candidates = [settings(backbone, blocks=(block,)) for block in (1, 2)]
    kept = fit(backbone, pictures, candidates)
    passes, tokens = [], backbone.tokens
    monkeypatch.setattr(backbone, "tokens", lambda images, **o: passes.append(len(images)) or tokens(images, **o))
    fit(backbone, pictures, candidates)
    once = len(passes)
    monkeypatch.setattr(thresholds, "KEPT_BYTES", 0)
    again = fit(backbone, pictures, candidates)
    assert len(passes) - once == once + 8 and again.thresholds == kept.thresholds
