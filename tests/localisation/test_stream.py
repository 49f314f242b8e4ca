"""Many pictures at a time: each has its own answer, in order, large ones alone, broken ones named."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.pictures import UnreadableImageError, load_image
from src.localisation import stream
from src.localisation.encoder import Encoder
from src.localisation.stream import each_picture


@pytest.fixture
def files(tmp_path):
    """Nine pictures of three sizes, the fourth broken and the seventh large."""
    generator, paths = np.random.default_rng(0), []
    for number, size in enumerate([(48, 48), (48, 48), (64, 32), (48, 48), (48, 48), (32, 48), (96, 96), (48, 48)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(paths[-1])
    (tmp_path / "3.png").write_bytes(b"no picture")
    return paths


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_picture_has_its_own_answer_in_order(backbone, files, monkeypatch, at_once, threads):
    monkeypatch.setattr(stream, "LARGE", 80 * 80)
    monkeypatch.setattr("os.cpu_count", lambda: threads)
    encoder, places = Encoder(backbone, (1,)), {}
    encoder.engine.pictures_at_once = at_once

    def work(path, picture, tokens):
        time.sleep(0.02 if path == files[0] else 0)  # the first is done last
        places[path] = threading.current_thread() is threading.main_thread()
        return picture, tokens

    answers = list(each_picture(encoder, files, work))
    assert [path for path, _ in answers] == files
    assert isinstance(answers[3][1], UnreadableImageError) and files[3] in str(answers[3][1])
    for path, answer in answers[:3] + answers[4:]:
        picture, tokens = answer
        assert np.array_equal(picture, load_image(path))
        torch.testing.assert_close(tokens.float(), encoder.tokens(picture).float(), atol=2e-3, rtol=0)
    assert [path for path, is_main in places.items() if is_main] == [files[6]]


def test_few_pictures_are_in_memory(backbone, files, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    begun, before = [], torch.get_num_threads()
    answers = each_picture(Encoder(backbone, (1,)), [files[0]] * 50, lambda path, *others: begun.append(path))
    for taken in range(1, 6):
        next(answers)
        assert len(begun) <= taken + 3
    assert len(list(answers)) == 45 and torch.get_num_threads() == before


def test_an_error_of_the_work_ends_it(backbone, files):
    def fail(*arguments):
        raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        list(each_picture(Encoder(backbone, (1,)), files, fail))
    assert list(each_picture(Encoder(backbone, (1,)), [], fail)) == []
