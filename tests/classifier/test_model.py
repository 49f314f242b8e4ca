"""The classifier by hand: head, scores, patch tokens, attention against a literal softmax(q k)."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from src.backbone.vit import NotATransformerError, image_transform, load_backbone
from src.classifier.model import ViTMultiClassClassifier, create_model
from src.config import CLASS_NAMES
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


@pytest.fixture
def attentive(model):
    """A model whose attention is far from even: random weights alone attend to everything alike."""
    with torch.no_grad():
        for block in model.backbone.blocks:
            block.attn.qkv.weight.mul_(20)
    return model.eval()


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
    found = model.standardise(raw)
    assert found.mean(0).abs().max() < 1e-4 and torch.isfinite(found).all()
    deviation = raw.std(0)
    usual = deviation > 0.1 * deviation.median()
    torch.testing.assert_close(found.std(0)[usual], torch.ones(int(usual.sum())), rtol=1e-3, atol=1e-3)
    assert torch.equal(model(images)[1], model.extract_features(images))
    assert not torch.equal(model.extract_features(images), model.extract_features(images, raw=True))


def test_class_names_must_fit():
    with pytest.raises(ValueError, match="num_classes is 5"):
        ViTMultiClassClassifier(5, False, backbone="test_vit")
    with pytest.raises(ValueError, match="perfect"):
        ViTMultiClassClassifier(6, False, backbone="test_vit", normal_class="perfect")


@pytest.mark.parametrize(
    ("name", "pretrained"), [("test_resnet", True), ("test_resnet", False), ("swin_tiny_patch4_window7_224", False)]
)
def test_a_network_that_is_no_plain_transformer_is_refused(monkeypatch, name, pretrained):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)  # no download
    with pytest.raises(NotATransformerError, match=name):
        ViTMultiClassClassifier(6, pretrained, backbone=name)


def test_same_seed_same_weights(config):
    first, second = (create_model(config, CLASSES, pretrained=False).state_dict() for _ in range(2))
    other = create_model(config.but(seed=7), CLASSES, pretrained=False).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])


def test_transform_keeps_the_whole_picture_and_normalises():
    picture = Image.new("RGB", (60, 30), (255, 0, 51))
    picture.paste((0, 0, 51), (0, 0, 30, 30))  # the left half
    tensor = image_transform(20, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.1))(picture)
    assert tensor.shape == (3, 20, 20) and tensor.dtype == torch.float32
    assert tensor[0, 10, 0] == -1 and tensor[0, 10, 19] == 1
    assert tensor[1, 10, 10].item() == -2 and tensor[2, 10, 10].item() == pytest.approx(-3)


# -- scores ---------------------------------------------------------------------------------------------


def test_scores_by_hand(model, images):
    bank = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    model.store_normal_features(bank)
    found = model.detect_anomaly_hybrid(images)
    assert set(found) == KEYS

    model.eval()
    with torch.no_grad():
        logits, features = model(images)
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    normal = probabilities[:, CLASS_NAMES.index("non_defective")]
    lengths = features.norm(dim=1)[:, None] * bank.norm(dim=1)[None]
    similarity = 1 - (features @ bank.T / lengths).max(1).values
    torch.testing.assert_close(found["features"], features)
    torch.testing.assert_close(found["class_probabilities"], probabilities)
    torch.testing.assert_close(found["normal_class_prob"], normal)
    torch.testing.assert_close(found["similarity_scores"], similarity)
    torch.testing.assert_close(found["classification_scores"], 1 - normal)
    torch.testing.assert_close(found["anomaly_scores"], 0.7 * similarity + 0.3 * (1 - normal))
    assert found["predicted_classes"].tolist() == logits.argmax(1).tolist()


def test_an_image_of_the_bank_scores_0(model, images):
    model.store_normal_features(model.extract_features(images[:2]))
    scores = model.detect_anomaly_hybrid(images)["similarity_scores"]
    assert scores[:2].tolist() == [0, 0] and scores[2] > 0


def test_similarity_weight_is_used(images):
    model = tiny(similarity_weight=1.0)
    model.store_normal_features(torch.ones(1, 64))
    found = model.detect_anomaly_hybrid(images)
    torch.testing.assert_close(found["anomaly_scores"], found["similarity_scores"])


def test_normal_class_is_found_by_name(images):
    names = ("non_defective", *(name for name in CLASS_NAMES if name != "non_defective"))
    model = tiny(class_names=names)
    model.store_normal_features(torch.ones(1, 64))
    found = model.detect_anomaly_hybrid(images)
    assert torch.equal(found["normal_class_prob"], found["class_probabilities"][:, 0])
    assert torch.equal(found["classification_scores"], 1 - found["class_probabilities"][:, 0])


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
    model.vit.tokens(images)
    model.extract_attention_maps(images)
    with pytest.raises(RuntimeError):
        model.extract_features(torch.zeros(1, 5, 48, 48))
    assert all(module.training == training for module in model.modules())


# -- patch tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 5, None])
def test_patch_tokens_by_hand(model, images, block):
    (tokens,) = model.vit.tokens(images, blocks=None if block is None else (block,))
    backbone = model.eval().backbone
    with torch.no_grad():
        stream = backbone._pos_embed(backbone.patch_embed(images))
        for layer in backbone.blocks[: (model.vit.patch_block if block is None else block) + 1]:
            stream = layer(stream)
    assert model.vit.patch_block == 3  # two thirds up, of six blocks
    for row in range(3):
        for column in range(3):
            torch.testing.assert_close(tokens[:, :, row, column], stream[:, 1 + 3 * row + column])


def test_patch_block_is_used(images):
    backbone = load_backbone("test_vit", "timm", pretrained=False, image_size=48, patch_block=1)
    (default,), (low, high) = backbone.tokens(images), backbone.tokens(images, blocks=(1, 2))
    assert torch.equal(default, low) and not torch.equal(default, high)


def test_patch_tokens_of_larger_pictures_lie_on_their_grid(model):
    picture = torch.zeros(1, 3, 96, 160)
    assert model.vit.tokens(picture)[0].shape == (1, 64, 6, 10)
    spot = picture.clone()
    spot[:, :, 32:48, 64:80] = 3  # row 2, column 4
    change = (model.vit.tokens(spot, blocks=(0,))[0] - model.vit.tokens(picture, blocks=(0,))[0]).norm(dim=1)[0]
    assert divmod(change.argmax().item(), 10) == (2, 4)


# -- attention ------------------------------------------------------------------------------------------


def literal_attention(model, images):
    """Softmax(q k) of every block, written out: (n, blocks, heads, tokens, tokens)."""
    backbone, found = model.backbone, []
    with torch.no_grad():
        stream = backbone._pos_embed(backbone.patch_embed(images))
        for block in backbone.blocks:
            tokens = block.norm1(stream)
            n, count, width = tokens.shape
            qkv = F.linear(tokens, block.attn.qkv.weight, block.attn.qkv.bias)
            q, k, _ = qkv.view(n, count, 3, 2, width // 2).permute(2, 0, 3, 1, 4)  # (n, heads, tokens, 32)
            weights = torch.exp(q @ k.transpose(-1, -2) / 32**0.5)
            found.append(weights / weights.sum(-1, keepdim=True))
            stream = block(stream)
    return torch.stack(found, dim=1)


def test_attention_is_the_models_own(attentive, images):
    found = attentive.extract_attention_maps(images)
    wanted = literal_attention(attentive, images)
    assert found["heads"].shape == (3, 6, 2, 3, 3)
    close = {"rtol": 1e-4, "atol": 1e-4}  # the large weights make float32 rounding visible
    torch.testing.assert_close(found["heads"].flatten(3), wanted[:, :, :, 0, 1:], **close)
    torch.testing.assert_close(found["cls"].flatten(1), wanted[:, -1, :, 0, 1:].mean(1), **close)
    flow = torch.eye(10)
    for block in wanted.mean(2).unbind(1):
        flow = (0.5 * block + 0.5 * torch.eye(10)) @ flow
    torch.testing.assert_close(found["rollout"].flatten(1), flow[:, 0, 1:], **close)


@pytest.mark.parametrize("feature_blocks", [(0, 2), None])
def test_attention_is_that_of_all_blocks_whatever_the_features_read(images, feature_blocks):
    model = tiny(feature_blocks=feature_blocks).eval()
    found = model.extract_attention_maps(images)
    assert found["heads"].shape[1] == len(model.backbone.blocks) == 6
    wanted = literal_attention(model, images)[:, -1, :, 0, 1:].mean(1)
    torch.testing.assert_close(found["cls"].flatten(1), wanted, rtol=1e-4, atol=1e-4)


def test_attention_to_patches_is_a_share(attentive, images):
    found = attentive.extract_attention_maps(images)
    for values in found.values():
        assert values.min() >= 0 and values.sum((-1, -2)).max() <= 1 + 1e-5
    class_token = literal_attention(attentive, images)[:, :, :, 0, 0]
    torch.testing.assert_close(found["heads"].sum((-1, -2)) + class_token, torch.ones(3, 6, 2))


def test_without_a_class_token_there_is_no_attention_from_it(model, images):
    model.backbone.cls_token = None  # as in backbones that average their patches
    with pytest.raises(ValueError, match="test_vit has no class token"):
        model.extract_attention_maps(images)


def test_attention_of_larger_pictures(attentive):
    found = attentive.extract_attention_maps(torch.randn(2, 3, 96, 64))
    assert found["heads"].shape == (2, 6, 2, 6, 4) and found["rollout"].shape == (2, 6, 4)


def test_attention_does_not_depend_on_the_fused_kernel_and_restores_it(attentive, images):
    found = []
    for fused in (True, False):
        for number, block in enumerate(attentive.backbone.blocks):
            block.attn.fused_attn = fused if number else not fused
        found.append(attentive.extract_attention_maps(images))
        assert [block.attn.fused_attn for block in attentive.backbone.blocks] == [not fused] + [fused] * 5
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])
    with pytest.raises(RuntimeError):
        attentive.extract_attention_maps(torch.zeros(1, 5, 48, 48))
    assert [block.attn.fused_attn for block in attentive.backbone.blocks] == [True] + [False] * 5
    assert not any(block.attn.attn_drop._forward_hooks for block in attentive.backbone.blocks)


@pytest.mark.parametrize("name", ["cls", "rollout"])
def test_attention_depends_on_the_picture_and_on_the_weights(attentive, images, name):
    before = attentive.extract_attention_maps(images)[name]
    assert (before[0] - before[1]).abs().max() > 1e-3
    with torch.no_grad():
        attentive.backbone.blocks[-1].attn.qkv.weight.copy_(attentive.backbone.blocks[0].attn.qkv.weight)
    after = attentive.extract_attention_maps(images)[name]
    assert (before - after).abs().max() > 1e-3


def test_create_model_follows_the_settings(config):
    model = create_model(config.but(hidden_features=20, dropout=0.2, similarity_weight=0.5), CLASSES, pretrained=False)
    assert isinstance(model.classifier[1], nn.Linear) and model.classifier[1].out_features == 20
    assert (model.classifier[0].p, model.similarity_weight, model.image_size) == (0.2, 0.5, 48)
