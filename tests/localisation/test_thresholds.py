"""Thresholds and settings from normal pictures alone: each is judged by the others, painted or under other light."""

import inspect

import numpy as np
import pytest
from PIL import Image, ImageEnhance
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
    choose_pixel_threshold,
    choose_settings,
    choose_thresholds,
    prediction_bound,
)
from src.synthetic.defects import add_synthetic_defect

pytestmark = pytest.mark.usefixtures("small_and_quick")


def settings(backbone, **options):
    return BankSettings(**{"blocks": (backbone.patch_block,), "side": 96, "tile": 96} | options)


def thresholds_of(backbone, normals, chosen):
    encoder = normals.encoder(backbone, chosen)
    rows = normals.rows(encoder)
    return choose_thresholds(normals, encoder, rows, choose_pixel_threshold(normals, encoder, rows))


def literal_painted(backbone, paths, chosen):
    """Maps and masks of painted pictures, each judged by a bank built from the other pictures."""
    pictures, maps, masks = [load_image(path) for path in paths], [], []
    for number, picture in enumerate(pictures):
        bank = PatchBank.build(Encoder(backbone, chosen), pictures[:number] + pictures[number + 1 :])
        generator = np.random.default_rng([0, number])
        for _ in range(2):
            painted, mask = add_synthetic_defect(np.asarray(picture), generator)
            maps.append(bank.full_size(bank.patch_map(Image.fromarray(painted)), (256, 256)))
            masks.append(evaluated_mask(mask.astype(bool)))
    return np.stack(maps), np.stack(masks)


# -- settings -------------------------------------------------------------------------------------------


def test_settings_are_chosen_by_pixel_ap_on_painted_defects(backbone, normals):
    candidates = [
        settings(backbone, blocks=(0,)),
        settings(backbone, blocks=(0, 2)),
        settings(backbone, blocks=(2,), neighbours=2),
        settings(backbone, side=64, smoothing=1.0),
    ]
    choice = choose_settings(backbone, Normals.load(normals, "a test"), candidates)
    for candidate, score in zip(candidates, choice.scores, strict=True):
        maps, masks = literal_painted(backbone, normals, candidate)
        assert score == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-4)
    assert choice.settings == candidates[int(np.argmax(choice.scores))]
    maps, masks = literal_painted(backbone, normals, choice.settings)
    assert choice.threshold.value == pytest.approx(best_pixel_threshold(maps, masks), abs=1e-5)


def test_candidates_fit_any_depth(backbone):
    found = candidate_settings(backbone, Image.new("RGB", (96, 96)))
    depth = len(backbone.network.blocks)
    assert all(depth // 3 <= min(s.blocks) and max(s.blocks) < depth for s in found) and len(found) == len(set(found))
    assert {len(s.blocks) for s in found} == {1, 2} and (depth - 1,) in {s.blocks for s in found}


def test_without_candidates_the_models_own_are_tried(backbone, normals):
    choice = choose_settings(backbone, Normals.load(normals, "a test"))
    wanted = candidate_settings(backbone, load_image(normals[0]))
    assert choice.settings in wanted and len(choice.scores) == len(wanted)
    with pytest.raises(ValueError, match="a test has no normal image"):
        Normals.load([], "a test")


# -- thresholds -----------------------------------------------------------------------------------------


def test_the_pixel_threshold_is_of_highest_f1_on_painted_defects(backbone, normals):
    chosen = settings(backbone)
    found = thresholds_of(backbone, Normals.load(normals, "a test"), chosen)
    maps, masks = literal_painted(backbone, normals, chosen)
    assert found.pixel == pytest.approx(best_pixel_threshold(maps, masks), abs=1e-5)
    marked = maps >= found.pixel
    assert found.painted_f1 == pytest.approx(2 * (marked & masks).sum() / (marked.sum() + masks.sum()), abs=1e-4)
    assert found.pixel_source == "highest F1 on 8 defects painted on 4 normal images, each judged by the others"


def test_the_image_threshold_comes_from_each_picture_judged_by_the_others(backbone, normals):
    found = thresholds_of(backbone, Normals.load(normals, "a test"), settings(backbone))
    pictures, scores = [load_image(path) for path in normals], []
    for number, picture in enumerate(pictures):
        others = PatchBank.build(Encoder(backbone, settings(backbone)), pictures[:number] + pictures[number + 1 :])
        variants = [
            ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(light)).enhance(contrast)
            for light in thresholds.LIGHT
            for contrast in thresholds.LIGHT
        ]
        scores.append([others.image_score(others.patch_map(variant)) for variant in variants])
    assert found.image == pytest.approx(prediction_bound(np.array(scores)), rel=1e-4)


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
    assert list(inspect.signature(choose_thresholds).parameters) == ["normals", "encoder", "rows", "pixel"]


# -- pictures -------------------------------------------------------------------------------------------


def test_one_picture_is_quartered_at_the_same_scale(backbone, normals):
    alone = Normals.load(normals[:1], "a test")
    assert [picture.size for picture in alone.pictures] == 4 * [(48, 48)] and alone.quartered
    encoder = alone.encoder(backbone, settings(backbone))
    assert encoder.settings.side == 48  # as many pixels a patch as in the whole picture
    assert [tuple(rows.shape) for rows in alone.rows(encoder)] == 4 * [(9, 64)]
    found = thresholds_of(backbone, alone, settings(backbone))
    assert found.pixel > 0 and found.image > 0 and "quarters" in found.pixel_source


def test_of_many_pictures_some_are_judged_and_all_are_in_the_banks(monkeypatch):
    monkeypatch.setattr(thresholds, "HELD_OUT", 4)
    normals = Normals([Image.new("RGB", (64, 64))] * 10)
    assert normals.judged.tolist() == [0, 3, 6, 9] and len(normals.pictures) == 10 and len(normals.paint(0)) == 2
