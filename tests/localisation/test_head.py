"""The head: shapes, what it must not depend on, its inputs by hand, and its file."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

from src.backbone.vit import SHIPPED_ARCHITECTURE, load_backbone
from src.files import CheckpointError
from src.localisation.channels import cells_of, distance_channels, fine_picture, gaussian_blur, on_cells, pixel_channels
from src.localisation.head import DefectHead, defect_logits, find_head, load_head
from src.synthetic.leather import render_leather
from tools.train_head import save_head


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network(head):
    """With statistics of distances that are not those of the start."""
    with torch.no_grad():
        head.network.mean.copy_(drawn(8, seed=3))
        head.network.deviation.copy_(0.5 + drawn(8, seed=4).abs())
    return head.network


@pytest.mark.parametrize("grid", [(32, 32), (5, 9), (1, 1)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_map_has_eight_pixels_a_cell(grid, blocks):
    network, (height, width) = DefectHead(blocks), grid
    logits = network(drawn(2, 4 * blocks + 1, *grid), drawn(2, 8, 8 * height, 8 * width))
    assert logits.shape == (2, 8 * height, 8 * width) and torch.isfinite(logits).all()
    assert logits.mean() < -1  # defects are rare from the start


@torch.no_grad()
def test_without_references_their_channels_have_no_say(network):
    distances, pixels = drawn(1, 9, 4, 4), drawn(1, 8, 32, 32)
    other = distances.clone()
    other[:, 6:8] = 100 * drawn(1, 2, 4, 4, seed=1)
    for present, is_same in ((0.0, True), (1.0, False)):
        distances[:, 8] = other[:, 8] = present
        assert torch.allclose(network(distances, pixels), network(other, pixels), atol=1e-5) == is_same


@torch.no_grad()
def test_distances_pixels_and_the_flag_have_a_say(network):
    distances, pixels = drawn(1, 9, 4, 4), drawn(1, 8, 32, 32)
    distances[:, 8] = 1
    before = network(distances, pixels)
    changes = [(0, torch.zeros(4, 4)), (5, torch.zeros(4, 4)), (7, torch.zeros(4, 4)), (8, torch.zeros(4, 4))]
    for channel, values in changes:
        changed = distances.clone()
        changed[0, channel] = values
        assert (network(changed, pixels) - before).abs().max() > 1e-4
    assert (network(distances, pixels.flip(-1)) - before).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("present", [0.0, 1.0])
def test_half_the_mean_log_distance_is_added_and_the_probability_calibrated(head, present):
    for parameter in head.network.parameters():
        parameter.zero_()  # now the network says 0 everywhere
    distances = torch.cat([drawn(6, 1, 1), present * drawn(2, 1, 1, seed=1), torch.full((1, 1, 1), present)])
    distances = distances.expand(9, 4, 4)
    mean = distances[:8, 0, 0].sum().item() / (8 if present else 6)
    logits = defect_logits(head.network, distances[None], drawn(1, 8, 32, 32))
    assert logits.numpy() == pytest.approx(np.full((1, 32, 32), 0.5 * mean), abs=1e-5)
    head = replace(head, facts=replace(head.facts, slope=2.0, offset=-0.5))
    values = head.probabilities(distances, drawn(1, 8, 32, 32))
    assert values.dtype == np.float32 and values == pytest.approx(1 / (1 + np.exp(0.5 - mean)), abs=1e-5)


# -- inputs ---------------------------------------------------------------------------------------------


def test_distances_are_logs_over_their_median():
    own, reference = drawn(6, 3, 5).abs() + 0.1, drawn(2, 3, 5, seed=1).abs() + 0.1
    alone, both = distance_channels(own, None), distance_channels(own, reference)
    assert alone.shape == both.shape == (9, 3, 5)
    for channel, values in zip(both, [*own, *reference], strict=False):
        torch.testing.assert_close(channel, (values / values.median()).log())
    torch.testing.assert_close(alone[:6], both[:6])
    assert (alone[6:] == 0).all() and (both[8] == 1).all()
    assert torch.isfinite(distance_channels(torch.zeros(3, 2, 2), torch.zeros(1, 2, 2))).all()


def test_medians_are_of_the_leather_alone():
    own, valid = drawn(3, 4, 6).abs() + 0.1, torch.ones(4, 6, dtype=bool)
    valid[:, 2:] = False
    other = torch.where(valid, own, 50 * own)
    expected, changed = (distance_channels(each, None, valid=valid) for each in (own, other))
    torch.testing.assert_close(changed[:, valid], expected[:, valid])
    torch.testing.assert_close(expected[0], (own[0] / own[0][valid].median()).log())


def picture(*, gain=1.0, size=128):
    pixels = render_leather(np.random.default_rng(1), size)
    return torch.from_numpy(np.rint(pixels * gain).astype(np.uint8)).permute(2, 0, 1)[None]


def test_pixel_channels_do_not_depend_on_the_light():
    plain, darker = pixel_channels(picture()), pixel_channels(picture(gain=0.8))
    assert plain.shape == (1, 8, 128, 128)
    for one, other in zip(plain[0], darker[0], strict=True):
        assert (one - other).abs().median() < 0.15 * one.std() and np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_constant_picture_says_nothing(level):
    channels = pixel_channels(torch.full((1, 3, 64, 72), level, dtype=torch.uint8))
    assert channels.shape == (1, 8, 64, 72) and channels.abs().max() < 1e-2


def test_a_spot_stands_out_in_light_or_colour():
    spot = picture()
    spot[..., 60:64, 60:64] = 255
    change = (pixel_channels(spot) - pixel_channels(picture()))[0, :, 62, 62].abs()
    assert change[0] > 1 and change[3:6].max() > 0.5
    red = picture()
    red[:, 0, 60:64, 60:64] = 255
    assert (pixel_channels(red) - pixel_channels(picture()))[0, 6, 62, 62] > 1


def test_the_table_has_no_say_in_median_and_spread():
    valid = torch.ones(1, 128, 128, dtype=bool)
    torch.testing.assert_close(pixel_channels(picture(), valid=valid), pixel_channels(picture()))
    valid[..., 40:] = False
    table = picture()
    table[..., 40:] = torch.randint(0, 255, (1, 3, 128, 88), dtype=torch.uint8)
    plain, masked = (pixel_channels(each, valid=valid)[0, :1, :, :20] for each in (picture(), table))
    assert (plain - masked).abs().mean() < 0.1 * plain.std()
    assert (plain - pixel_channels(table)[0, :1, :, :20]).abs().mean() > 0.3 * plain.std()


@pytest.mark.parametrize(("sigma", "tolerance"), [(0.8, 1e-3), (1.5, 1e-3), (6, 0.05), (20, 0.3)])
def test_the_blur_is_a_gaussian(sigma, tolerance):
    """A wide one nearly, and away from the border, which it continues in its own way."""
    values = np.random.default_rng(0).normal(size=(170, 190)).astype(np.float32)
    values[60:80, 70:100] += 3
    exact = gaussian_filter(values, sigma, mode="nearest", truncate=3)
    blurred = gaussian_blur(torch.from_numpy(values)[None, None], sigma)[0, 0].numpy()
    assert blurred.shape == values.shape
    inside = np.s_[60:-60, 60:-60]
    assert np.sqrt(np.mean((blurred - exact)[inside] ** 2)) < tolerance * exact[inside].std()
    flat = gaussian_blur(torch.full((1, 2, 37, 50), 0.3), sigma)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))


def test_the_grid_of_cells():
    assert cells_of(448, 448) == (32, 32) and cells_of(16, 224) == (16, 1) and cells_of(3, 3) == (1, 1)
    channels = drawn(5, 6, 8)
    assert torch.equal(on_cells(channels, (6, 8)), channels) and on_cells(channels, (7, 9)).shape == (5, 7, 9)
    pixels = fine_picture(Image.new("RGB", (100, 50), (1, 2, 3)), (4, 8))
    assert pixels.shape == (3, 32, 64) and pixels.dtype == torch.uint8 and pixels[:, 5, 5].tolist() == [1, 2, 3]


# -- files ----------------------------------------------------------------------------------------------


def test_a_saved_head_is_found_for_its_backbone(head, network, backbone, tmp_path):
    assert find_head(backbone, tmp_path) is None
    assert save_head(head, tmp_path / "heads" / "mine.safetensors") == tmp_path / "heads" / "mine.safetensors"
    found = find_head(backbone, tmp_path / "heads")
    assert found.facts == head.facts and not found.network.training
    distances, pixels = drawn(9, 4, 4), drawn(1, 8, 32, 32)
    wanted = head.probabilities(distances, pixels)
    assert found.probabilities(distances, pixels) == pytest.approx(wanted, abs=0.02)  # weights in float16
    assert wanted.std() > 0.02


def test_a_head_is_for_the_tokens_that_it_was_trained_on(head, backbone, tmp_path):
    save_head(head, tmp_path / "mine.safetensors")
    shallow = load_backbone("test_vit", "timm", image_size=48, pretrained=False, keep_blocks=3)
    shallow.network.load_state_dict(backbone.network.state_dict(), strict=False)
    assert find_head(shallow, tmp_path) is None  # block 3 is not there
    facts = replace(head.facts, tokens=shallow.digest_up_to(3))  # of the blocks that are
    save_head(replace(head, facts=facts), tmp_path / "shallow" / "mine.safetensors")
    assert find_head(shallow, tmp_path / "shallow") is None
    with torch.no_grad():
        backbone.network.blocks[4].mlp.fc1.weight.add_(1)  # above the last block that is read
        assert find_head(backbone, tmp_path) is not None
        backbone.network.blocks[3].mlp.fc1.weight.add_(1)
    assert find_head(backbone, tmp_path) is None


def test_the_right_head_among_several(head, backbone, tmp_path):
    save_head(replace(head, facts=replace(head.facts, tokens="0" * 64)), tmp_path / "a.safetensors")
    save_head(replace(head, facts=replace(head.facts, outline=0.25)), tmp_path / "b.safetensors")
    assert find_head(backbone, tmp_path).facts.outline == 0.25


def test_the_committed_head_is_that_of_the_shipped_backbone():
    backbone = load_backbone(SHIPPED_ARCHITECTURE, "shipped")
    facts = find_head(backbone).facts
    assert max(facts.blocks) < backbone.depth and 0 < facts.outline < 1
    assert set(facts.verdict) == {"own", "normals", "folder"}
    for point in facts.verdict.values():
        low, high = point["0.05"]["interval"]
        assert 0 < low <= point["0.05"]["threshold"] <= high < 1 and point["n"] >= point["originals"] > 0
    assert find_head(load_backbone(SHIPPED_ARCHITECTURE, "shipped", pretrained=False)) is None


def test_a_damaged_or_foreign_head_is_named(head, backbone, tmp_path):
    file = save_head(head, tmp_path / "mine.safetensors")
    whole, generator = file.read_bytes(), np.random.default_rng(3)
    for position in generator.integers(0, 8 * len(whole), 40):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="mine.safetensors.*get it again"):
            load_head(file, backbone)
    tensors = load_file(save_head(head, file))
    for metadata in (
        None,
        {"head": "[]"},
        {"head": "{}"},
        {"head": "{"},
        {"head": json.dumps(asdict(head.facts))[:-9]},
    ):
        save_file(tensors, file, metadata)
        with pytest.raises(CheckpointError, match="mine.safetensors"):
            find_head(backbone, tmp_path)
    save_file(tensors | {"out.bias": tensors["out.bias"] * torch.nan}, file, {"head": json.dumps(asdict(head.facts))})
    with pytest.raises(CheckpointError, match="out.bias.*not finite"):
        load_head(file, backbone)
