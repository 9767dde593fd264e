"""Keras, and TensorFlow below it, loaded without their chatter: whoever needs them, from here."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence

from zoo_bridge import memory

memory.keep_freed()
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
CHATTER = (b"I0000", b"W0000", b"WARNING: All log messages before absl")
# What it says, as of an error, of a machine that has no GPU.
NO_GPU = (b"cuInit", b"Could not find cuda drivers")
DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
# Keras loads them, where they are, for drawings and tables of its own, which nothing here uses: a
# fifth of its start.
NOT_FOR_KERAS = ("matplotlib.pyplot", "pandas")


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Hold stderr back while TensorFlow is loaded, and pass on all but what it says of itself.

    Its C++ side writes to the file descriptor whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            none_here = not any(map(os.path.exists, DRIVERS))
            for line in held:
                about_none = none_here and any(words in line for words in NO_GPU)
                if not line.startswith(CHATTER) and not about_none:
                    os.write(2, line)


@contextlib.contextmanager
def _without(modules: Sequence[str]) -> Iterator[None]:
    """Have modules that are not loaded yet be missing; Keras does without them."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # as Python says "none"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _without_chatter(), _without(NOT_FOR_KERAS):
    import keras
    from keras import ops

    if keras.backend.backend() == "tensorflow":
        # It looks for GPUs once, at the first use: now, so that what it says is held back.
        sys.modules["tensorflow"].config.list_physical_devices()

# It warns of compiling a function for each of several networks, which is what is wanted.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

__all__ = ["keras", "ops"]
