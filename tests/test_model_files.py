"""Weights files and checkpoints of `src.model`: what fits is loaded, anything else is refused by name."""

import errno

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from src import paths
from src.config import CLASS_NAMES
from src.model import (
    CheckpointError,
    ViTMultiClassClassifier,
    WeightsError,
    create_model,
    load_checkpoint,
    load_file,
    save_atomically,
    save_checkpoint,
)


class Touch:
    """A pickle that, run, writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def load(weights, *, backbone="test_vit"):
    return ViTMultiClassClassifier(6, True, backbone=backbone, weights=str(weights), image_size=48)


def backbone_weights(name="test_vit", **options):
    torch.manual_seed(5)
    return timm.create_model(name, num_classes=0, img_size=48, **options).state_dict()


# -- weights of the backbone ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file_are_loaded(tmp_path, suffix):
    weights, file = backbone_weights(), tmp_path / f"mine.{suffix}"
    save_file(weights, file) if suffix == "safetensors" else torch.save(weights, file)
    model = load(file)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.backbone.state_dict().items())
    assert model.weights_description == f"file: mine.{suffix}"
    assert model.patch_block == 3  # nothing named: two thirds up


def test_a_file_may_name_the_block_that_localises(tmp_path):
    save_file(backbone_weights(), tmp_path / "mine.safetensors", metadata={"best_block": "1"})
    assert load(tmp_path / "mine.safetensors").patch_block == 1
    model = ViTMultiClassClassifier(6, False, backbone="test_vit", weights=str(tmp_path / "mine.safetensors"))
    assert model.patch_block == 3  # random weights have no use for it


def test_shipped_weights_are_of_one_architecture():
    with pytest.raises(WeightsError, match="vit_tiny_patch16_224, not of test_vit"):
        load("shipped")


def test_missing_shipped_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "SHIPPED_BACKBONE", tmp_path / "gone.safetensors")
    with pytest.raises(WeightsError, match="gone.safetensors"):
        load("shipped", backbone="vit_tiny_patch16_224")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("damage", ["missing", "text", "cut", "other depth", "other width"])
def test_weights_that_cannot_be_used_are_refused_by_name(tmp_path, suffix, damage):
    file = tmp_path / f"bad.{suffix}"
    options = {"other depth": {"depth": 5}, "other width": {"embed_dim": 96}}.get(damage, {})
    if damage == "text":
        file.write_text("<html>404</html>", encoding="utf-8")
    elif damage != "missing":
        weights = backbone_weights(**options)
        save_file(weights, file) if suffix == "safetensors" else torch.save(weights, file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WeightsError, match=f"bad.{suffix}"):
        load(file)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    torch.save({"norm.weight": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="evil.pth"):
        load(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_without_a_network_the_hub_fails_with_advice(monkeypatch):
    calls = []

    def offline(*_, **options):
        calls.append(options)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match="test_vit could not be fetched.*unreachable.*shipped") as caught:
        ViTMultiClassClassifier(backbone="test_vit")
    assert len(calls) == 1 and calls[0]["pretrained"]  # no second try with random weights
    assert isinstance(caught.value.__cause__, OSError)


# -- checkpoints ----------------------------------------------------------------------------------------


@pytest.fixture
def kept(model, tmp_path):
    """A model with a bank, and its checkpoint."""
    model.store_normal_features(torch.randn(7, 64, generator=torch.Generator().manual_seed(3)))
    path = tmp_path / "tiny.pth"
    save_checkpoint(model, path, thresholds={"hybrid": 0.25})
    return model, path


def test_round_trip_into_a_fresh_object(kept):
    model, path = kept
    again, content = load_checkpoint(path)
    images = torch.randn(4, 3, 48, 48)
    before, after = model.detect_anomaly_hybrid(images), again.detect_anomaly_hybrid(images)
    assert again is not model and not again.training and len(again.normal_features) == 7
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(model.patch_tokens(images), again.patch_tokens(images))
    assert content["thresholds"] == {"hybrid": 0.25} and again.settings == model.settings
    assert again.weights_description == "random weights of test_vit"


def test_other_settings_survive(tmp_path):
    names = tuple(reversed(CLASS_NAMES))
    model = ViTMultiClassClassifier(
        6, False, backbone="test_vit", image_size=64, class_names=names, hidden_features=20, dropout=0.3,
        similarity_weight=0.4, patch_block=2,
    )  # fmt: skip
    model.store_normal_features(torch.ones(1, 64))
    save_checkpoint(model, tmp_path / "other.pth")
    again, _ = load_checkpoint(tmp_path / "other.pth", class_names=None)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(
        model.detect_anomaly_hybrid(images)["anomaly_scores"], again.detect_anomaly_hybrid(images)["anomaly_scores"]
    )
    assert (again.image_size, again.normal_index, again.patch_block) == (64, 1, 2)
    assert again.classifier[0].p == 0.3


def refuse(path, match=None):
    with pytest.raises(CheckpointError, match=path.name) as caught:
        load_checkpoint(path)
    assert match is None or match in str(caught.value)


def test_missing_cut_or_foreign_files_are_refused_by_name(kept, tmp_path):
    _, path = kept
    refuse(tmp_path / "gone.pth", "no checkpoint")
    whole = path.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 1000):
        path.write_bytes(whole[:size])
        refuse(path, "damaged")
    path.write_text("a letter", encoding="utf-8")
    refuse(path)
    torch.save([1, 2], path)
    refuse(path, "list")
    torch.save({"format": 99, "settings": {}, "state": {}}, path)
    refuse(path, "99")
    torch.save({"some": "weights"}, path)
    refuse(path, "None")


def test_other_classes_are_refused(kept):
    model, path = kept
    model.settings["class_names"] = list(reversed(CLASS_NAMES))
    save_checkpoint(model, path)
    refuse(path, "pinhole, non_defective")
    assert load_checkpoint(path, class_names=None)[0].class_names[0] == "pinhole"


@pytest.mark.parametrize(
    "change", [{"backbone": "test_vit3"}, {"hidden_features": 20}, {"image_size": 160}, {"backbone": "no_such_vit"}]
)
def test_weights_of_another_network_are_refused(kept, change):
    model, path = kept
    model.settings.update(change)
    save_checkpoint(model, path)
    refuse(path, "does not fit")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"format": 1, "settings": {}, "state": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    refuse(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


# -- writing --------------------------------------------------------------------------------------------


def test_a_write_that_fails_in_the_middle_keeps_the_earlier_file(kept, monkeypatch):
    model, path = kept
    whole = path.read_bytes()

    def fill_disk(_, stream):
        stream.write(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_disk)
    with pytest.raises(CheckpointError, match="tiny.pth.*No space left"):
        save_checkpoint(model, path)
    assert path.read_bytes() == whole and [p.name for p in path.parent.iterdir()] == ["tiny.pth"]


def test_a_disk_that_is_full_keeps_the_earlier_file(kept):
    resource = pytest.importorskip("resource")  # not on Windows
    model, path = kept
    whole = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # writing more fails as on a full disk
    try:
        with pytest.raises(CheckpointError, match="tiny.pth.*File too large"):
            save_checkpoint(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole and [p.name for p in path.parent.iterdir()] == ["tiny.pth"]


def test_save_makes_the_folder_and_load_gives_the_same_values(tmp_path):
    content = {"rows": [{"loss": 0.5}], "tensor": torch.arange(3)}
    save_atomically(content, tmp_path / "a" / "b.pt")
    found = load_file(tmp_path / "a" / "b.pt")
    assert found["rows"] == content["rows"] and torch.equal(found["tensor"], content["tensor"])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.pt"]


def test_create_model_follows_the_settings(config):
    model = create_model(config.but(hidden_features=20, dropout=0.2, similarity_weight=0.5), pretrained=False)
    assert isinstance(model.classifier[1], nn.Linear) and model.classifier[1].out_features == 20
    assert (model.classifier[0].p, model.similarity_weight, model.image_size) == (0.2, 0.5, 48)


def test_an_interrupted_write_leaves_nothing(monkeypatch, tmp_path):
    def interrupt(_, stream):
        stream.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({}, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
