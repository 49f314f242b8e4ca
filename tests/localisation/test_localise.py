"""Localisation of pictures: a square is found where it is, the table under a hide stays out, nobody excuses himself."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from src.backbone.vit import SHIPPED_ARCHITECTURE, load_backbone
from src.data.pictures import load_image
from src.localisation import references
from src.localisation.encoder import TILE
from src.localisation.head import find_head
from src.localisation.localise import evaluated_mask, localise, read_tokens, without_table
from src.localisation.thresholds import folder_detector, make_encoder, normals_detector, zero_shot_detector
from src.synthetic.leather import render_leather
from src.synthetic.painter import MVTEC_KINDS, add_defect


@pytest.fixture
def make(backbone, head, normals, test_rows, small_and_quick):
    """Detector of a protocol, and the tokens of the test images."""

    def of(protocol, *, has_head=True):
        its_head = head if has_head else None
        encoder = make_encoder(backbone, zoom=2.0, head=its_head)
        pictures, tokens = [load_image(path) for path in normals], read_tokens(encoder, test_rows)
        if protocol == "zero-shot":
            return zero_shot_detector(encoder, its_head, pictures), tokens
        if protocol == "4-shot":
            return normals_detector(encoder, its_head, pictures, protocol=protocol), tokens
        return folder_detector(encoder, its_head, [load_image(path) for path in test_rows["path"]], tokens), tokens

    return of


@pytest.fixture
def shown(make, test_rows):
    detector, tokens = make("4-shot")
    return localise(detector, test_rows, tokens)


@pytest.mark.parametrize(
    ("protocol", "has_head"),
    [("zero-shot", True), ("zero-shot", False), ("unlabelled-folder", True), ("4-shot", True), ("4-shot", False)],
)
def test_the_square_is_found_where_it_is(make, test_rows, protocol, has_head):
    """The weights are random, patches differ all the same. Not plainly in a folder where five of eight show it."""
    detector, tokens = make(protocol, has_head=has_head)
    shown = localise(detector, test_rows, tokens, among=protocol == "unlabelled-folder")
    assert shown.maps.shape == shown.masks.shape == (8, 256, 256) and shown.masks.dtype == bool
    assert shown.masks.any((1, 2)).tolist() == shown.is_defect.tolist() == (test_rows["defect"] != "good").tolist()
    found = [mask[np.unravel_index(m.argmax(), m.shape)] for m, mask in zip(shown.maps, shown.masks, strict=True)]
    assert sum(found) >= 4  # of five
    assert roc_auc_score(shown.masks.ravel(), shown.maps.ravel()) > 0.9
    assert shown.protocol == protocol and shown.has_head == has_head and np.isfinite(shown.maps).all()
    assert shown.unit.startswith("probability" if has_head else "log")
    if has_head:
        assert 0 <= shown.maps.min() < shown.maps.max() <= 1


def test_a_map_has_eight_pixels_for_fourteen_of_the_input(make):
    detector, _ = make("zero-shot")
    for size, shape in (((96, 96), (112, 112)), ((50, 96), (112, 56)), ((300, 200), (8 * 29, 8 * 43))):
        judgement = detector.judge(Image.new("RGB", size, (120, 80, 60)))
        assert judgement.map.shape == shape and judgement.map.dtype == np.float32


def test_no_float64_is_made_on_the_device(make, test_rows, no_float64):
    with no_float64:
        detector, tokens = make("4-shot")
        localise(detector, test_rows, tokens)


def test_verdict_scores_and_maps_are_those_of_each_picture(make, test_rows):
    detector, tokens = make("4-shot")
    shown = localise(detector, test_rows, tokens)
    assert shown.thresholds == detector.thresholds and shown.facts["images_per_second_after_tokens"] > 0
    assert shown.facts["normal_images"] == 4 and shown.facts["bank_patches"] == 4 * 12 * 12
    for index, path in enumerate(test_rows["path"]):
        judgement = detector.judge(load_image(path))
        assert shown.scores[index] == pytest.approx(judgement.score, abs=1e-4)
        np.testing.assert_allclose(shown.judgements[index].map, judgement.map, atol=1e-4)
    assert shown.called.tolist() == [bool(each.regions) for each in shown.judgements]
    assert shown.image(3).shape == (256, 256, 3)


def test_the_maps_of_an_image_do_not_depend_on_the_others(make, test_rows, shown):
    detector, tokens = make("4-shot")
    few = localise(detector, test_rows.iloc[[6, 1]], [tokens[6], tokens[1]])
    np.testing.assert_allclose(few.maps, shown.maps[[6, 1]], atol=1e-6)
    assert few.test.index.tolist() == [0, 1] and few.test["file"].tolist() == test_rows["file"][[6, 1]].tolist()


def test_some_images_of_a_localisation(shown):
    rows = np.arange(8) % 3 == 0
    some = shown.of_rows(rows)
    assert some.test["file"].tolist() == shown.test["file"][rows].tolist() and some.test.index.tolist() == [0, 1, 2]
    assert np.array_equal(some.maps, shown.maps[rows]) and np.array_equal(some.masks, shown.masks[rows])
    assert np.array_equal(some.called, shown.called[rows]) and some.facts == shown.facts
    assert np.array_equal(some.scores, shown.scores[rows])


@pytest.mark.parametrize("most", [128, 3])  # references: all eight images, or three of them
def test_among_themselves_each_image_is_compared_with_the_others(make, test_rows, monkeypatch, most):
    monkeypatch.setattr(references, "ROWS", most * references.FEWEST_ROWS)
    detector, tokens = make("unlabelled-folder", has_head=False)
    chosen = references.choose_pictures(8)
    assert detector.references.rows.shape[1] == len(chosen) == min(8, most)
    among, with_itself = (localise(detector, test_rows, tokens, among=is_among) for is_among in (True, False))
    for index, path in enumerate(test_rows["path"]):
        rows = detector.references.rows[:, [n for n, number in enumerate(chosen) if number != index]]
        others = replace(detector, references=replace(detector.references, rows=rows))
        wanted = others.anomaly_map(load_image(path), tokens[index])
        np.testing.assert_allclose(among.judgements[index].map, wanted, atol=1e-4)
        is_same = np.allclose(with_itself.judgements[index].map, wanted, atol=1e-2)
        assert is_same == (index not in chosen)  # an image that is no reference cannot be left out


# -- leather on a table ---------------------------------------------------------------------------------


@pytest.mark.parametrize("has_head", [True, False])
def test_the_table_never_alarms_and_hardly_changes_the_leather(make, has_head):
    detector, _ = make("zero-shot", has_head=has_head)
    pixels = np.array(load_leather(5, 192))
    pixels[80:100, 40:60] = (230, 120, 200)  # a defect
    whole = detector.judge(Image.fromarray(pixels)).map
    leather = np.ones((192, 192), bool)
    leather[:, 128:] = False
    pixels[:, 128:] = np.random.default_rng(0).integers(0, 255, (192, 64, 3))
    picture = Image.fromarray(pixels)
    judged, unaware = detector.judge(picture, leather=leather), detector.judge(picture)
    outside = np.s_[:, 8 * round(128 * 2 / 14) + 8 :]
    assert (judged.map[outside] == judged.map.min()).all() and unaware.map[outside].max() > judged.map[outside].max()
    near = np.s_[:, : 8 * 12]  # three patches from the table
    assert np.corrcoef(judged.map[near].ravel(), whole[near].ravel())[0, 1] > 0.95
    assert np.abs(judged.map - whole)[near].mean() < np.abs(unaware.map - whole)[near].mean()
    row, column = np.unravel_index(judged.map.argmax(), judged.map.shape)
    assert abs(row * 14 / 16 - 90) < 16 and abs(column * 14 / 16 - 50) < 16  # map pixels are 14 / 8 of the input's
    assert all(region.box[2] <= outside[1].start for region in judged.regions)


@pytest.mark.parametrize("has_head", [True, False])
def test_a_table_that_looks_like_the_defect_does_not_excuse_it(make, has_head):
    detector, _ = make("zero-shot", has_head=has_head)
    pixels, leather = np.array(load_leather(5, 192)), np.ones((192, 192), bool)
    leather[:, 128:] = False
    pixels[80:104, 40:64] = pixels[:, 128:] = (230, 120, 200)
    judged, unaware = (detector.judge(Image.fromarray(pixels), leather=mask).map for mask in (leather, None))
    defect = np.s_[96:114, 50:68]  # inside it, on the map of 216 px
    assert judged.shape == (216, 216)
    assert judged[defect].mean() > unaware[defect].mean() + (0.1 if has_head else 0.5)
    assert judged[defect].mean() > np.quantile(judged, 0.98)


def test_the_table_becomes_a_mirror_of_the_leather():
    columns = np.tile(np.arange(40, 140, dtype=np.uint8), (100, 1))
    leather = np.zeros((100, 100), bool)
    leather[:, :61] = True  # its last column is the rim, which is mirrored too
    pixels = np.stack([np.where(leather, columns, 255)] * 3, axis=2).astype(np.uint8)
    seen = np.asarray(without_table(Image.fromarray(pixels), leather))[50, :, 0]
    assert (seen[:60] == columns[50, :60]).all()
    assert seen[60:65].tolist() == [98, 97, 96, 95, 94]  # to 5 px, 5 % of the side, and back again
    assert seen[65:70].tolist() == [95, 96, 97, 98, 99]
    assert without_table(Image.fromarray(pixels), None).tobytes() == pixels.tobytes()
    with pytest.raises(ValueError, match=r"mask of shape \(100, 100\) with 0 pixels"):
        without_table(Image.fromarray(pixels), np.zeros((100, 100), bool))


def test_a_picture_without_leather_is_refused(make):
    detector, _ = make("zero-shot")
    sliver = np.zeros((96, 96), bool)
    sliver[:5] = True  # less than a patch
    with pytest.raises(ValueError, match=r"no patch of a picture of \(96, 96\) lies on leather"):
        detector.judge(load_leather(1, 96), leather=sliver)


@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("size", [(5, 3), (24, 24), (40, 9)])
def test_tiny_pictures_have_a_map(make, size, has_head):
    judgement = make("zero-shot", has_head=has_head)[0].judge(load_leather(1, 96).crop((0, 0, *size)))
    assert np.isfinite(judgement.map).all() and min(judgement.map.shape) >= 8 and np.isfinite(judgement.score)


def load_leather(seed, size):
    return Image.fromarray(render_leather(np.random.default_rng(seed), size))


# -- the committed head ---------------------------------------------------------------------------------


def test_on_drawn_leather_the_peak_lies_in_the_painted_defect_without_any_other_picture():
    backbone = load_backbone(SHIPPED_ARCHITECTURE, "shipped")
    head, hits, scores = find_head(backbone), [], []
    detector = zero_shot_detector(make_encoder(backbone, zoom=TILE / 256, head=head), head, [])
    for seed, kind in enumerate((*MVTEC_KINDS, "scratch")):
        generator = np.random.default_rng(seed)
        clean = render_leather(generator, 256)
        pixels, mask = add_defect(clean, generator, kind=kind, scale=1.25)
        judgement = detector.judge(Image.fromarray(pixels))
        row, column = np.unravel_index(judgement.map.argmax(), judgement.map.shape)
        near = mask[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5]  # the map is 256 x 256, as the picture
        hits.append(near.any())
        scores.append((judgement.score, detector.judge(Image.fromarray(clean)).score))
    assert sum(hits) >= 5, hits  # of six
    painted, clean = np.transpose(scores)
    assert np.mean(painted > clean) > 0.8 and painted.mean() > clean.mean() + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("table", [(8, 8, 8), (245, 245, 245), (120, 80, 50)])
def test_a_hide_that_fills_40_percent_shows_the_same_defects_as_without_its_table(table):
    backbone = load_backbone(SHIPPED_ARCHITECTURE, "shipped")
    head = find_head(backbone)
    detector = zero_shot_detector(make_encoder(backbone, zoom=1.0, head=head), head, [])
    generator = np.random.default_rng(11)
    hide = render_leather(generator, 448)
    spots = np.array([(120, 130), (330, 120), (130, 320), (320, 330)])  # dark, 18 px wide
    for centre in spots:
        across = np.hypot(*(np.ogrid[:448, :448][axis] - centre[axis] for axis in (0, 1)))
        hide[across < 9] = (hide[across < 9] * 0.25).astype(np.uint8)
    pixels, leather = np.full((704, 704, 3), table, np.uint8), np.zeros((704, 704), bool)
    pixels[128:576, 128:576], leather[128:576, 128:576] = hide, True
    alone = detector.judge(Image.fromarray(hide))
    on_table = detector.judge(Image.fromarray(pixels), leather=leather)

    def spots_of(judgement, offset):
        """Numbers of the spots that have a region within 30 px."""
        boxes = np.array([region.box for region in judgement.regions]) * 14 / 8 - offset
        centres = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2
        distances = np.linalg.norm(centres[:, None] - spots, axis=2)
        return set(distances.argmin(1)[distances.min(1) < 30].tolist())

    assert leather.mean() == pytest.approx(0.4, abs=0.01)
    assert spots_of(on_table, 128) == spots_of(alone, 0) == {0, 1, 2, 3}
    assert len(on_table.regions) <= len(alone.regions) + 1  # at the edge, just over the threshold


def test_no_small_defect_is_lost_where_maps_are_compared():
    """A pinhole of 7 px, a scratch 12 px wide, and one of a single row, on the picture of a line camera."""
    places = (np.s_[1001:1008, 4003:4010], np.s_[300:312, 100:7900], np.s_[1999:, 7999:])
    for place in places:
        mask = np.zeros((2000, 8000), bool)
        mask[place] = True
        reduced = evaluated_mask(mask)
        assert reduced.shape == (256, 256) and reduced.dtype == bool and ndimage.label(reduced)[1] == 1
        rows, columns = np.nonzero(mask)
        assert set(zip(rows * 256 // 2000, columns * 256 // 8000, strict=True)) == set(
            zip(*reduced.nonzero(), strict=True)
        )


@pytest.mark.parametrize("side", [64, 256])
def test_smaller_masks_are_enlarged_and_masks_of_that_size_kept(side):
    mask = np.random.default_rng(0).random((side, side)) > 0.9
    assert (evaluated_mask(mask) == np.kron(mask, np.ones((256 // side, 256 // side), bool))).all()


def test_a_test_part_without_images_is_named(make, test_rows):
    detector, tokens = make("4-shot")
    with pytest.raises(ValueError, match="no test image to localise on"):
        localise(detector, test_rows[:0], tokens[:0])
