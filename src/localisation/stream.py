"""Many pictures at a time: reading, the network, maps and what follows overlap, in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby, islice
from math import prod
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..data.pictures import UnreadableImageError, load_image, picture_size
from .encoder import Encoder

LARGE = 3_000_000  # pixels from which on a picture has the machine for itself: all cores, and no other in memory

Answer = TypeVar("Answer")


def side_by_side(tasks: Iterable[tuple[Callable[[], Answer], bool]]) -> Iterator[Answer]:
    """Answers of tasks, in order, as many at a time as there are cores; a large one (True) alone, on all of them.

    An answer is given while the next ones are under way. Torch has one thread in each of them.
    """
    cores, own_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1), torch.get_num_threads()
    under_way: deque[Future] = deque()
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for task, is_large in tasks:
            while len(under_way) > (0 if is_large else cores):
                yield under_way.popleft().result()
            if is_large:
                yield task()
            else:
                under_way.append(pool.submit(task))
        while under_way:
            yield under_way.popleft().result()
    torch.set_num_threads(own_threads)  # of threads to come


def each_picture(
    encoder: Encoder, paths: Sequence[str], work: Callable[[str, Image.Image, Tensor], Any]
) -> Iterator[tuple[str, Any]]:
    """Each file with what ``work`` makes of its path, picture and tokens, or its UnreadableImageError; in order.

    Files are worked on `side_by_side`; neighbours share the engine's batches.
    """
    groups = _groups(paths, encoder.engine.pictures_at_once)
    for answers in side_by_side((partial(_answers, encoder, group, work), is_large) for group, is_large in groups):
        yield from answers


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
