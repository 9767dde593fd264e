"""Models on disk: everything that is needed to use one again, and a card for people.

``models/<version>/`` holds ``weights-<member>.weights.h5`` and ``last-layer-<member>.npz`` of each
network of the ensemble, ``model.json``, ``card.md`` and ``figures/``; and, where an inference
runtime is used, its own form of the trunks, or the encoder that stands for them. The preprocessing
is part of the model: using it with another is refused.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo_bridge.errors import RefusedError
from zoo_bridge.files import digest_file, digest_value, write_json, write_text
from zoo_bridge.model import runtime
from zoo_bridge.model.backend import keras
from zoo_bridge.model.design import Design
from zoo_bridge.model.encoder import FILE, Encoder
from zoo_bridge.model.last_layer import LastLayer
from zoo_bridge.model.network import Network
from zoo_bridge.model.record import (
    Record,
    cannot_load,
    card,
    check_whole,
    layer_name,
    read_record,
    weights_name,
)
from zoo_bridge.version import __version__


def trunk_of_encoder(design: Design, preprocessing: dict[str, Any]) -> str:
    """The same for an encoder, as a design describes it."""
    return digest_value([preprocessing, design.encoder, *_sides(design)])


def _sides(design: Design) -> list[int]:
    """Features of one view have the name that they had when there was no other."""
    return [design.views] if design.views > 1 else []


def trunk_of(networks: Sequence[Network], preprocessing: dict[str, Any]) -> str:
    """A name for what turns cutouts into features: the same for the same features."""
    if networks[0].design.encoder is not None:
        return trunk_of_encoder(networks[0].design, preprocessing)
    told: list[Any] = [preprocessing, *_sides(networks[0].design)]
    for network in networks:
        design = network.design
        digest = hashlib.sha256()
        for weight in network.trunk.get_weights():
            digest.update(weight.tobytes())
        told.append([design.name, design.pixel_mean, design.pixel_spread, digest.hexdigest()])
    return digest_value(told)


def save(
    folder: Path,
    networks: Sequence[Network],
    record: Record,
    figures: Mapping[str, bytes] | None = None,
) -> Record:
    """Write a model's folder, whole or not at all.

    Parameters
    ----------
    folder : Path
        ``models/<version>``, which appears when it is complete.
    networks : sequence of Network
        The weights. For a runtime other than Keras their trunks are exported too.
    record : Record
        What is kept beside the weights: design, preprocessing, calibration, metrics.
    figures : mapping of str to bytes, optional
        PNG files by name.

    Returns
    -------
    Record
        With the files' digests and the software's versions.

    Raises
    ------
    RefusedError
        If the runtime's outputs do not agree with Keras'.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        software = {
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "zoo_bridge": __version__,
        }
        for member, network in enumerate(networks):
            network.model.save_weights(scratch / weights_name(member))
            network.last.save(scratch / layer_name(member))
            if network.encoder:
                shutil.copyfile(network.encoder.path, scratch / FILE)
            elif record.runtime != "keras":
                software |= runtime.export(network, record.runtime, scratch, member)
        digests = {path.name: digest_file(path) for path in sorted(scratch.iterdir())}
        more = {
            "digests": digests,
            "software": software,
            "trunk": trunk_of(networks, record.preprocessing),
        }
        complete = Record(**{**asdict(record), **more})
        write_json(scratch / "model.json", asdict(complete))
        write_text(scratch / "card.md", card(complete, sorted(figures or {})))
        for name, content in (figures or {}).items():
            (scratch / "figures").mkdir(exist_ok=True)
            (scratch / "figures" / name).write_bytes(content)
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return complete


@dataclass(frozen=True)
class Model:
    """A model that can be used: its networks, and what makes features of images."""

    networks: list[Network]
    record: Record
    trunks: list[runtime.Trunk]


def load(folder: Path, preprocessing: dict[str, Any], engine: str = "keras") -> Model:
    """Load a model to use it with a preprocessing.

    Parameters
    ----------
    folder : Path
        ``models/<version>``, as `save` wrote it.
    preprocessing : dict
        What the images to come are made with.
    engine : str
        What runs the trunk: keras, openvino or onnxruntime.

    Returns
    -------
    Model

    Raises
    ------
    RefusedError
        If the model was trained with another preprocessing, or was not exported for the runtime.
    InputError
        If it cannot be loaded.
    """
    record = read_record(folder)
    check_whole(folder, record, preprocessing)
    try:
        design = Design.from_dict(record.design)
    except (TypeError, KeyError) as error:
        raise cannot_load(record, error) from None
    if engine not in ("keras", record.runtime) and design.encoder is None:
        raise RefusedError(
            f"The model {record.version} was registered for {record.runtime}, not for {engine}.",
            "Set score.runtime back, or register a model for it: zoo-bridge run retrain --force.",
        )
    encoder = Encoder.from_dict(folder / FILE, design.encoder) if design.encoder else None
    networks = []
    try:
        for member, seed in enumerate(record.seeds):
            network = Network(design, seed, encoder)
            network.model.load_weights(folder / weights_name(member))
            if encoder:
                last = LastLayer.load(folder / layer_name(member), design)
                network.shift_D, network.scale_D = last.shift_D, last.scale_D
            networks.append(network)
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise cannot_load(record, error) from None
    if encoder:
        return Model(networks, record, [networks[0].features] * len(networks))
    trunks = [
        runtime.open_trunk(network, engine, folder, member)
        for member, network in enumerate(networks)
    ]
    return Model(networks, record, trunks)
