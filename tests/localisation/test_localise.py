"""Anomaly maps of test images: a bright square is found where it is, and no test image has a say in a threshold."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import src.localisation.localise as localise_module
from src.data.mvtec import protocol_name
from src.data.pictures import load_image
from src.data.splits import transfer_normals
from src.localisation.encoder import BankSettings
from src.localisation.localise import localise
from src.localisation.thresholds import Choice, PixelThreshold

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("small_and_quick")


def settings(backbone, **options):
    return BankSettings(**{"blocks": (backbone.patch_block,), "side": 96, "tile": 96} | options)


@pytest.fixture
def found(backbone, normals, test_rows):
    return localise(backbone, normals, test_rows, protocol="4-shot", settings=settings(backbone), device=CPU)


def test_the_square_is_found_where_it_is(found, test_rows):
    assert found.maps.shape == found.masks.shape == (8, 256, 256) and found.masks.dtype == bool
    assert found.masks.any((1, 2)).tolist() == found.is_defect.tolist() == (test_rows["defect"] != "good").tolist()
    for values, mask in zip(found.maps[found.is_defect], found.masks[found.is_defect], strict=True):
        assert roc_auc_score(mask.ravel(), values.ravel()) > 0.9  # the weights are random: patches differ all the same
        assert mask[np.unravel_index(values.argmax(), mask.shape)]
    assert roc_auc_score(found.is_defect, found.image_scores) == 1
    assert found.maps.min() >= 0 and found.maps.max() <= 2


def test_no_float64_is_made_on_the_device(backbone, normals, test_rows, no_float64):
    with no_float64:
        localise(backbone, normals, test_rows, protocol="4-shot", settings=settings(backbone), device=CPU)


def test_settings_are_used_and_reported(backbone, normals, test_rows, found):
    assert found.facts["normal_images"] == 4 and found.facts["bank_patches"] == 4 * 6 * 6
    assert found.facts["settings_source"] == "given" and found.facts["backbone"].startswith("test_vit ")
    assert found.facts["images_per_second"] > 0
    other = settings(backbone, side=64, blocks=(0,))
    changed = localise(backbone, normals, test_rows, protocol="4-shot", settings=other, device=CPU)
    assert (changed.bank_settings.side, changed.bank_settings.blocks) == (64, (0,))
    assert changed.facts["bank_patches"] == 4 * 4 * 4 and not np.allclose(changed.maps, found.maps)


def test_without_settings_they_are_chosen_on_the_normal_images(backbone, normals, test_rows, monkeypatch):
    asked = []

    def choose(backbone, found):
        asked.append(found.pictures)
        return Choice(settings(backbone, blocks=(0, 1)), (0.25, 0.5), PixelThreshold(0.1, 0.5, 8))

    monkeypatch.setattr(localise_module, "choose_settings", choose)
    found = localise(backbone, normals, test_rows, protocol="4-shot", device=CPU)
    assert asked == [[load_image(path) for path in normals]] and found.bank_settings.blocks == (0, 1)
    assert "0.500, of 2 candidates on defects painted" in found.facts["settings_source"]


def test_a_normal_image_among_the_test_images_has_an_empty_map(backbone, normals, test_rows):
    test_rows.loc[0, ["path", "defect", "mask"]] = [normals[2], "good", ""]
    found = localise(backbone, normals, test_rows, protocol="4-shot", settings=settings(backbone), device=CPU)
    assert found.maps[0].max() == 0 and found.image_scores[0] == 0 and not found.called[0]
    assert found.image_scores[1:].min() > 0


def test_the_thresholds_do_not_depend_on_test_images(backbone, normals, test_rows, found):
    rows = test_rows.iloc[[6, 1]]
    few = localise(backbone, normals, rows, protocol="4-shot", settings=settings(backbone), device=CPU)
    assert few.thresholds == found.thresholds and found.thresholds.pixel > 0
    np.testing.assert_allclose(few.maps, found.maps[[6, 1]], atol=1e-6)
    other = localise(backbone, normals[:3], test_rows, protocol="3-shot", settings=settings(backbone), device=CPU)
    assert other.thresholds != found.thresholds


def test_each_test_image_is_read_once(backbone, normals, test_rows, monkeypatch):
    read, load = [], load_image
    monkeypatch.setattr(localise_module, "load_image", lambda path: read.append(path) or load(path))
    localise(backbone, normals, test_rows, protocol="4-shot", settings=settings(backbone), device=CPU)
    assert [path for path in read if path not in normals] == list(test_rows["path"])


def test_an_image_is_called_by_its_score(found):
    assert found.called.tolist() == (found.image_scores >= found.thresholds.image).tolist()


def test_one_normal_image_is_enough_and_none_is_not(backbone, normals, test_rows):
    found = localise(backbone, normals[:1], test_rows, protocol="1-shot", settings=settings(backbone), device=CPU)
    assert found.facts["bank_patches"] == 36 and "quarters of the one normal image" in found.thresholds.image_source
    with pytest.raises(ValueError, match="0-shot has no normal image"):
        localise(backbone, [], test_rows, protocol="0-shot", device=CPU)


@pytest.mark.parametrize(("count", "name"), [(245, "mvtec-full"), (244, "244-shot"), (4, "4-shot")])
def test_protocol_name(count, name):
    assert protocol_name(count) == name


def test_transfer_takes_normal_training_images(table):
    wanted = set(table.loc[(table["part"] == "train") & (table["label"] == "non_defective"), "path"])
    assert set(transfer_normals(table, "non_defective", seed=1)) == wanted and len(wanted) == 6


def test_transfer_takes_a_seeded_draw_of_many():
    rows = [(f"{i}.png", "non_defective", "train") for i in range(200)]
    table = pd.DataFrame(rows, columns=["path", "label", "part"])
    first, second, other = (transfer_normals(table, "non_defective", seed=seed) for seed in (1, 1, 2))
    assert first == second != other and len(set(first)) == 64
