"""Checkpoints: written whole or not at all; what does not fit is refused by name."""

import errno

import pytest
import torch

from src.classifier.checkpoints import load_checkpoint, save_checkpoint
from src.classifier.model import ViTMultiClassClassifier
from src.config import CLASS_NAMES
from src.data.tables import Classes
from src.files import CheckpointError, load_tensors, save_tensors
from tests.conftest import Touch


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
    assert torch.equal(model.vit.tokens(images, blocks=(3,))[0], again.vit.tokens(images, blocks=(3,))[0])
    assert content["thresholds"] == {"hybrid": 0.25} and again.settings == model.settings
    assert again.weights_description == "random weights of test_vit"


def test_other_settings_survive(tmp_path):
    names = tuple(reversed(CLASS_NAMES))
    model = ViTMultiClassClassifier(
        6,
        False,
        backbone="test_vit",
        image_size=64,
        class_names=names,
        hidden_features=20,
        dropout=0.3,
        similarity_weight=0.4,
    )
    model.store_normal_features(torch.ones(1, 64))
    save_checkpoint(model, tmp_path / "other.pth")
    again, _ = load_checkpoint(tmp_path / "other.pth", class_names=None)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(
        model.detect_anomaly_hybrid(images)["anomaly_scores"], again.detect_anomaly_hybrid(images)["anomaly_scores"]
    )
    assert (again.image_size, again.classes.normal_index) == (64, 1)
    assert again.classifier[0].p == 0.3


def test_features_of_several_blocks_survive(tmp_path):
    model = ViTMultiClassClassifier(6, False, backbone="test_vit", image_size=48, feature_blocks=(0, 3))
    images = torch.randn(4, 3, 48, 48)
    model.set_feature_spread(model.extract_features(images, raw=True))
    save_checkpoint(model, tmp_path / "blocks.pth")
    again, _ = load_checkpoint(tmp_path / "blocks.pth")
    assert torch.equal(again.extract_features(images), model.extract_features(images))


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
    model.classes = Classes(CLASS_NAMES[::-1], model.normal_class)
    save_checkpoint(model, path)
    with pytest.raises(CheckpointError, match="trained for the classes pinhole, non_defective"):
        load_checkpoint(path, class_names=CLASS_NAMES)
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
    save_tensors(content, tmp_path / "a" / "b.pt")
    loaded = load_tensors(tmp_path / "a" / "b.pt")
    assert loaded["rows"] == content["rows"] and torch.equal(loaded["tensor"], content["tensor"])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.pt"]


def test_an_interrupted_write_leaves_nothing(monkeypatch, tmp_path):
    def interrupt(_, stream):
        stream.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_tensors({}, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
