"""Anomaly maps: a bright square is found where it is, and no test image has a say in the threshold."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from src import localisation, metrics
from src.datasets import index_mvtec, load_image
from src.evaluation import METHODS
from src.localisation import (
    Localisation,
    attention_figure,
    brightness_control,
    choose_settings,
    classifier_on_mvtec,
    localisation_metrics,
    localise,
    protocol_name,
    transfer_normals,
    write_mvtec_reports,
)
from src.patch_bank import BankSettings, PatchBank

CPU = torch.device("cpu")
FILES = {
    "validacion_visual_mvtec.png", "imagenes_ejemplo_mvtec.png", "visual_validation_summary.txt", "mvtec_metrics.json",
}  # fmt: skip
COUNTS = {"train/good": 4, "test/good": 3, "test/cut": 3, "test/glue": 2}


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    """Maps of 64 x 64 px, few painted defects and few draws: the same steps in less time."""
    monkeypatch.setattr(localisation, "EVALUATION_SIZE", 64)
    monkeypatch.setattr(localisation, "PAINTED", 8)
    monkeypatch.setattr(
        localisation, "bootstrap_interval", lambda *a, **k: metrics.bootstrap_interval(*a, repeats=20, **k)
    )


@pytest.fixture(scope="session")
def mvtec(tmp_path_factory):
    """Grey 96 px leather in MVTec's layout; a defect is a bright square at a known place."""
    root, generator = tmp_path_factory.mktemp("mvtec"), np.random.default_rng(3)
    for folder, count in COUNTS.items():
        part, defect = folder.split("/")
        for number in range(count):
            pixels = generator.normal(110, 12, (96, 96, 3))
            mask = np.zeros((96, 96), np.uint8)
            if defect != "good":
                top, left = generator.integers(8, 60, 2)
                mask[top : top + 24, left : left + 24] = 255
                pixels[mask > 0] += 90
                truth = root / "leather" / "ground_truth" / defect / f"{number:03d}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(truth)
            path = root / "leather" / part / defect / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return index_mvtec(root)


@pytest.fixture
def normals(mvtec):
    return list(mvtec.loc[mvtec["part"] == "train", "path"])


@pytest.fixture
def test_rows(mvtec):
    return mvtec[mvtec["part"] == "test"].reset_index(drop=True)


@pytest.fixture
def found(model, normals, test_rows):
    return localise(model, normals, test_rows, protocol="4-shot", device=CPU)


# -- maps -----------------------------------------------------------------------------------------------


def test_the_square_is_found_where_it_is(found, test_rows):
    assert found.maps.shape == found.masks.shape == (8, 64, 64) and found.masks.dtype == bool
    assert found.masks.any((1, 2)).tolist() == found.is_defect.tolist() == (test_rows["defect"] != "good").tolist()
    for values, mask in zip(found.maps[found.is_defect], found.masks[found.is_defect], strict=True):
        assert roc_auc_score(mask.ravel(), values.ravel()) > 0.9  # the weights are random: patches differ all the same
        assert mask[np.unravel_index(values.argmax(), mask.shape)]
    assert roc_auc_score(found.is_defect, found.image_scores) == 1
    assert found.maps.min() >= 0 and found.maps.max() <= 2


def settings(model, **options):
    return BankSettings(**{"blocks": (model.patch_block,), "side": 96, "tile": 96} | options)


def test_settings_are_chosen_on_painted_defects(model, normals, found):
    candidates = [settings(model, blocks=blocks) for blocks in ((0,), (0, 2), (model.patch_block,))]
    best, scores = choose_settings(model, normals, candidates, device=CPU)
    assert best == candidates[int(np.argmax(scores))] and all(0 < value <= 1 for value in scores)
    # the same maps and masks as those that the threshold of `localise` comes from
    bank, images = PatchBank(model, candidates[2], torch.empty(0)), [load_image(path) for path in normals]
    maps, masks = localisation._painted(bank, images, [bank.tokens(image) for image in images])
    assert scores[2] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()))
    assert metrics.best_pixel_threshold(maps, masks) == found.threshold
    with pytest.raises(ValueError, match="at least 2"):
        choose_settings(model, normals[:1], candidates, device=CPU)


def test_settings_are_reported(found, model):
    assert found.settings["normal_images"] == 4 and found.settings["blocks"] == (model.patch_block,)
    assert found.settings["side"] == 96  # twice the model's own
    assert found.settings["bank_patches"] == 4 * 6 * 6


def test_settings_are_used(model, normals, test_rows, found):
    other = settings(model, side=64, blocks=(0,))
    changed = localise(model, normals, test_rows, protocol="4-shot", settings=other, device=CPU)
    assert (changed.settings["side"], changed.settings["blocks"]) == (64, (0,))
    assert changed.settings["bank_patches"] == 4 * 4 * 4 and not np.allclose(changed.maps, found.maps)


