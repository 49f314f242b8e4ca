"""The bank of normal patches: exact distances, tiles without seams, any picture size."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance

from src.config import paths
from src.localisation.bank import PatchBank, _ramp
from src.localisation.encoder import BankSettings, Encoder, _starts, default_settings
from src.synthetic.leather import render_leather


def settings(**options):
    return BankSettings(**{"blocks": (1, 3), "side": 96, "tile": 96} | options)


def build(backbone, pictures, chosen):
    encoder = Encoder(backbone, chosen)
    return PatchBank(encoder, torch.cat([encoder.tokens(picture).rows(chosen.blocks) for picture in pictures]))


def patch_map(bank, picture):
    return bank.patch_map(bank.encoder.tokens(picture))


def leather(seed, width=96, height=96):
    pixels = render_leather(np.random.default_rng(seed), max(width, height))
    return Image.fromarray(np.ascontiguousarray(pixels[:height, :width]))


@pytest.fixture
def normals():
    return [leather(seed) for seed in range(3)]


def literal_tokens(backbone, picture, blocks):
    """Unit tokens (d, h, w) of a picture that is one tile, without `PatchBank`."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    tokens = backbone.tokens(((pixels - mean) / std)[None], blocks=blocks)
    return F.normalize(torch.cat([F.normalize(block[0], dim=0) for block in tokens]), dim=0)


# -- maps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [(2,), (1, 3)])
@pytest.mark.parametrize("neighbours", [1, 3])
def test_a_map_by_hand(backbone, normals, blocks, neighbours):
    bank = build(backbone, normals[:2], settings(blocks=blocks, neighbours=neighbours))
    rows = torch.cat([literal_tokens(backbone, p, blocks).flatten(1).T for p in normals[:2]])
    torch.testing.assert_close(bank.rows, rows)
    tokens = literal_tokens(backbone, normals[2], blocks)
    distances = patch_map(bank, normals[2])
    assert distances.shape == (6, 6)
    for row, column in np.ndindex(6, 6):
        cosines = (rows @ tokens[:, row, column]).sort(descending=True).values[:neighbours]
        assert distances[row, column].item() == pytest.approx(1 - cosines.mean().item(), abs=1e-5)


@pytest.mark.parametrize("size", [(96, 96), (300, 200)])  # one tile, and many
def test_a_picture_of_the_bank_scores_0(backbone, size):
    picture = leather(5, *size)
    bank = build(backbone, [leather(6, *size), picture], settings(side=min(size)))
    values, score = bank.score(picture)
    assert values.shape == size[::-1] and values.dtype == np.float32
    assert values.max() == 0 and score == 0
    assert bank.score(leather(7, *size))[1] > 0


def test_a_defect_is_found_where_it_is(backbone, normals):
    bank = build(backbone, normals, settings())
    pixels = np.asarray(leather(9)).copy()
    pixels[32:48, 64:80] = (255, 0, 255)
    values, score = bank.score(Image.fromarray(pixels))
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert 24 <= row < 56 and 56 <= column < 88
    assert score > bank.score(leather(9))[1] and values.min() >= 0 and values.max() <= 2


def test_small_pictures_of_any_shape_are_enlarged_as_wholes(backbone, normals):
    bank = build(backbone, normals, settings())
    assert patch_map(bank, leather(1, 48, 48)).shape == (6, 6)
    assert patch_map(bank, leather(1, 72, 48)).shape == (6, 9)
    values, _ = bank.score(leather(1, 70, 48))
    assert values.shape == (48, 70)


# -- tiles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "window"), [(6, 6), (3, 6), (7, 6), (13, 6), (206, 28), (288, 28), (10, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_cover_everything_and_overlap(length, window, overlap):
    starts = _starts(length, window, overlap)
    assert starts[0] == 0 and starts[-1] == max(0, length - window) and starts == sorted(set(starts))
    for left, right in zip(starts, starts[1:], strict=False):
        assert right - left <= max(1, round(window * (1 - overlap)))


def test_weights_fall_off_towards_the_edges():
    assert _ramp(5).tolist() == [1, 2, 3, 2, 1] and _ramp(4).tolist() == [1, 2, 2, 1] and _ramp(1).tolist() == [1]


def test_tiles_are_blended_by_hand(backbone):
    picture = leather(3, 208, 96)
    bank = build(backbone, [leather(4)], settings(overlap=0.5))
    tiles = [patch_map(bank, picture.crop((left, 0, left + 96, 96))) for left in (0, 32, 80, 112)]
    starts = _starts(13, 6, 0.5)
    assert starts == [0, 2, 5, 7]
    total, weights = torch.zeros(6, 13), torch.zeros(6, 13)
    weight = torch.minimum(_ramp(6)[:, None], _ramp(6)[None])
    for start, tile in zip(starts, tiles, strict=True):
        total[:, start : start + 6] += weight * tile
        weights[:, start : start + 6] += weight
    torch.testing.assert_close(patch_map(bank, picture), total / weights, atol=1e-5, rtol=1e-4)


