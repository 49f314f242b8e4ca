"""Many pictures at a time: reading, the network, maps and what follows overlap, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby, islice
from math import prod
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..data.pictures import UnreadableImageError, load_image, picture_size
from .encoder import Encoder

CORES = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
LARGE = 3_000_000  # pixels from which on a picture has the machine for itself: all cores, and no other in memory


def each_picture(
    encoder: Encoder, paths: Sequence[str], work: Callable[[str, Image.Image, Tensor], Any]
) -> Iterator[tuple[str, Any]]:
    """Each file with what ``work`` makes of its path, picture and tokens, or its UnreadableImageError; in order.

    ``work`` runs in as many threads as there are cores; neighbours share the engine's batches. An answer is given while
    the next pictures are under way.
    """
    own_threads = torch.get_num_threads()
    under_way: deque[Future] = deque()
    with ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for group, is_large in _groups(paths, encoder.engine.pictures_at_once):
            while len(under_way) > (0 if is_large else CORES):
                yield from under_way.popleft().result()
            if is_large:
                yield from _answers(encoder, group, work)
            else:
                under_way.append(pool.submit(_answers, encoder, group, work))
        while under_way:
            yield from under_way.popleft().result()
    torch.set_num_threads(own_threads)  # of threads to come


def _groups(paths: Sequence[str], most: int) -> Iterator[tuple[list[str], bool]]:
    """Neighbours that go together, and whether it is one large picture."""
    for is_large, alike in groupby(paths, key=_is_large):
        while group := list(islice(alike, 1 if is_large else most)):
            yield group, is_large


def _is_large(path: str) -> bool:
    with suppress(UnreadableImageError):  # reading says so, in its turn
        return prod(picture_size(path)) > LARGE
    return False


def _answers(encoder: Encoder, paths: list[str], work: Callable[..., Any]) -> list[tuple[str, Any]]:
    pictures = [_read(path) for path in paths]
    tokens = encoder.tokens_of(picture for picture in pictures if isinstance(picture, Image.Image))
    pairs = zip(paths, pictures, strict=True)
    return [(path, work(path, each, next(tokens)) if isinstance(each, Image.Image) else each) for path, each in pairs]


def _read(path: str) -> Image.Image | UnreadableImageError:
    try:
        return load_image(path)
    except UnreadableImageError as error:
        return error