def test_a_normal_image_among_the_test_images_has_an_empty_map(model, normals, test_rows):
    test_rows.loc[0, ["path", "defect", "mask"]] = [normals[2], "good", ""]
    found = localise(model, normals, test_rows, protocol="4-shot", device=CPU)
    assert found.maps[0].max() == 0 and found.image_scores[0] == 0 and not found.called[0]
    assert found.image_scores[1:].min() > 0


def test_the_threshold_does_not_depend_on_test_images(model, normals, test_rows, found):
    few = localise(model, normals, test_rows.iloc[[6, 1]], protocol="4-shot", device=CPU)
    assert few.threshold == found.threshold > 0
    np.testing.assert_allclose(few.maps, found.maps[[6, 1]], atol=1e-6)
    other = localise(model, normals[:3], test_rows, protocol="3-shot", device=CPU)
    assert other.threshold != found.threshold


def test_painted_images_are_scored_against_the_other_normal_images(model, normals, test_rows, monkeypatch):
    banks, fill = [], PatchBank.with_rows
    monkeypatch.setattr(PatchBank, "with_rows", lambda self, rows: banks.append(rows) or fill(self, rows))
    localise(model, normals, test_rows, protocol="4-shot", device=CPU)
    *others, whole = (bank.view(-1, 36, 64) for bank in banks)
    assert [len(bank) for bank in (*others, whole)] == [3, 3, 3, 3, 4]
    for number, bank in enumerate(others):
        assert torch.equal(bank, whole[[i for i in range(4) if i != number]])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_normal_images_are_refused(model, normals, test_rows, count):
    with pytest.raises(ValueError, match=f"{count}-shot has {count} normal images"):
        localise(model, normals[:count], test_rows, protocol=f"{count}-shot", device=CPU)


@pytest.mark.parametrize(("count", "name"), [(245, "mvtec-full"), (244, "244-shot"), (4, "4-shot")])
def test_protocol_name(count, name):
    assert protocol_name(count) == name


# -- figures --------------------------------------------------------------------------------------------


def crafted():
    """Four 2 x 2 maps: two good images, of which one alarms, a found and a missed defect."""
    maps = np.array([[[0.1, 0.2], [0.1, 0.1]], [[0.1, 0.9], [0.1, 0.1]], [[0.1, 0.1], [0.8, 0.7]], [[0.3, 0.1]] * 2])
    masks = np.array([np.zeros((2, 2)), np.zeros((2, 2)), [[0, 0], [1, 1]], [[1, 0], [1, 0]]], dtype=bool)
    test = pd.DataFrame({"defect": ["good", "good", "cut", "poke"]})
    return Localisation("4-shot", test, maps, masks, np.array([0.2, 0.5, 0.7, 0.4]), 0.5, {"block": 3})


