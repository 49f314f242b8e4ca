"""Thresholds without any test image: from a head's file, raised by normal pictures, or from painted defects."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from src.data.pictures import load_image
from src.localisation import references, thresholds
from src.localisation.localise import evaluated_map, evaluated_mask
from src.localisation.pixel_metrics import best_pixel_threshold
from src.localisation.references import gather, sample_rows
from src.localisation.regions import judge_map
from src.localisation.thresholds import (
    folder_detector,
    held_out_scores,
    make_encoder,
    normals_detector,
    references_of,
    zero_shot_detector,
)
from src.synthetic.painter import add_defect

pytestmark = pytest.mark.usefixtures("small_and_quick")


@pytest.fixture
def pictures(normals):
    return [load_image(path) for path in normals]


@pytest.fixture
def plain(backbone):
    return make_encoder(backbone, zoom=2.0, head=None)


@pytest.fixture
def encoder(backbone, head):
    return make_encoder(backbone, zoom=2.0, head=head)


def with_verdict(head, verdict):
    points = {name: point | {"0.05": {"threshold": verdict}} for name, point in head.facts.verdict.items()}
    return replace(head, facts=replace(head.facts, verdict=points))


def others_of(encoder, pictures, number, *, are_normal):
    """References of all pictures but one; so small that all their patches are kept."""
    tokens = [encoder.tokens(each) for n, each in enumerate(pictures) if n != number]
    return gather([sample_rows(one, one.shape[1] * one.shape[2])[0] for one in tokens], are_normal=are_normal)


def literal_painted(detector, pictures, *, are_normal):
    """Maps and masks of painted pictures, each judged by references made of the other pictures."""
    maps, masks, generator = [], [], np.random.default_rng(0)
    for number, picture in enumerate(pictures):
        others = None if are_normal is None else others_of(detector.encoder, pictures, number, are_normal=are_normal)
        judge = replace(detector, references=others)
        for _ in range(thresholds.PAINTED // len(pictures)):
            pixels, mask = add_defect(np.asarray(picture), generator)
            maps.append(evaluated_map(judge.judge(Image.fromarray(pixels)).map))
            masks.append(evaluated_mask(mask.astype(bool)))
    return np.stack(maps), np.stack(masks)


# -- with a head ----------------------------------------------------------------------------------------


def test_the_encoder_reads_the_blocks_of_the_head_or_one(backbone, head, plain, encoder):
    assert encoder.blocks == head.facts.blocks and encoder.zoom == plain.zoom == 2.0
    assert plain.blocks == (3,) and make_encoder(backbone, zoom=2.0, head=None, depth=1).blocks == (0,)


def test_alone_and_in_a_folder_the_thresholds_are_those_of_the_file(encoder, head, pictures):
    points = {"own": 0.7, "folder": 0.8, "normals": 0.9}
    points = {name: {"n": 10, "originals": 5, "0.05": {"threshold": value}} for name, value in points.items()}
    head = replace(head, facts=replace(head.facts, verdict=points))
    tokens = [encoder.tokens(picture) for picture in pictures]
    alone, folder = zero_shot_detector(encoder, head, []), folder_detector(encoder, head, pictures, tokens)
    assert (alone.protocol, alone.references, alone.facts["bank_patches"]) == ("zero-shot", None, 0)
    assert folder.protocol == "unlabelled-folder" and not folder.references.are_normal
    assert folder.facts["bank_patches"] == 4 * 12 * 12 and folder.facts["normal_images"] == 0
    for detector, verdict in ((alone, 0.7), (folder, 0.8)):
        assert (detector.thresholds.outline, detector.thresholds.verdict) == (head.facts.outline, verdict)
        assert "5% of 10 pictures" in detector.thresholds.source
        assert detector.facts["backbone"].startswith("test_vit ") and detector.facts["blocks"] == (1, 3)
        assert "for this backbone" in detector.facts["settings_source"]


def test_the_verdict_is_raised_exactly_when_a_held_out_normal_scores_higher(encoder, head, pictures):
    detector = normals_detector(encoder, with_verdict(head, 1.0), pictures, protocol="4-shot")
    assert detector.thresholds.verdict == 1.0 and "raised" not in detector.thresholds.source
    assert detector.references.are_normal and detector.facts["normal_images"] == 4
    scores = []
    for number, picture in enumerate(pictures):
        others = replace(detector, references=others_of(encoder, pictures, number, are_normal=True))
        scores.append(others.judge(picture).score)
    tokens = [encoder.tokens(picture) for picture in pictures]
    assert held_out_scores(detector, pictures, tokens, head.facts.outline) == pytest.approx(scores, abs=1e-4)

    for shipped, is_raised in ((max(scores) + 0.01, False), (max(scores) - 0.01, True), (0.0, True)):
        raised = normals_detector(encoder, with_verdict(head, shipped), pictures, protocol="4-shot").thresholds
        assert raised.outline == head.facts.outline
        assert raised.verdict == pytest.approx(max(scores) if is_raised else shipped, abs=1e-4)
        assert ("raised to the highest score of 4 normal images" in raised.source) == is_raised
        if is_raised:  # none of the normal pictures alarms
            assert max(held_out_scores(detector, pictures, tokens, raised.outline)) < raised.verdict


def test_one_normal_picture_is_judged_alone(encoder, head, pictures):
    detector = normals_detector(encoder, with_verdict(head, 0.0), pictures[:1], protocol="1-shot")
    alone = zero_shot_detector(encoder, head, []).judge(pictures[0])
    assert detector.thresholds.verdict == pytest.approx(alone.score, abs=1e-4)
    assert detector.thresholds.verdict > alone.score and detector.references.rows.shape[1] == 1


@pytest.mark.parametrize("has_head", [True, False])
def test_without_a_normal_picture_there_are_no_normals(encoder, plain, head, has_head):
    with pytest.raises(ValueError, match="0-shot has no normal image"):
        normals_detector(encoder if has_head else plain, head if has_head else None, [], protocol="0-shot")


# -- plain distances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("references", ["none", "folder", "normals"])
def test_the_outline_of_plain_distances_is_of_highest_f1_on_painted_defects(plain, pictures, references):
    if references == "none":
        detector, are_normal = zero_shot_detector(plain, None, pictures), None
    elif references == "folder":
        tokens = [plain.tokens(picture) for picture in pictures]
        detector, are_normal = folder_detector(plain, None, pictures, tokens), False
    else:
        detector, are_normal = normals_detector(plain, None, pictures, protocol="4-shot"), True
    maps, masks = literal_painted(detector, pictures, are_normal=are_normal)
    limits = detector.thresholds
    assert limits.outline == pytest.approx(best_pixel_threshold(maps, masks), abs=1e-3)
    assert "8 defects painted on 4 pictures" in limits.source
    assert detector.facts["settings_source"].startswith("plain distances after block 3")
    if references == "normals":
        for number, picture in enumerate(pictures):
            others = replace(detector, references=others_of(plain, pictures, number, are_normal=True))
            assert others.judge(picture).score < limits.verdict + 1e-5
        assert limits.verdict > limits.outline
    else:
        assert limits.verdict == limits.outline


def test_the_verdict_of_plain_distances_is_never_below_the_outline(plain, pictures, monkeypatch):
    monkeypatch.setattr(thresholds, "held_out_scores", lambda *_: [-5.0])
    limits = normals_detector(plain, None, pictures, protocol="4-shot").thresholds
    assert limits.verdict == pytest.approx(limits.outline, rel=1e-5)


def test_one_normal_picture_is_painted_and_judged_alone(plain, pictures):
    detector = normals_detector(plain, None, pictures[:1], protocol="1-shot")
    maps, masks = literal_painted(detector, pictures[:1], are_normal=None)
    assert detector.thresholds.outline == pytest.approx(best_pixel_threshold(maps, masks), abs=1e-3)
    assert "8 defects painted on 1 pictures" in detector.thresholds.source
    alone = replace(detector, references=None)
    assert not alone.judge(pictures[0]).is_defective


# -- many pictures --------------------------------------------------------------------------------------


def test_of_many_pictures_some_are_judged_and_all_are_compared_with(plain, pictures, monkeypatch):
    monkeypatch.setattr(thresholds, "HELD_OUT", 4)
    many, judged = [picture.rotate(90 * turn) for turn in range(3) for picture in pictures][:10], []
    monkeypatch.setattr(thresholds, "judge_map", lambda values, limits: judged.append(1) or judge_map(values, limits))
    detector = normals_detector(plain, None, many, protocol="10-shot")
    assert "8 defects painted on 4 pictures" in detector.thresholds.source and len(judged) == 4
    assert detector.references.rows.shape[1:3] == (10, 144) and detector.facts["normal_images"] == 10


def test_patches_are_bounded_and_drawn_by_the_seed(plain, pictures, monkeypatch):
    monkeypatch.setattr(thresholds, "ROWS", 40)
    tokens = [plain.tokens(picture) for picture in pictures]
    first, again, other = (references_of(tokens, are_normal=True, seed=seed).rows for seed in (0, 0, 9))
    assert first.shape == (1, 4, 10, 64) and first.equal(again) and not first.equal(other)
    for number, one in enumerate(tokens):
        patches = set(map(tuple, one[0].flatten(0, 1).tolist()))
        assert set(map(tuple, first[0, number].tolist())) <= patches


def test_in_a_large_folder_each_painted_picture_is_judged_by_the_others(plain, pictures, monkeypatch):
    """Only some pictures of it are references: their numbers there are not those in the folder."""
    monkeypatch.setattr(references, "ROWS", 4 * references.FEWEST_ROWS)
    many = [picture.rotate(90 * turn) for turn in range(3) for picture in pictures]
    tokens = [plain.tokens(picture) for picture in many]
    detector = folder_detector(plain, None, many, tokens)
    chosen = [many[number] for number in references.choose_pictures(12)]
    assert detector.references.rows.shape[1] == len(chosen) == 4
    maps, masks = literal_painted(detector, chosen, are_normal=False)
    assert detector.thresholds.outline == pytest.approx(best_pixel_threshold(maps, masks), abs=1e-3)
