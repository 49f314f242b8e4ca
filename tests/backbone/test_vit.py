"""A backbone by hand: patch tokens, attention against a literal softmax(q k), weights that fit or are refused."""

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from src.backbone.vit import NotATransformerError, WeightsError, image_transform, load_backbone
from src.config import paths
from tests.conftest import Touch


def load(weights, *, name="test_vit", **options):
    return load_backbone(name, str(weights), image_size=48, **options)


@pytest.fixture
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def attentive(backbone):
    """A backbone whose attention is far from even: random weights alone attend to everything alike."""
    with torch.no_grad():
        for block in backbone.network.blocks:
            block.attn.qkv.weight.mul_(20)
    backbone.network.eval()
    return backbone


def backbone_weights(name="test_vit", **options):
    torch.manual_seed(5)
    return timm.create_model(name, num_classes=0, img_size=48, **options).state_dict()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file_are_loaded(tmp_path, suffix):
    weights, file = backbone_weights(), tmp_path / f"mine.{suffix}"
    save_file(weights, file) if suffix == "safetensors" else torch.save(weights, file)
    backbone = load(file)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.network.state_dict().items())
    assert backbone.weights == f"file: mine.{suffix}" and backbone.identity != load("timm", pretrained=False).identity
    random = load(file, pretrained=False)  # which has no use for it
    assert random.weights == "random weights of test_vit"
    assert not torch.equal(random.network.blocks[0].attn.qkv.weight, weights["blocks.0.attn.qkv.weight"])


def test_shipped_weights_are_of_one_architecture():
    with pytest.raises(WeightsError, match="vit_tiny_patch16_224, not of test_vit"):
        load("shipped")


def test_missing_shipped_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "shipped_backbone", tmp_path / "gone.safetensors")
    with pytest.raises(WeightsError, match="gone.safetensors"):
        load("shipped", name="vit_tiny_patch16_224")


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
        load("timm")
    assert len(calls) == 1 and calls[0]["pretrained"]  # no second try with random weights
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("name", "pretrained"), [("test_resnet", True), ("test_resnet", False), ("swin_tiny_patch4_window7_224", False)]
)
def test_a_network_that_is_no_plain_transformer_is_refused(monkeypatch, name, pretrained):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)  # no download
    with pytest.raises(NotATransformerError, match=name):
        load_backbone(name, "timm", pretrained=pretrained)


def test_only_the_lowest_blocks_can_be_kept(images):
    torch.manual_seed(0)
    whole = load("timm", pretrained=False)
    torch.manual_seed(0)
    lowest = load("timm", pretrained=False, keep_blocks=2)
    assert (whole.depth, lowest.depth) == (6, 2)
    assert whole.digest_up_to(1) == lowest.digest_up_to(1)
    assert lowest.weights.endswith("the lowest 2 of 6 blocks")
    torch.testing.assert_close(whole.tokens(images, blocks=(1,)), lowest.tokens(images, blocks=(1,)))
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"keep_blocks is {count}; test_vit has 6 blocks"):
            load("timm", pretrained=False, keep_blocks=count)


# -- fingerprints ---------------------------------------------------------------------------------------


def test_a_digest_is_of_what_the_tokens_after_a_block_come_from(backbone):
    digests = [backbone.digest_up_to(block) for block in range(6)]
    assert len(set(digests)) == 6 and all(len(digest) == 64 for digest in digests)
    with torch.no_grad():
        backbone.network.blocks[3].mlp.fc2.bias.add_(1)
        backbone.network.norm.bias.add_(1)
        backbone.network.pos_embed.add_(1)
        changed = [backbone.digest_up_to(block) for block in range(6)]
        assert [a == b for a, b in zip(digests, changed, strict=True)] == [True] * 3 + [False] * 3
        backbone.network.patch_embed.proj.bias.add_(1)
    assert not set(changed) & {backbone.digest_up_to(block) for block in range(6)}


def test_a_digest_does_not_depend_on_precision_or_input_size(backbone, tmp_path):
    state = backbone.network.state_dict()
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "half.safetensors")
    save_file(state, tmp_path / "full.safetensors")
    for file, size in (("half", 48), ("full", 96)):
        other = load_backbone("test_vit", str(tmp_path / f"{file}.safetensors"), image_size=size)
        assert other.digest_up_to(5) == backbone.digest_up_to(5) and other.identity != backbone.identity


# -- pictures -------------------------------------------------------------------------------------------


def test_transform_keeps_the_whole_picture_and_normalises():
    picture = Image.new("RGB", (60, 30), (255, 0, 51))
    picture.paste((0, 0, 51), (0, 0, 30, 30))  # the left half
    tensor = image_transform(20, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.1))(picture)
    assert tensor.shape == (3, 20, 20) and tensor.dtype == torch.float32
    assert tensor[0, 10, 0] == -1 and tensor[0, 10, 19] == 1
    assert tensor[1, 10, 10].item() == -2 and tensor[2, 10, 10].item() == pytest.approx(-3)


# -- patch tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 5])
def test_patch_tokens_by_hand(backbone, images, block):
    (tokens,) = backbone.tokens(images, blocks=(block,))
    network = backbone.network.eval()
    with torch.no_grad():
        stream = network._pos_embed(network.patch_embed(images))
        for layer in network.blocks[: block + 1]:
            stream = layer(stream)
    assert tokens.shape == (3, 64, 3, 3) and tokens.dtype == torch.float32
    for row in range(3):
        for column in range(3):
            torch.testing.assert_close(tokens[:, :, row, column], stream[:, 1 + 3 * row + column])


