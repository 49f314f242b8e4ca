"""Localisation of test images: a painted square is found where it is, and no test image has a say in a threshold."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from src.data.pictures import load_image
from src.localisation.encoder import BankSettings
from src.localisation.localise import localise
from src.localisation.thresholds import fit_detector

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_and_quick")


def settings(backbone, **options):
    return BankSettings(**{"blocks": (backbone.patch_block,), "side": 96, "tile": 96} | options)


def detector_of(backbone, paths, **options):
    pictures, candidates = [load_image(path) for path in paths], [settings(backbone, **options)]
    return fit_detector(backbone, pictures, protocol=f"{len(paths)}-shot", candidates=candidates, device=CPU)


@pytest.fixture
def shown(backbone, normals, test_rows):
    (shown,) = localise([detector_of(backbone, normals)], test_rows)
    return shown


def test_the_square_is_found_where_it_is(shown, test_rows):
    assert shown.maps.shape == shown.masks.shape == (8, 256, 256) and shown.masks.dtype == bool
    assert shown.masks.any((1, 2)).tolist() == shown.is_defect.tolist() == (test_rows["defect"] != "good").tolist()
    for values, mask in zip(shown.maps[shown.is_defect], shown.masks[shown.is_defect], strict=True):
        assert roc_auc_score(mask.ravel(), values.ravel()) > 0.9  # the weights are random: patches differ all the same
        assert mask[np.unravel_index(values.argmax(), mask.shape)]
    assert roc_auc_score(shown.is_defect, shown.image_scores) == 1
    assert shown.maps.min() >= 0 and shown.maps.max() <= 2


def test_no_float64_is_made_on_the_device(backbone, normals, test_rows, no_float64):
    with no_float64:
        localise([detector_of(backbone, normals)], test_rows)


def test_settings_are_used_and_reported(backbone, normals, test_rows, shown):
    assert shown.facts["normal_images"] == 4 and shown.facts["bank_patches"] == 4 * 6 * 6
    assert shown.facts["settings_source"] == "given" and shown.facts["backbone"].startswith("test_vit ")
    assert shown.facts["images_per_second"] > 0
    (changed,) = localise([detector_of(backbone, normals, side=64, blocks=(0,))], test_rows)
    assert (changed.bank_settings.side, changed.bank_settings.blocks) == (64, (0,))
    assert changed.facts["bank_patches"] == 4 * 4 * 4 and not np.allclose(changed.maps, shown.maps)


def test_a_normal_image_among_the_test_images_has_an_empty_map(backbone, normals, test_rows):
    test_rows.loc[0, ["path", "defect", "mask"]] = [normals[2], "good", ""]
    (shown,) = localise([detector_of(backbone, normals)], test_rows)
    assert shown.maps[0].max() == 0 and shown.image_scores[0] == 0 and not shown.called[0]
    assert shown.image_scores[1:].min() > 0


def test_the_maps_of_an_image_do_not_depend_on_the_others(backbone, normals, test_rows, shown):
    (few,) = localise([detector_of(backbone, normals)], test_rows.iloc[[6, 1]])
    assert few.thresholds == shown.thresholds and shown.thresholds.pixel > 0
    np.testing.assert_allclose(few.maps, shown.maps[[6, 1]], atol=1e-6)


def test_some_images_of_a_localisation(shown):
    rows = np.arange(8) % 3 == 0
    some = shown.of_rows(rows)
    assert some.test["file"].tolist() == shown.test["file"][rows].tolist() and some.test.index.tolist() == [0, 1, 2]
    assert np.array_equal(some.maps, shown.maps[rows]) and np.array_equal(some.masks, shown.masks[rows])
    assert np.array_equal(some.called, shown.called[rows]) and some.facts == shown.facts


def test_detectors_share_the_pass_of_each_test_image(backbone, normals, test_rows, shown, monkeypatch):
    first, second = detector_of(backbone, normals), detector_of(backbone, normals[:2], blocks=(0, 1))
    (alone,) = localise([second], test_rows)
    passes, tokens = [], backbone.tokens
    monkeypatch.setattr(backbone, "tokens", lambda images, **o: passes.append(len(images)) or tokens(images, **o))
    together = localise([first, second], test_rows)
    assert passes == [1] * len(test_rows)
    for both, single in zip(together, (shown, alone), strict=True):
        np.testing.assert_allclose(both.maps, single.maps, atol=1e-6)
        assert (both.protocol, both.thresholds) == (single.protocol, single.thresholds)
        assert both.facts == single.facts | {"images_per_second": None}  # of a shared pass it would mislead
    assert [each.protocol for each in together] == ["4-shot", "2-shot"]


def test_detectors_of_two_scales_cannot_share_a_pass(backbone, normals, test_rows):
    with pytest.raises(ValueError, match="detectors of 2 backbones or scales cannot share a pass"):
        localise([detector_of(backbone, normals), detector_of(backbone, normals, side=64)], test_rows)


def test_an_image_is_called_by_its_score(shown):
    assert shown.called.tolist() == (shown.image_scores >= shown.thresholds.image).tolist()
