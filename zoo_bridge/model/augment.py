"""Augmentation of training images: flip, rotation, off-centre zoom, brightness and contrast.

Every image gets its own draw, each time it is seen. The geometry is one resampling.
"""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

ZOOM = (1.0, 1.2)
BRIGHTNESS = 0.05
CONTRAST = (0.98, 1.02)

Image32 = NDArray[np.float32]


def augment(image: Image32, rng: np.random.Generator) -> Image32:
    """One new view of an image.

    Parameters
    ----------
    image : ndarray, shape (size, size, channels)
        Between 0 and 1.
    rng : numpy.random.Generator
        Where the draw comes from.

    Returns
    -------
    ndarray, same shape, float32
    """
    angle, zoom = rng.uniform(0, 2 * np.pi), rng.uniform(*ZOOM)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    turn[:, 1] *= rng.choice([-1, 1])
    middle = (np.array(image.shape[:2]) - 1) / 2
    slack = middle * (1 - 1 / zoom)
    offset = middle + rng.uniform(-slack, slack) - turn @ middle
    view = np.empty_like(image)
    for channel in range(image.shape[-1]):
        affine_transform(
            image[..., channel],
            turn,
            offset,
            order=1,
            mode="reflect",
            output=view[..., channel],
        )
    mean = view.mean()
    light = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    changed = (view - mean) * rng.uniform(*CONTRAST) + mean + light
    return np.asarray(changed, dtype=np.float32)


class Augmented(keras.utils.PyDataset):
    """Batches of augmented images with their votes, shuffled anew each epoch.

    Parameters
    ----------
    images : ndarray, shape (N, size, size, channels)
        The images.
    k_and_n : ndarray, shape (N, 2 Q)
        Their votes; see `likelihood.binomial_loss`.
    batch_size, seed : int
        As they say.
    """

    def __init__(
        self, images: Image32, k_and_n: NDArray[np.float32], batch_size: int, seed: int
    ) -> None:
        super().__init__(workers=1)
        self.images = images
        self.k_and_n = k_and_n
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.order = np.random.default_rng([seed, 0]).permutation(len(images))

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Image32, NDArray[np.float32]]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        views = np.stack([augment(self.images[place], rng) for place in chosen])
        return views, self.k_and_n[chosen]

    def on_epoch_end(self) -> None:
        """A new order and new views for the next epoch."""
        self.epoch += 1
        self.order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.images))
