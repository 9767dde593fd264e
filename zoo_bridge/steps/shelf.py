"""The shelf: artifacts in S3, of which ``work_dir`` holds what is needed here and now.

A folder is on it when a list of its files is, which is written last; a run that is killed half-way
leaves nothing that anybody would take for whole. What is brought from it appears whole, too, and is
held against the digests of that list.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_bridge.config import Settings
from zoo_bridge.errors import StorageError
from zoo_bridge.files import digest_file, replacing
from zoo_bridge.ledger import Ledger

if TYPE_CHECKING:
    from zoo_bridge.cutouts.store import Store

# Lists of files, apart from what they list: who wants to know what there is reads few names.
LISTS = "complete"
# What another host has put there is seen after so long.
LISTED_SECONDS = 20.0
# Files that are copied at a time.
AT_ONCE = 8


class Shelf:
    """A prefix of a bucket with artifacts under the same names as in a folder.

    Parameters
    ----------
    prefix : str
        ``s3://bucket/prefix``.
    endpoint_url : str or None
        For any S3 that is not Amazon's.
    work : Path
        The folder that paths are relative to.
    """

    def __init__(self, prefix: str, endpoint_url: str | None, work: Path) -> None:
        self.prefix = prefix.rstrip("/")
        self.endpoint_url = endpoint_url
        self.work = work
        self._names: dict[str, tuple[float, set[str]]] = {}
        self._guard = threading.Lock()

    @property
    def arguments(self) -> tuple[str, str | None, Path]:
        """What another process makes the same shelf of."""
        return self.prefix, self.endpoint_url, self.work

    def put(self, path: Path, leave: Collection[str] = ()) -> None:
        """Copy a file, or a folder with all in it, to the shelf; what was there is replaced.

        Parameters
        ----------
        path : Path
            In ``work_dir``.
        leave : collection of str
            Names of files that are left out.

        Raises
        ------
        SettingsError, StorageError
            If S3 will not have it.
        """
        name = path.relative_to(self.work).as_posix()
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        files = [each for each in found if each.is_file() and each.name not in leave]
        inside = ["" if each == path else each.relative_to(path).as_posix() for each in files]

        def copy(each: Path, called: str) -> str:
            self._store.put(each, self._uri(name, called))
            return digest_file(each)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            listed = dict(zip(inside, pool.map(copy, files, inside), strict=True))
        with tempfile.TemporaryDirectory(prefix="zoo-bridge-") as folder:
            scratch = Path(folder) / "list.json"
            scratch.write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
            self._store.put(scratch, self._list_of(name))
        self._seen(name)[1].add(name)

    def bring(self, path: Path) -> bool:
        """Fetch what is on the shelf and not here; whether it is here now.

        Raises
        ------
        StorageError
            If a file is not what the list says.
        SettingsError
            If S3 gives no access.
        """
        if path.exists():
            return True
        name = path.relative_to(self.work).as_posix()
        data = self._store.read_whole(self._list_of(name))
        if data is None:
            return False
        listed: dict[str, str] = json.loads(data)["files"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if list(listed) == [""]:
            with replacing(path) as scratch:
                self._fetch(name, "", scratch, listed[""])
            return True
        scratch = Path(tempfile.mkdtemp(prefix=f".coming-{path.name}-", dir=path.parent))
        try:
            for inside, digest in listed.items():
                target = scratch / inside
                # A list is a file like others: what it names must not lead out of the folder.
                if not target.resolve().is_relative_to(scratch.resolve()):
                    raise StorageError(
                        f"{self._list_of(name)} names {inside!r}, which is no file of it.",
                        "Somebody else wrote there; make the artifact anew.",
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(name, inside, target, digest)
            scratch.chmod(0o755)
            if path.exists():
                # Another thread was faster.
                return True
            scratch.rename(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True

    def has(self, path: Path) -> bool:
        """Whether a file or a folder is on the shelf, whole."""
        name = path.relative_to(self.work).as_posix()
        return name in self._seen(name)[1]

    def names_below(self, folder: Path) -> list[Path]:
        """What is on the shelf, whole, directly in a folder."""
        name = folder.relative_to(self.work).as_posix()
        return sorted(
            self.work / each for each in self._seen(name)[1] if each.rpartition("/")[0] == name
        )

    def remove(self, path: Path) -> None:
        """Take an artifact from the shelf; its list first: nobody takes the rest for whole."""
        name = path.relative_to(self.work).as_posix()
        data = self._store.read_whole(self._list_of(name))
        if data is None:
            return
        self._store.delete(self._list_of(name))
        for inside in json.loads(data)["files"]:
            self._store.delete(self._uri(name, inside))
        self._seen(name)[1].discard(name)

    @cached_property
    def _store(self) -> Store:
        from zoo_bridge.cutouts.store import Store

        return Store(self.endpoint_url)

    def _uri(self, name: str, inside: str) -> str:
        return f"{self.prefix}/{name}/{inside}" if inside else f"{self.prefix}/{name}"

    def _list_of(self, name: str) -> str:
        return f"{self.prefix}/{LISTS}/{name}.json"

    def _seen(self, name: str) -> tuple[float, set[str]]:
        """Names on the shelf of this kind, as they were seen a moment ago."""
        kind = name.partition("/")[0]
        with self._guard:
            found = self._names.get(kind)
            if found is None or time.monotonic() - found[0] > LISTED_SECONDS:
                folder = f"{self.prefix}/{LISTS}/{kind}/"
                start = len(f"{self.prefix}/{LISTS}/")
                names = {
                    entry.uri[start:].removesuffix(".json") for entry in self._store.walk(folder)
                }
                found = self._names[kind] = time.monotonic(), names
            return found

    def _fetch(self, name: str, inside: str, path: Path, digest: str) -> None:
        uri = self._uri(name, inside)
        self._store.copy_to(uri, path)
        if digest_file(path) != digest:
            raise StorageError(
                f"{uri} is not what was put there: its content has changed.",
                "Restore that object, or make the artifact anew.",
            )


def shelf_of(settings: Settings) -> Shelf | None:
    """The shelf of the settings; None where artifacts are in ``work_dir`` alone."""
    if settings.artifacts is None:
        return None
    return _shelf(settings.artifacts, settings.artifacts_endpoint_url, settings.work)


# Connections and lists of names are kept as long as the process lives.
_shelf = lru_cache(maxsize=8)(Shelf)


def open_ledger(settings: Settings) -> Ledger:
    """A project's ledger, which knows its artifacts wherever they are."""
    ledger = Ledger.of(settings)
    ledger.shelf = shelf_of(settings)
    return ledger


def here(settings: Settings, name: str) -> Path:
    """Where something of ``work_dir`` lies, fetched from the shelf if it is not here.

    Parameters
    ----------
    settings : Settings
        ``work_dir``, and ``artifacts``.
    name : str
        Relative to ``work_dir``, such as ``models/20261126T100000-abc``.

    Returns
    -------
    Path
        Of nothing, if it is nowhere.
    """
    path = settings.work / name
    if not path.exists() and (shelf := shelf_of(settings)) is not None:
        shelf.bring(path)
    return path