def test_patch_tokens_of_several_blocks_come_in_one_pass(backbone, images):
    low, high = backbone.tokens(images, blocks=(1, 2))
    torch.testing.assert_close(low, backbone.tokens(images, blocks=(1,))[0])
    assert (low - high).abs().max() > 1e-2


def test_patch_tokens_of_larger_pictures_lie_on_their_grid(backbone):
    picture = torch.zeros(1, 3, 96, 160)
    spot = picture.clone()
    spot[:, :, 32:48, 64:80] = 3  # row 2, column 4
    (before,), (after,) = (backbone.tokens(each, blocks=(0,)) for each in (picture, spot))
    assert before.shape == (1, 64, 6, 10)
    assert divmod((after - before).norm(dim=1)[0].argmax().item(), 10) == (2, 4)


@pytest.mark.parametrize("training", [True, False])
def test_reading_is_without_dropout_and_restores_the_mode(backbone, images, training):
    backbone.network.train(training)
    backbone.tokens(images, blocks=(0,))
    backbone.attention_maps(images)
    for read in (lambda wrong: backbone.tokens(wrong, blocks=(0,)), backbone.attention_maps):
        with pytest.raises(RuntimeError):
            read(torch.zeros(1, 5, 48, 48))
    assert all(module.training == training for module in backbone.network.modules())


# -- attention ------------------------------------------------------------------------------------------


def literal_attention(network, images):
    """Softmax(q k) of every block, written out: (n, blocks, heads, tokens, tokens)."""
    attention = []
    with torch.no_grad():
        stream = network._pos_embed(network.patch_embed(images))
        for block in network.blocks:
            tokens = block.norm1(stream)
            n, count, width = tokens.shape
            qkv = F.linear(tokens, block.attn.qkv.weight, block.attn.qkv.bias)
            q, k, _ = qkv.view(n, count, 3, 2, width // 2).permute(2, 0, 3, 1, 4)  # (n, heads, tokens, 32)
            weights = torch.exp(q @ k.transpose(-1, -2) / 32**0.5)
            attention.append(weights / weights.sum(-1, keepdim=True))
            stream = block(stream)
    return torch.stack(attention, dim=1)


def test_attention_is_the_models_own_and_that_of_all_blocks(attentive, images):
    maps = attentive.attention_maps(images)
    wanted = literal_attention(attentive.network, images)
    assert maps["heads"].shape == (3, 6, 2, 3, 3) and attentive.depth == 6
    close = {"rtol": 1e-4, "atol": 1e-4}  # the large weights make float32 rounding visible
    torch.testing.assert_close(maps["heads"].flatten(3), wanted[:, :, :, 0, 1:], **close)
    torch.testing.assert_close(maps["cls"].flatten(1), wanted[:, -1, :, 0, 1:].mean(1), **close)
    flow = torch.eye(10)
    for block in wanted.mean(2).unbind(1):
        flow = (0.5 * block + 0.5 * torch.eye(10)) @ flow
    torch.testing.assert_close(maps["rollout"].flatten(1), flow[:, 0, 1:], **close)


def test_attention_to_patches_is_a_share(attentive, images):
    maps = attentive.attention_maps(images)
    for values in maps.values():
        assert values.min() >= 0 and values.sum((-1, -2)).max() <= 1 + 1e-5
    class_token = literal_attention(attentive.network, images)[:, :, :, 0, 0]
    torch.testing.assert_close(maps["heads"].sum((-1, -2)) + class_token, torch.ones(3, 6, 2))


def test_without_a_class_token_there_is_no_attention_from_it(backbone, images):
    backbone.network.cls_token = None  # as in backbones that average their patches
    with pytest.raises(ValueError, match="test_vit has no class token"):
        backbone.attention_maps(images)


def test_attention_of_larger_pictures(attentive):
    maps = attentive.attention_maps(torch.randn(2, 3, 96, 64))
    assert maps["heads"].shape == (2, 6, 2, 6, 4) and maps["rollout"].shape == (2, 6, 4)


def test_attention_does_not_depend_on_the_fused_kernel_and_restores_it(attentive, images):
    maps, blocks = [], attentive.network.blocks
    for fused in (True, False):
        for number, block in enumerate(blocks):
            block.attn.fused_attn = fused if number else not fused
        maps.append(attentive.attention_maps(images))
        assert [block.attn.fused_attn for block in blocks] == [not fused] + [fused] * 5
    for name in maps[0]:
        torch.testing.assert_close(maps[0][name], maps[1][name])
    with pytest.raises(RuntimeError):
        attentive.attention_maps(torch.zeros(1, 5, 48, 48))
    assert [block.attn.fused_attn for block in blocks] == [True] + [False] * 5
    assert not any(block.attn.attn_drop._forward_hooks for block in blocks)


@pytest.mark.parametrize("name", ["cls", "rollout"])
def test_attention_depends_on_the_picture_and_on_the_weights(attentive, images, name):
    before, blocks = attentive.attention_maps(images)[name], attentive.network.blocks
    assert (before[0] - before[1]).abs().max() > 1e-3
    with torch.no_grad():
        blocks[-1].attn.qkv.weight.copy_(blocks[0].attn.qkv.weight)
    after = attentive.attention_maps(images)[name]
    assert (before - after).abs().max() > 1e-3