def test_tiling_hides_no_defect_at_a_border_between_tiles(backbone):
    clean = leather(8, 400, 200)
    bank = build(backbone, [leather(4, 200, 200)], settings(side=200))
    pixels = np.asarray(clean).copy()
    pixels[90:106, 190:206] = (255, 0, 255)
    change = patch_map(bank, Image.fromarray(pixels)) - patch_map(bank, clean)
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert abs(row * 16 + 8 - 98) <= 16 and abs(column * 16 + 8 - 198) <= 16


def test_a_large_picture_never_reaches_the_network_whole(backbone, monkeypatch):
    bank, shapes, tokens = build(backbone, [leather(1)], settings()), [], backbone.tokens
    monkeypatch.setattr(
        backbone, "tokens", lambda images, **o: shapes.append(tuple(images.shape)) or tokens(images, **o)
    )
    large = patch_map(PatchBank(Encoder(backbone, settings(side=600)), bank.rows), leather(2, 900, 600))
    assert large.shape == (38, 56) and max(max(shape) for shape in shapes) == 96 and max(s[0] for s in shapes) == 4


LARGE_PICTURE = """
import resource, sys
import numpy as np
from PIL import Image, ImageEnhance
from src.backbone.vit import load_backbone
from src.localisation.bank import PatchBank, some_rows
from src.localisation.encoder import BankSettings, Encoder

backbone = load_backbone("vit_tiny_patch16_224", "shipped", pretrained=False)
picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (3288, 4608, 3), dtype=np.uint8))
settings = BankSettings(blocks=(3,), side=3288, tile=448)
encoder = Encoder(backbone, settings)
bank = PatchBank(encoder, some_rows(encoder.tokens(picture).rows(settings.blocks), 20_000, 0))
values, score = bank.score(picture.transpose(Image.Transpose.ROTATE_180))
assert values.shape == (3288, 4608) and score > 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.slow
def test_a_photograph_of_15_megapixels_fits_into_3_gb():
    answer = subprocess.run([sys.executable, "-c", LARGE_PICTURE], cwd=paths.root, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout.splitlines()[-1]) < 3e9


def test_blocks_can_be_selected_afterwards(backbone, normals):
    together, alone = (Encoder(backbone, settings(blocks=blocks)).tokens(normals[0]) for blocks in ((1, 2, 3), (1, 3)))
    assert together.tiles.shape[:3] == (1, 3, 64) and together.grid == (6, 6) and together.size == (96, 96)
    torch.testing.assert_close(together.rows((1, 3)), alone.rows((1, 3)))
    torch.testing.assert_close(together.rows((1, 2, 3)).norm(dim=1), torch.ones(36))


# -- the bank -------------------------------------------------------------------------------------------


def test_defaults_enlarge_small_pictures_and_tile_large_ones(backbone):
    small, large = (default_settings(backbone, Image.new("RGB", size)) for size in ((60, 50), (1024, 768)))
    assert (small.side, small.tile, small.blocks) == (96, 96, (backbone.patch_block,))
    assert (large.side, large.tile) == (768, 96)


@pytest.mark.parametrize(
    "options",
    [
        {"overlap": 1.0},
        {"overlap": -0.1},
        {"neighbours": 0},
        {"limit": 0},
        {"side": 0},
        {"blocks": ()},
    ],
)
def test_settings_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        settings(**options)


def test_a_tile_that_is_no_multiple_of_the_patch_is_refused(backbone):
    with pytest.raises(ValueError, match="tile is 100 px; expected a multiple of the patch, 16"):
        Encoder(backbone, settings(tile=100))


def test_image_score_is_the_mean_of_the_highest_beside_the_median(backbone, normals):
    bank = build(backbone, normals, settings())
    values = torch.arange(1.0, 401.0).view(20, 20)
    assert bank.image_score(values) == pytest.approx(np.mean([400, 399, 398, 397]) / 200)
    assert bank.image_score(values * 1.7) == pytest.approx(bank.image_score(values))
    assert bank.image_score(torch.zeros(20, 20)) == 0
    assert bank.image_score(torch.full((3, 3), 0.5)) == 1


def test_pictures_closer_than_the_bank_to_itself_are_measured_by_it(backbone, normals):
    bank = build(backbone, normals, settings())
    distances = 1 - bank.rows @ bank.rows.T
    typical = distances.fill_diagonal_(2).amin(1).median().item()
    assert typical > 1e-4 and bank.typical_distance == pytest.approx(typical, rel=1e-4)
    assert bank.image_score(torch.full((3, 3), typical / 4)) == pytest.approx(0.25, rel=1e-4)
    alone = PatchBank(Encoder(backbone, settings()), bank.rows[:1])
    assert alone.typical_distance == 0 and alone.image_score(torch.full((3, 3), 0.5)) == 1


def test_light_moves_the_image_score_less_than_the_distances(backbone, normals):
    bank = build(backbone, normals[:2], settings())
    plain, darker = (patch_map(bank, p) for p in (normals[2], ImageEnhance.Brightness(normals[2]).enhance(0.6)))
    change = bank.image_score(darker) / bank.image_score(plain)
    assert abs(np.log(change)) < abs(np.log(float(darker.mean() / plain.mean())))
