"""Tokens of a picture: at the camera's scale, of unit length, tiles without seams, any picture size."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from src.config import paths
from src.localisation import encoder as encoder_module
from src.localisation.encoder import Encoder, camera_zoom
from src.synthetic.leather import render_leather

TOLERANCE = 2e-3  # tokens are float16


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(encoder_module, "TILE", 96)
    monkeypatch.setattr(encoder_module, "WHOLE", 144)


def leather(seed, width=96, height=96):
    pixels = render_leather(np.random.default_rng(seed), max(width, height))
    return Image.fromarray(np.ascontiguousarray(pixels[:height, :width]))


def literal_tokens(backbone, picture, blocks):
    """Unit tokens (blocks, h, w, d) of a picture that is one tile, without `Encoder`."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    tokens = backbone.tokens(((pixels - mean) / std)[None], blocks=blocks)
    return torch.stack([F.normalize(block[0].permute(1, 2, 0), dim=-1) for block in tokens])


@pytest.mark.parametrize(
    ("sizes", "zoom"),
    [
        ([(48, 32)], 2),
        ([(96, 96)], 1),
        ([(4000, 3000)], 1),  # large ones are cut into tiles, not made smaller
        ([(48, 10), (48, 48), (10, 48), (30, 20), (200, 200)], 2),  # crops and strips keep the camera's scale
    ],
)
def test_small_pictures_are_enlarged_until_the_median_one_fills_a_tile(sizes, zoom):
    assert camera_zoom(iter(sizes)) == zoom


def test_sizes_are_multiples_of_the_patch(backbone):
    assert Encoder(backbone, (1,), zoom=2).input_size(Image.new("RGB", (90, 50))) == (176, 96)
    assert Encoder(backbone, (1,)).input_size(Image.new("RGB", (3, 700))) == (16, 704)


@pytest.mark.parametrize("blocks", [(2,), (1, 3)])
def test_tokens_of_one_tile_by_hand(backbone, blocks):
    picture = leather(1, 96, 64)
    tokens = Encoder(backbone, blocks).tokens(picture)
    assert tokens.shape == (len(blocks), 4, 6, 64) and tokens.dtype == torch.float16
    torch.testing.assert_close(tokens.float(), literal_tokens(backbone, picture, blocks), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("size", "zoom", "grid"),
    [((48, 48), 2, (6, 6)), ((300, 200), 1, (12, 19)), ((900, 70), 1, (4, 56)), ((150, 150), 1.5, (14, 14))],
)
def test_tokens_of_any_picture_lie_on_its_grid_and_have_unit_length(backbone, size, zoom, grid):
    tokens = Encoder(backbone, (1, 3), zoom=zoom).tokens(leather(2, *size))
    assert tokens.shape == (2, *grid, 64) and tokens.dtype == torch.float16 and tokens.device.type == "cpu"
    torch.testing.assert_close(tokens.float().norm(dim=-1), torch.ones(2, *grid), atol=TOLERANCE, rtol=0)


def test_tiles_are_blended_by_hand(backbone):
    picture = leather(3, 224, 96)  # 14 patches: tiles of 6 start at 0, 4 and 8
    total = torch.zeros(1, 6, 14, 64)
    ramp = torch.tensor([1.0, 2, 3, 3, 2, 1])
    for start in (0, 4, 8):
        tile = literal_tokens(backbone, picture.crop((16 * start, 0, 16 * start + 96, 96)), (3,))
        total[:, :, start : start + 6] += torch.minimum(ramp[:, None], ramp)[..., None] * tile
    tokens = Encoder(backbone, (3,)).tokens(picture).float()
    torch.testing.assert_close(tokens, F.normalize(total, dim=-1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [(96, 96), (400, 250)])
def test_a_constant_picture_has_constant_tokens(backbone, size):
    """Without positions, which alone tell patches of one colour apart."""
    with torch.no_grad():
        backbone.network.pos_embed.zero_()
    tokens = Encoder(backbone, (1, 3)).tokens(Image.new("RGB", size, (120, 80, 60))).float()
    torch.testing.assert_close(tokens, tokens[:, :1, :1].expand_as(tokens), atol=TOLERANCE, rtol=0)


def test_tiling_hides_no_defect_at_a_border_between_tiles(backbone):
    clean = leather(8, 400, 208)
    for left, top in ((60, 40), (190, 90), (300, 150)):
        pixels = np.asarray(clean).copy()
        pixels[top : top + 16, left : left + 16] = (255, 0, 255)
        before, after = (Encoder(backbone, (1,)).tokens(each)[0].float() for each in (clean, Image.fromarray(pixels)))
        row, column = divmod(int((after - before).norm(dim=-1).argmax()), before.shape[1])
        assert abs(row * 16 + 8 - (top + 8)) <= 16 and abs(column * 16 + 8 - (left + 8)) <= 16


def test_a_large_picture_never_reaches_the_network_whole(backbone, monkeypatch):
    shapes, tokens = [], backbone.tokens
    monkeypatch.setattr(backbone, "tokens", lambda images, **o: shapes.append(images.shape) or tokens(images, **o))
    assert Encoder(backbone, (0,)).tokens(leather(2, 800, 500)).shape == (1, 31, 50, 64)
    assert max(max(shape[2:]) for shape in shapes) == 96 and max(shape[0] for shape in shapes) == 4


LARGE_PICTURE = """
import resource, sys
import numpy as np
from PIL import Image
from src.backbone.vit import load_backbone
from src.localisation.head import find_head
from src.localisation.thresholds import make_encoder, zero_shot_detector

backbone = load_backbone("vit_tiny_patch16_224", "shipped")
head = find_head(backbone)
picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (3288, 4608, 3), dtype=np.uint8))
values = zero_shot_detector(make_encoder(backbone, zoom=1.0, head=head), head, []).judge(picture).map
assert values.shape == (8 * round(3296 / 14), 8 * round(4608 / 14)), values.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.slow
def test_a_photograph_of_15_megapixels_fits_into_3_gb():
    answer = subprocess.run([sys.executable, "-c", LARGE_PICTURE], cwd=paths.root, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout.splitlines()[-1]) < 3e9
