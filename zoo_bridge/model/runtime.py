"""What turns images into features: Keras, or an inference runtime that is faster on CPUs.

A trunk is exported when its model is registered, and refused unless its features agree with those
of Keras to 1e-4. Dropout, heads and everything after them are the same for all runtimes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.errors import RefusedError, SettingsError
from zoo_bridge.model.network import Network
from zoo_bridge.model.views import seen

Array = NDArray[np.floating[Any]]
Trunk = Callable[[Array], Array]
TOLERANCE = 1e-4
# Images at a time: what stays in a processor's cache is done sooner.
BATCH = {"openvino": 2, "onnxruntime": 8}
CHECKED = 67
EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}


def open_trunk(network: Network, engine: str, folder: Path, member: int) -> Trunk:
    """What makes features with a runtime.

    Parameters
    ----------
    network : Network
        The network, for Keras.
    engine : str
        keras, openvino or onnxruntime.
    folder : Path
        A model's, with what `export` wrote.
    member : int
        The network's number in its ensemble.

    Returns
    -------
    callable
        From images (N, size, size, channels) to features (N, D).

    Raises
    ------
    SettingsError
        If the runtime is not installed.
    """
    if engine == "keras" or network.encoder:
        return network.features
    run = _openvino(folder, member) if engine == "openvino" else _onnxruntime(folder, member)
    width, batch, views = network.width, BATCH[engine], network.design.views

    def see(images: Array) -> Array:
        out = np.empty((len(images), width), np.float32)
        for start in range(0, len(images), batch):
            some = np.ascontiguousarray(images[start : start + batch], dtype=np.float32)
            out[start : start + len(some)] = run(some)
        return out

    return lambda images: seen(see, images, views)


def export(network: Network, engine: str, folder: Path, member: int) -> dict[str, str]:
    """Write a network's trunk for a runtime, and see that it gives the same features.

    Parameters
    ----------
    network, engine, folder, member
        As for `open_trunk`.

    Returns
    -------
    dict
        The runtime's version.

    Raises
    ------
    SettingsError
        If the runtime is not installed.
    RefusedError
        If the features differ by more than 1e-4 of their size.
    """
    package = _import(engine)
    design = network.design
    shape = (CHECKED, design.size, design.size, design.channels)
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    ours = network.features(images)
    form = "openvino" if engine == "openvino" else "onnx"
    with _quiet():
        network.trunk(images[:1])  # the exporter wants a model that was called
        network.trunk.export(str(_file(engine, folder, member)), format=form, verbose=False)
    theirs = open_trunk(network, engine, folder, member)(images)
    worst = float(np.max(np.abs(ours - theirs)) / max(1.0, float(np.abs(ours).max())))
    if not worst <= TOLERANCE:
        raise RefusedError(
            f"{engine} does not give the features that Keras gives: they differ by {worst:.1e}, "
            f"more than {TOLERANCE:.0e}.",
            'Set score.runtime = "keras", or another runtime.',
        )
    return {engine: str(package.__version__)}


def _file(engine: str, folder: Path, member: int) -> Path:
    return folder / f"trunk-{member}.{'xml' if engine == 'openvino' else 'onnx'}"


def _openvino(folder: Path, member: int) -> Trunk:
    openvino = _import("openvino")
    # Without the hint some processors would silently use sixteen bits.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(_file("openvino", folder, member)), "CPU", hints)
    return lambda images: np.asarray(compiled(images)[0])


def _onnxruntime(folder: Path, member: int) -> Trunk:
    onnxruntime = _import("onnxruntime")
    session = onnxruntime.InferenceSession(
        str(_file("onnxruntime", folder, member)), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _import(engine: str) -> Any:
    import importlib

    try:
        return importlib.import_module(engine)
    except ImportError as error:
        raise SettingsError(
            f'score.runtime = "{engine}" cannot be used: {error}.',
            f"Install it with: pip install 'zoo-bridge[{EXTRAS[engine]}]', or set it to \"keras\".",
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print and log what nobody asked for."""
    known = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(known)
