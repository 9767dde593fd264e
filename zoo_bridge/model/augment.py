"""Augmentation of training images: flip, rotation, zoom off the centre, brightness and contrast.

Every image gets its own draw, each time it is seen. The geometry is one resampling of a whole
batch, done beside the network by the back end's own kernels.

The paper zooms by 1.1 to 1.3 in training and at prediction. Prediction here shows the network the
image as it is, so training zooms about that by the same range: 1.1 to 1.3, divided by its middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.model import design
from zoo_bridge.model.backend import keras, ops

MIDDLE_ZOOM = 1.2
ZOOM = (1.1 / MIDDLE_ZOOM, 1.3 / MIDDLE_ZOOM)
# As far from the centre as a crop of the middle zoom can be, as a share of the side.
SHIFT = (1 - 1 / MIDDLE_ZOOM) / 2
BRIGHTNESS = 0.05
CONTRAST = (0.98, 1.02)

Image32 = NDArray[np.float32]


def augment(images: Image32, rng: np.random.Generator) -> Image32:
    """A new view of each image.

    Parameters
    ----------
    images : ndarray, shape (N, size, size, channels)
        Between 0 and 1.
    rng : numpy.random.Generator
        Where the draws come from.

    Returns
    -------
    ndarray, same shape, float32
    """
    count, side = len(images), images.shape[1]
    angle, zoom = rng.uniform(0, 2 * np.pi, count), rng.uniform(*ZOOM, count)
    flip = rng.choice([-1.0, 1.0], count)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    middle = (side - 1) / 2
    shift_x, shift_y = rng.uniform(-SHIFT, SHIFT, (2, count)) * side + middle
    # From a place in the view to a place in the image, both from the middle: turned and zoomed.
    a0, a1, b0, b1 = cos * flip, -sin, sin * flip, cos
    transform = np.stack(
        [
            *(a0, a1, shift_x - (a0 + a1) * middle),
            *(b0, b1, shift_y - (b0 + b1) * middle),
            *np.zeros((2, count)),
        ],
        axis=1,
    )
    views = ops.convert_to_numpy(
        ops.image.affine_transform(
            images,
            transform.astype(np.float32),
            interpolation="bilinear",
            fill_mode="reflect",
            data_format="channels_last",
        )
    )
    light = rng.uniform(-BRIGHTNESS, BRIGHTNESS, (count, 1, 1, 1)).astype(np.float32)
    contrast = rng.uniform(*CONTRAST, (count, 1, 1, 1)).astype(np.float32)
    mean = views.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray((views - mean) * contrast + mean + light, dtype=np.float32)


class Augmented(keras.utils.PyDataset):
    """Batches of augmented images with their votes, shuffled anew each epoch.

    The next batch is made in a thread while the network learns from the last one. What is drawn
    depends on the seed, the epoch and the batch alone, so a training can go on where it stopped.

    Parameters
    ----------
    images : ndarray, shape (N, size, size, channels)
        Prepared cutouts, 0 to 1.
    votes : ndarray, shape (N, V)
        Their votes; see `model.heads`.
    batch_size, seed : int
        As they say.
    epoch : int
        The epoch to begin with.
    """

    def __init__(
        self,
        images: Image32,
        votes: NDArray[np.float32],
        batch_size: int,
        seed: int,
        epoch: int = 0,
    ) -> None:
        super().__init__(workers=1, max_queue_size=4)
        self.images = images
        self.votes = votes
        self.batch_size = batch_size
        self.seed = seed
        self._begin(epoch)

    def _begin(self, epoch: int) -> None:
        self.epoch = epoch
        rng = np.random.default_rng([self.seed, epoch])
        batches = max(design.LEAST_BATCHES, -(-len(self.images) // self.batch_size))
        # One shuffled pass after another, cut into batches that are all full: a small last one
        # would weigh its few galaxies more than the others.
        passes = -(-batches * self.batch_size // len(self.images))
        stream = np.concatenate([rng.permutation(len(self.images)) for _ in range(passes)])
        self.batches = stream[: batches * self.batch_size].reshape(batches, self.batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Image32, NDArray[np.float32]]:
        chosen = self.batches[index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return augment(self.images[chosen], rng), self.votes[chosen]

    def on_epoch_end(self) -> None:
        """A new order and new views for the next epoch."""
        self._begin(self.epoch + 1)
