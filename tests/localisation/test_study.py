"""The study of MVTec AD: all protocols with their controls, one pass for each picture, and what is said without it."""

import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from src.backbone.vit import load_backbone
from src.config import paths
from src.localisation import study as study_module
from src.localisation.evaluation import brightness_control, localisation_metrics
from src.localisation.pixel_metrics import pixel_metrics
from src.localisation.study import study_mvtec
from tools.train_head import save_head

pytestmark = pytest.mark.usefixtures("small_and_quick")


@contextmanager
def passes_of(backbone):
    """Counts how often each picture, told by its pixels and size, passes the network."""
    passes = Counter()
    count = lambda _, images: passes.update(image.cpu().numpy().tobytes() for image in images[0])  # noqa: E731
    handle = backbone.network.patch_embed.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


@pytest.fixture
def root(mvtec):
    return Path(mvtec["path"][0]).parents[3]


@pytest.fixture
def known(pictures):
    return [str(path) for path in sorted((pictures / "non_defective").glob("*.png"))[:4]]


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return load_backbone("test_vit", "timm", image_size=48, pretrained=False)


@pytest.fixture
def with_head(head, tmp_path, monkeypatch):
    """The project's folder of heads holds one for ``backbone``."""
    save_head(head, tmp_path / "heads" / "mine.safetensors")
    monkeypatch.setattr(paths, "heads", tmp_path / "heads")


@pytest.fixture
def same(backbone):
    """A backbone of which training has changed nothing."""
    twin = load_backbone("test_vit", "timm", image_size=48, pretrained=False)
    twin.network.load_state_dict(backbone.network.state_dict())
    return twin


@pytest.mark.usefixtures("with_head")
def test_the_study_holds_the_protocols_and_their_controls(backbone, trained, root, known, test_rows, capsys):
    study = study_mvtec(root, untrained=backbone, trained=trained, trained_on=known, seed=3)
    assert "a head for any leather, blocks (1, 3)" in capsys.readouterr().out
    assert list(study.metrics["protocols"]) == ["six-class-transfer", "zero-shot", "4-shot"]
    transfer, zero_shot, k_shot = study.metrics["protocols"].values()
    assert k_shot == localisation_metrics(study.k_shot, seed=3) and len(study.k_shot.test) == len(test_rows)
    assert zero_shot == localisation_metrics(study.zero_shot, seed=3)
    assert transfer["backbone"] == trained.identity != backbone.identity == k_shot["backbone"] == zero_shot["backbone"]
    assert [each["normal_images"] for each in (transfer, zero_shot, k_shot)] == [4, 0, 4]
    assert k_shot["settings_source"].startswith("the head of") and k_shot["blocks"] == (1, 3)
    assert transfer["settings_source"].startswith("plain distances")  # the head is not of these weights
    assert [each["zoom"] for each in (transfer, zero_shot, k_shot)] == [2.0] * 3  # 96 px at tiles of 192
    assert study.metrics["brightness_control_image_auroc"] == brightness_control(test_rows)
    for name, maps in study.attention.items():
        assert maps.shape == study.k_shot.maps.shape
        assert study.metrics["attention"][name] == pixel_metrics(maps, study.k_shot.masks)


@pytest.mark.parametrize("has_head", [True, False])
def test_further_protocols(request, backbone, trained, root, known, monkeypatch, has_head):
    if has_head:
        request.getfixturevalue("with_head")
    shown = []
    localise = study_module.localise
    monkeypatch.setattr(study_module, "localise", lambda *a, **o: shown.append((localise(*a, **o), o)) or shown[-1][0])
    study = study_mvtec(root, untrained=backbone, trained=trained, trained_on=known, seed=3, further=True)
    protocols = study.metrics["protocols"]
    assert set(protocols) == {"six-class-transfer", "zero-shot", "unlabelled-folder", "1-shot", "2-shot", "4-shot"}
    assert {name: entry["normal_images"] for name, entry in protocols.items()} == {
        "six-class-transfer": 4,
        "zero-shot": 0,
        "unlabelled-folder": 0,
        "1-shot": 1,
        "2-shot": 2,
        "4-shot": 4,
    }
    assert {each.protocol for each, options in shown if options.get("among")} == {"unlabelled-folder"}
    for name in ("zero-shot", "1-shot", "4-shot"):
        assert protocols[name]["pixel_auroc"] > 0.9 and study.zero_shot.has_head == has_head


@pytest.mark.usefixtures("with_head")
def test_each_picture_passes_the_network_once_for_each_size_and_weights(backbone, trained, root, known):
    with passes_of(backbone) as untrained, passes_of(trained) as after_training:
        study_mvtec(root, untrained=backbone, trained=trained, trained_on=known, seed=0)
    assert set(untrained.values()) == set(after_training.values()) == {1}
    assert len(untrained) == 4 + 8 + 8  # normals and test images; attention reads these at the network's own size
    assert len(after_training) == 4 + 8 + 8  # normals, painted ones for plain distances, test images


def test_without_training_the_test_images_are_not_read_twice(backbone, same, root, known, with_head):
    with passes_of(backbone) as untrained, passes_of(same) as after_training:
        study = study_mvtec(root, untrained=backbone, trained=same, trained_on=known, seed=0)
    assert not after_training and set(untrained.values()) == {1}
    assert len(untrained) == 4 + 8 + 8 + 4  # the normal images of the training set, too
    transfer = study.metrics["protocols"]["six-class-transfer"]
    assert transfer["backbone"] == backbone.identity and transfer["settings_source"].startswith("the head of")


def test_normal_images_of_the_training_set_are_read_at_their_own_scale(backbone, same, root, known, monkeypatch):
    zooms = []
    make = study_module.normals_detector
    monkeypatch.setattr(study_module, "normals_detector", lambda *a, **o: zooms.append(a[0].zoom) or make(*a, **o))
    study = study_mvtec(root, untrained=backbone, trained=same, trained_on=known, seed=0)
    assert sorted(zooms) == [2.0, 4.0]  # 48 px at tiles of 192
    assert study.metrics["protocols"]["six-class-transfer"]["zoom"] == 2.0  # of the maps


def test_a_shallow_trained_backbone_is_no_obstacle(backbone, root, known):
    shallow = load_backbone("test_vit", "timm", image_size=48, pretrained=False, keep_blocks=1)
    study = study_mvtec(root, untrained=backbone, trained=shallow, trained_on=known, seed=0)
    transfer = study.metrics["protocols"]["six-class-transfer"]
    assert transfer["blocks"] == (0,) and transfer["backbone"] == shallow.identity
    assert np.isfinite(transfer["pixel_ap"])


def test_without_the_images_the_study_says_what_is_missing(backbone, tmp_path, capsys):
    with passes_of(backbone) as passes:
        assert study_mvtec(tmp_path / "mvtec", untrained=backbone, trained=backbone, trained_on=[], seed=0) is None
    text = capsys.readouterr().out
    assert "left out" in text and "mvtec" in text and "1.0.download-datasets.ipynb" in text and not passes


def test_copies_of_normal_images_are_left_out_with_a_warning(mvtec, root, same, trained, known, tmp_path, caplog):
    """Each would be judged by its copy."""
    shutil.copytree(root / "leather", tmp_path / "leather")
    good = tmp_path / "leather" / "train" / "good"
    shutil.copy(good / "000.png", good / "copy.png")
    study = study_mvtec(tmp_path, untrained=same, trained=trained, trained_on=known, seed=0)
    assert "1 normal images are copies and left out, the first is train/good/copy.png" in caplog.text
    assert study.k_shot.facts["normal_images"] == 4