def test_metrics_by_hand():
    found = localisation_metrics(crafted())
    assert crafted().called.tolist() == [False, True, True, False]
    assert found["image_accuracy_at_threshold"] == 0.5 and found["image_false_alarm_rate"] == 0.5
    assert found["pixel_f1_at_threshold"] == pytest.approx(2 * 2 / (3 + 4))  # 2 of 3 marked and of 4 true pixels
    assert found["image_auroc"] == 0.75  # of four pairs, poke below the alarming good one
    assert found["image_ap"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert found["n"] == {"good": 2, "cut": 1, "poke": 1} and found["threshold"] == 0.5 and found["block"] == 3
    assert (found["per_defect"]["cut"]["image_auroc"], found["per_defect"]["poke"]["image_auroc"]) == (1, 0.5)
    assert found["per_defect"]["cut"]["found_at_threshold"] == 1
    assert found["per_defect"]["poke"]["found_at_threshold"] == 0
    pixels = crafted()
    wanted = average_precision_score(pixels.masks.ravel(), pixels.maps.ravel())
    assert found["pixel_ap"] == pytest.approx(wanted)
    assert found["per_defect"]["cut"]["pixel_auroc"] == pytest.approx(
        roc_auc_score(pixels.masks[:3].ravel(), pixels.maps[:3].ravel())
    )


def test_pictures_are_chosen_by_rule():
    found = crafted()
    many = Localisation(
        "4-shot", pd.DataFrame({"defect": ["good", "good", "cut", "cut", "cut"]}), found.maps[[0, 1, 2, 2, 2]],
        found.masks[[0, 1, 2, 2, 2]], np.array([0.2, 0.5, 0.9, 0.3, 0.6]), 0.5, {},
    )  # fmt: skip
    assert localisation._chosen_rows(found) == [(2, "highest"), (3, "highest"), (1, "highest normal")]
    rules = {2: "highest", 4: "median", 3: "lowest", 1: "highest normal"}
    assert dict(localisation._chosen_rows(many)) == rules


def test_misses_and_false_alarms_are_shown_too():
    count = 12
    found = Localisation(
        "4-shot", pd.DataFrame({"defect": ["good"] * count + ["cut"] * count}), np.zeros((2 * count, 4, 4)),
        np.zeros((2 * count, 4, 4), bool), np.r_[np.linspace(1, 2, count), np.linspace(0, 3, count)], 0.5, {},
    )  # fmt: skip
    found.maps[:count] = 1  # every normal image alarms, every cut is missed
    rows = localisation._chosen_rows(found)
    rules = ["highest", "median", "lowest", "highest normal", *3 * ["missed"], *3 * ["alarm"]]
    assert [rule for _, rule in rows] == rules
    assert [index for index, rule in rows if rule == "missed"] == [13, 14, 15]  # lowest first; 12 is shown already
    assert [index for index, rule in rows if rule == "alarm"] == [10, 9, 8]


def test_brightness_control_by_hand(tmp_path):
    rows = []
    for number, (grey, defect) in enumerate([(100, "good"), (110, "good"), (130, "good"), (120, "cut"), (140, "cut")]):
        Image.new("L", (4, 4), grey).save(tmp_path / f"{number}.png")
        rows.append((str(tmp_path / f"{number}.png"), defect))
    test = pd.DataFrame(rows, columns=["path", "defect"])
    assert brightness_control(test) == pytest.approx(5 / 6)  # of six pairs only 120 < 130 is wrong
    test["defect"] = ["cut", "cut", "cut", "good", "good"]  # now darker is more defective
    assert brightness_control(test) == pytest.approx(5 / 6)


def test_classifier_scores_are_the_models(model, test_rows):
    model.store_normal_features(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
    found = classifier_on_mvtec(model, test_rows)
    images = torch.stack([model.transform(load_image(path)) for path in test_rows["path"]])
    wanted = model.detect_anomaly_hybrid(images)
    assert list(found) == list(METHODS)
    for name, key in METHODS.items():
        assert found[name]["image_auroc"] == pytest.approx(roc_auc_score(test_rows["defect"] != "good", wanted[key]))


def test_transfer_takes_normal_training_images(table):
    wanted = set(table.loc[(table["part"] == "train") & (table["label"] == "non_defective"), "path"])
    assert set(transfer_normals(table, "non_defective", seed=1)) == wanted and len(wanted) == 6


def test_transfer_takes_a_seeded_draw_of_many():
    rows = [(f"{i}.png", "non_defective", "train") for i in range(200)]
    table = pd.DataFrame(rows, columns=["path", "label", "part"])
    first, second, other = (transfer_normals(table, "non_defective", seed=seed) for seed in (1, 1, 2))
    assert first == second != other and len(set(first)) == 64


# -- reports --------------------------------------------------------------------------------------------


def test_every_report_is_written_under_its_name(found, test_rows, tmp_path):
    content = {
        "protocols": {"4-shot": localisation_metrics(found)}, "classifier_scores": {},
        "brightness_control_image_auroc": brightness_control(test_rows), "run": {"seed": 42},
    }  # fmt: skip
    folder = tmp_path / "resultados_mvtec_visual"
    written = write_mvtec_reports(found, content, folder, about="tiny, test_vit")
    assert {path.name for path in folder.iterdir()} == FILES == {path.name for path in written}
    for path in written[:2]:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 200

    entry = json.loads((folder / "mvtec_metrics.json").read_text())["protocols"]["4-shot"]
    assert entry == json.loads(json.dumps(content["protocols"]["4-shot"]))
    assert set(entry) >= {
        "image_auroc", "image_auroc_interval", "image_ap", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro_30",
        "pixel_f1_at_threshold", "threshold", "threshold_source", "oracle", "n", "per_defect", "normal_images",
    }  # fmt: skip
    assert entry["image_auroc"] == 1 and entry["pixel_auroc"] > 0.9 and set(entry["per_defect"]) == {"cut", "glue"}

    text = (folder / "visual_validation_summary.txt").read_text()
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    for name, rows in found.test.groupby("defect"):
        assert lines[name] == [name, str(len(rows)), str(found.called[rows.index].sum())]
    assert f"({found.threshold:.4f})" in text and "tiny, test_vit" in text


def test_attention_figure_shows_the_models_maps(model, test_rows):
    figure = attention_figure(model, test_rows["path"][0], title="cut/000.png")
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    maps = model.extract_attention_maps(model.transform(load_image(test_rows["path"][0]))[None])
    assert len(images) >= 3 and images[0].shape == (64, 64, 3)
    for shown, name in zip(images[1:3], ("cls", "rollout"), strict=True):
        assert shown.shape == (64, 64)
        assert maps[name].min() <= shown.min() < shown.max() <= maps[name].max()  # enlarged, not rescaled
