"""The classifier by hand: head, features, scores."""

import functools

import pytest
import timm
import torch
from torch import nn

from src.classifier.model import ViTMultiClassClassifier, create_model, parameter_groups
from src.config import CLASS_NAMES
from src.data.tables import Classes
from tests.conftest import CLASSES

KEYS = {
    "anomaly_scores",
    "similarity_scores",
    "classification_scores",
    "predicted_classes",
    "class_probabilities",
    "features",
    "normal_class_prob",
}


@pytest.fixture
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def tiny(**options):
    torch.manual_seed(0)
    return ViTMultiClassClassifier(6, False, backbone="test_vit", image_size=48, **options)


# -- network --------------------------------------------------------------------------------------------


def test_forward_gives_logits_and_features(model, images):
    logits, features = model(images)
    assert logits.shape == (3, 6) and features.shape == (3, 64)
    assert torch.isfinite(logits).all() and model.num_features == 64


def test_head_is_the_published_one():
    model = ViTMultiClassClassifier(6, False, backbone="test_vit")
    assert [type(layer) for layer in model.classifier] == [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    first_dropout, first, _, second_dropout, second = model.classifier
    assert first_dropout.p == second_dropout.p == 0.1
    assert (first.in_features, first.out_features) == (64, 512)
    assert (second.in_features, second.out_features) == (512, 6)
    assert first.bias is not None and second.bias is not None
    assert model.image_size == 160  # the backbone's own


def test_features_of_several_blocks_by_hand(images):
    model = tiny(feature_blocks=(1, 4))
    tokens = model.backbone.patch_embed(images)
    tokens = model.backbone.norm_pre(model.backbone._pos_embed(tokens))
    wanted = []
    for number, block in enumerate(model.backbone.blocks):
        tokens = block(tokens)
        if number in (1, 4):
            normed = (tokens - tokens.mean(2, keepdim=True)) / (tokens.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
            wanted += [normed[:, 1:].mean(1), normed[:, 1:].std(1), normed[:, 0]]
    torch.testing.assert_close(model.extract_features(images), torch.cat(wanted, 1), rtol=1e-4, atol=1e-5)
    assert model.num_features == 6 * 64 and model(images)[0].shape == (3, 6)


def test_features_of_no_such_block():
    with pytest.raises(ValueError, match="feature_blocks is .*9.* has 6 blocks"):
        tiny(feature_blocks=(2, 9))


def test_standardised_features_have_no_common_part(images):
    model = tiny(feature_blocks=(1, 4))
    raw = model.extract_features(images, raw=True).clone()
    assert torch.equal(raw, model.extract_features(images))  # nothing is set yet
    raw[:, 0] = 1.0  # a dimension that never varies
    model.set_feature_spread(raw)
    standard = model.standardise(raw)
    assert standard.mean(0).abs().max() < 1e-4 and torch.isfinite(standard).all()
    deviation = raw.std(0)
    usual = deviation > 0.1 * deviation.median()
    torch.testing.assert_close(standard.std(0)[usual], torch.ones(int(usual.sum())), rtol=1e-3, atol=1e-3)
    assert torch.equal(model(images)[1], model.extract_features(images))
    assert not torch.equal(model.extract_features(images), model.extract_features(images, raw=True))


def test_class_names_must_fit():
    with pytest.raises(ValueError, match="num_classes is 5"):
        ViTMultiClassClassifier(5, False, backbone="test_vit")
    with pytest.raises(ValueError, match="perfect"):
        ViTMultiClassClassifier(6, False, backbone="test_vit", normal_class="perfect")


def test_same_seed_same_weights(config):
    first, second = (create_model(config, CLASSES, pretrained=False).state_dict() for _ in range(2))
    other = create_model(config.but(seed=7), CLASSES, pretrained=False).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])


# -- scores ---------------------------------------------------------------------------------------------


def test_scores_by_hand(model, images):
    bank = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    model.store_normal_features(bank)
    answers = model.detect_anomaly_hybrid(images)
    assert set(answers) == KEYS

    model.eval()
    with torch.no_grad():
        logits, features = model(images)
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    normal = probabilities[:, CLASS_NAMES.index("non_defective")]
    lengths = features.norm(dim=1)[:, None] * bank.norm(dim=1)[None]
    similarity = 1 - (features @ bank.T / lengths).max(1).values
    torch.testing.assert_close(answers["features"], features)
    torch.testing.assert_close(answers["class_probabilities"], probabilities)
    torch.testing.assert_close(answers["normal_class_prob"], normal)
    torch.testing.assert_close(answers["similarity_scores"], similarity)
    torch.testing.assert_close(answers["classification_scores"], 1 - normal)
    torch.testing.assert_close(answers["anomaly_scores"], 0.7 * similarity + 0.3 * (1 - normal))
    assert answers["predicted_classes"].tolist() == logits.argmax(1).tolist()


