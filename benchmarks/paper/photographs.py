"""Pictures with faces for the detector, out of scikit-image's wheel: some to calibrate on, others to judge on.

Each is a random crop of a photograph, of the detector's shape; to most of them, one to three faces of `lfw_subset` are added. The
photographs and the faces to judge on, astronaut among them, are in no picture to calibrate on.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 240, 320
CALIBRATION = ("coffee", "chelsea", "rocket")
JUDGED = ("stereo_motorcycle", "brick", "camera")
FACES, HELD_FACES = slice(0, 60), slice(60, 100)
"""Faces of `lfw_subset` (25 x 25, the first 100 of its 200 pictures) to calibrate on, and to judge on."""

SIDES = (40, 100)
"""Smallest and largest side of an added face in pixels."""

Picture = NDArray[np.float64]


def calibration(count: int) -> NDArray[np.float32]:
    """Pictures to learn from: count x 3 x 240 x 320."""
    return collages(CALIBRATION, FACES, count, seed=0)


def judged(count: int) -> NDArray[np.float32]:
    """Pictures to judge on: crops of astronaut, as many collages, both count x 3 x 240 x 320."""
    rng = np.random.default_rng(1)
    astronaut = [crop(photograph("astronaut"), rng) for _ in range(count)]
    return np.concatenate([fed(astronaut), collages(JUDGED, HELD_FACES, count, seed=2)])


def collages(names: Sequence[str], faces: slice, count: int, seed: int) -> NDArray[np.float32]:
    """Crops of the photographs in turn, with faces at random places; every fourth is left without."""
    from skimage import data

    rng, portraits = np.random.default_rng(seed), 255 * data.lfw_subset()[faces]
    photographs, found = [photograph(name) for name in names], []
    for index in range(count):
        picture = crop(photographs[index % len(photographs)], rng)
        for _ in range(int(rng.integers(1, 4)) if index % 4 else 0):
            add(picture, portraits[rng.integers(len(portraits))], rng)
        found.append(picture)
    return fed(found)


def photograph(name: str) -> NDArray[np.uint8]:
    """H x W x 3; grey ones three times the same, of a stereo pair the left one."""
    from skimage import data

    found = getattr(data, name)()
    array = np.asarray(found[0] if isinstance(found, tuple) else found)
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array[:, :, :3]


def crop(source: NDArray[np.uint8], rng: np.random.Generator) -> Picture:
    """A random crop in the shape of 4 to 3, at least half as high as fits, scaled to the detector's input; half are mirrored."""
    largest = min(source.shape[0], source.shape[1] * HEIGHT // WIDTH)
    height = int(rng.integers(largest // 2, largest + 1))
    width = height * WIDTH // HEIGHT
    top, left = (int(rng.integers(0, size - part + 1)) for size, part in zip(source.shape, (height, width), strict=False))
    part = resized(source[top : top + height, left : left + width], HEIGHT, WIDTH)
    return part[:, ::-1].copy() if rng.integers(2) else part


def add(picture: Picture, face: Picture, rng: np.random.Generator) -> None:
    """Put a grey face into the picture, in place."""
    side = int(rng.integers(*SIDES))
    top, left = int(rng.integers(0, HEIGHT - side)), int(rng.integers(0, WIDTH - side))
    picture[top : top + side, left : left + side] = resized(face, side, side)[:, :, None]


def resized(source: NDArray[np.generic], height: int, width: int) -> Picture:
    """The picture in another size, its values kept."""
    from skimage.transform import resize

    return np.asarray(resize(source, (height, width), preserve_range=True, anti_aliasing=source.shape[0] > height))


def fed(pictures: Sequence[Picture]) -> NDArray[np.float32]:
    """N x 3 x 240 x 320, as the detector wants them."""
    return np.ascontiguousarray(((np.stack(pictures) - 127) / 128).transpose(0, 3, 1, 2), np.float32)