def test_an_image_of_the_bank_scores_0(model, images):
    model.store_normal_features(model.extract_features(images[:2]))
    scores = model.detect_anomaly_hybrid(images)["similarity_scores"]
    assert scores[:2].tolist() == [0, 0] and scores[2] > 0


def test_similarity_weight_is_used(images):
    model = tiny(similarity_weight=1.0)
    model.store_normal_features(torch.ones(1, 64))
    answers = model.detect_anomaly_hybrid(images)
    torch.testing.assert_close(answers["anomaly_scores"], answers["similarity_scores"])


def test_normal_class_goes_by_its_name(images):
    names = ("non_defective", *(name for name in CLASS_NAMES if name != "non_defective"))
    model = tiny(class_names=names)
    model.store_normal_features(torch.ones(1, 64))
    answers = model.detect_anomaly_hybrid(images)
    assert torch.equal(answers["normal_class_prob"], answers["class_probabilities"][:, 0])
    assert torch.equal(answers["classification_scores"], 1 - answers["class_probabilities"][:, 0])


def test_without_a_bank_there_is_no_score(model, images):
    with pytest.raises(RuntimeError, match="store_normal_features"):
        model.detect_anomaly_hybrid(images)


@pytest.mark.parametrize("bank", [torch.ones(0, 64), torch.ones(3, 63), torch.ones(64), torch.full((2, 64), torch.nan)])
def test_a_bank_that_does_not_fit_is_refused(model, bank):
    with pytest.raises(ValueError, match="normal features|expected"):
        model.store_normal_features(bank)
    assert len(model.normal_features) == 0


@pytest.mark.parametrize("training", [True, False])
def test_inference_is_without_dropout_and_restores_the_mode(model, images, training):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train(training)
    first, second = model.classify_multiclass(images), model.classify_multiclass(images)
    assert torch.equal(first["class_probabilities"], second["class_probabilities"])
    model.vit.tokens(images, blocks=(0,))
    model.extract_attention_maps(images)
    with pytest.raises(RuntimeError):
        model.extract_features(torch.zeros(1, 5, 48, 48))
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize("feature_blocks", [(0, 2), None])
def test_attention_is_that_of_all_blocks_whatever_the_features_read(images, feature_blocks):
    model = tiny(feature_blocks=feature_blocks)
    maps = model.extract_attention_maps(images)
    assert maps["heads"].shape[1] == len(model.backbone.blocks) == 6
    torch.testing.assert_close(maps["cls"], maps["heads"][:, -1].mean(1))


def test_create_model_follows_the_settings_and_the_classes(config):
    classes = Classes(("good", "scar"), "good")
    config = config.but(hidden_features=20, dropout=0.2, similarity_weight=0.5, feature_blocks=(1, 2), keep_blocks=4)
    model = create_model(config, classes, pretrained=False)
    assert model.classifier[1].out_features == 20 and model.classifier[4].out_features == 2
    assert (model.classifier[0].p, model.similarity_weight, model.image_size) == (0.2, 0.5, 48)
    assert (model.classes, model.class_names, model.normal_class) == (classes, ("good", "scar"), "good")
    assert model.settings["feature_blocks"] == (1, 2) and model.vit.depth == 4


@pytest.mark.parametrize(("mode", "frozen", "learning"), [("head", 0, 4), ("all", 6, 6), ("all", 0, None)])
def test_what_learns_has_a_rate_and_the_rest_is_frozen(config, mode, frozen, learning):
    """Of the head 4 tensors; with all blocks frozen also the final norm's two."""
    model = create_model(config, CLASSES, pretrained=False)
    groups = parameter_groups(model, config.but(train_mode=mode, frozen_blocks=frozen))
    listed = [parameter for group in groups for parameter in group["params"]]
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in listed} == {id(parameter) for parameter in asking}
    assert len(listed) == (learning or len(list(model.parameters())))
    assert groups[-1]["lr"] == 1e-2 and all(group["lr"] == 1e-3 for group in groups[:-1])


@pytest.mark.parametrize("blocks", [None, (0, 2)])
@pytest.mark.parametrize("keep", [None, 3])
@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "plain"])
def test_any_plain_transformer_gives_a_vector_an_image(monkeypatch, name, keep, blocks):
    """With a class token; with registers and without one; pooled by attention; without any prefix, as SigLIP."""
    if name == "plain":
        create = functools.partial(timm.create_model, class_token=False, global_pool="avg")
        monkeypatch.setattr(timm, "create_model", lambda name, **options: create("test_vit", **options))
    backbone = "test_vit" if name == "plain" else name
    options = {"image_size": 48, "feature_blocks": blocks, "keep_blocks": keep}
    model = ViTMultiClassClassifier(6, False, backbone=backbone, **options)
    logits, features = model(torch.randn(3, 3, 48, 48))
    assert logits.shape == (3, 6) and features.shape == (3, model.num_features)
    assert model.extract_features(torch.randn(2, 3, 48, 48)).shape == (2, model.num_features)
