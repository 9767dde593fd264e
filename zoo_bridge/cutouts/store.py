"""Where cutouts live: S3, the web, or the disk, each in a file or packed into large ones.

Errors say what, where and why. Each place is read in a file of its own: `s3`, `web`, `disk`.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow as pa

from zoo_bridge.cutouts.disk import matching_files, read_file, read_parts, walk_files
from zoo_bridge.cutouts.faults import SingleFaults, require_small
from zoo_bridge.cutouts.images import SIZE_LIMIT, BadCutoutError
from zoo_bridge.cutouts.packed import Place, RowReader, is_hidden, place_of
from zoo_bridge.cutouts.s3 import S3
from zoo_bridge.cutouts.web import Web
from zoo_bridge.errors import StorageError
from zoo_bridge.files import digest_value, replacing
from zoo_bridge.redact import redact

WEB = ("http://", "https://")

Found = bytes | BadCutoutError | None


@dataclass(frozen=True)
class Entry:
    """A file of a survey: where it is, how many bytes, and what changes when it does."""

    uri: str
    size: int
    version: str

    @property
    def digest(self) -> str:
        """A few letters that change when the file does."""
        return digest_value([self.size, self.version])[:8]


class Store:
    """Reads objects by URI: ``s3://bucket/key``, ``https://…``, ``file:///path`` or a plain path.

    Parameters
    ----------
    endpoint_url : str, optional
        For any S3 that is not Amazon's.
    threads : int
        How many connections to keep.
    fast : bool
        Fetch small objects by obstore; otherwise by boto3 alone.
    anonymous : bool
        Sign nothing: of a public bucket. So is done, too, where there are no credentials.
    requester_pays : bool
        Say that this account pays for what it reads.
    """

    def __init__(
        self,
        endpoint_url: str | None = None,
        threads: int = 8,
        fast: bool = True,
        anonymous: bool = False,
        requester_pays: bool = False,
    ) -> None:
        self.endpoint_url = endpoint_url
        self.threads = threads
        self.fast = fast
        self.anonymous = anonymous
        self.requester_pays = requester_pays
        single = SingleFaults()
        self.s3 = S3(endpoint_url, threads, fast, anonymous, requester_pays, single)
        self._web = Web(threads, single)
        self._rows: dict[str, RowReader] = {}
        self._lock = threading.Lock()

    @property
    def settings(self) -> tuple[Any, ...]:
        """What another process makes the same store of."""
        return self.endpoint_url, self.threads, self.fast, self.anonymous, self.requester_pays

    def read(self, uri: str) -> bytes | None:
        """An object's bytes; None if there is no such object.

        Raises
        ------
        BadCutoutError
            If this one cannot be read, which says nothing of others.
        SettingsError
            If the bucket does not exist or access is denied.
        StorageError
            If S3 or the disk fails.
        """
        if (place := place_of(uri)) is not None:
            require_small(place.length or 0)
            return self.read_places([place])[0]
        if uri.startswith(WEB):
            return self._web.read(uri)
        try:
            bucket, key = split(uri)
        except ValueError as error:
            raise BadCutoutError("unreadable", f"{uri!r} is no address: {error}") from None
        return read_file(uri, key) if bucket is None else self.s3.read(bucket, key)

    def read_whole(self, uri: str) -> bytes | None:
        """As `read`, of what is no cutout: if it cannot be read, nothing can be done without it.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        try:
            return self.read(uri)
        except BadCutoutError as error:
            raise StorageError(
                f"{redact(uri)} cannot be read: {error.detail or error.reason}.",
                "Is the address right, and can this machine reach it?",
            ) from None

    def read_many(self, uris: Sequence[str], pool: Executor) -> Iterator[Found]:
        """Many objects' bytes, in their order; what is packed into one file is asked for at once.

        All are asked for at the first: whoever goes on with the first has the others coming.

        Parameters
        ----------
        uris : sequence of str
            Addresses of objects, of any kind that `read` takes.
        pool : Executor
            Threads to wait in.

        Yields
        ------
        bytes, None or BadCutoutError
            None where there is no such object; the error of one that cannot be read.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        packed: dict[str, list[tuple[int, Place]]] = {}
        coming: dict[int, Callable[[], bytes | None]] = {}
        for number, uri in enumerate(uris):
            place = place_of(uri)
            if place is None or (place.length or 0) > SIZE_LIMIT:
                coming[number] = pool.submit(self.read, uri).result
            else:
                packed.setdefault(place.file, []).append((number, place))
        for shard in packed.values():
            together = pool.submit(self.read_places, [place for _, place in shard])
            for at, (number, _) in enumerate(shard):
                coming[number] = partial(_one_of, together, at)
        for number in range(len(uris)):
            try:
                yield coming[number]()
            except BadCutoutError as error:
                yield error

    def read_places(self, places: Sequence[Place]) -> list[bytes | None]:
        """Parts of one file; None if there is no such file."""
        file = places[0].file
        if places[0].length is None:
            rows = [place.start for place in places]
            return self._read_rows(file, places[0].version, rows)
        if not all(place.length for place in places):
            # Of no bytes one cannot ask: servers answer with the whole file.
            some = [place for place in places if place.length]
            found = iter(self.read_places(some) if some else [])
            return [next(found) if place.length else b"" for place in places]
        ranges = [(place.start, place.length or 0) for place in places]
        bucket, key = split(file)
        if bucket is None:
            return read_parts(file, key, ranges)
        return self.s3.ranges(bucket, key, ranges)

    def _read_rows(self, file: str, version: str, rows: Sequence[int]) -> list[bytes | None]:
        name = f"{file}@{version}"
        try:
            with self._lock:
                reader = self._rows.get(name)
            if reader is None:
                reader = RowReader(self.open(file))
                with self._lock:
                    # Shards are read one after the other: one of them is enough to keep.
                    self._rows = {name: reader}
            return [reader.read(row) for row in rows]
        except FileNotFoundError:
            return [None] * len(rows)
        except (OSError, pa.ArrowException) as error:
            why = (str(error).splitlines() or ["?"])[0]
            raise BadCutoutError("unreadable", f"the shard {file} is broken: {why}") from None

    def open(self, uri: str) -> IO[bytes]:
        """A seekable file of an object's bytes, of which only what is wanted is fetched.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        SettingsError, StorageError
            As for `read`.
        """
        bucket, key = split(uri)
        return Path(key).open("rb") if bucket is None else self.s3.open(bucket, key)

    def walk(self, prefix: str) -> Iterator[Entry]:
        """Every object in a folder and below, in order; or the one that is named.

        What is hidden, and what macOS leaves beside files, is passed over.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        bucket, key = split(prefix)
        if bucket is None:
            for path in walk_files(Path(key)):
                yield _entry_of(path)
            return
        folder = key if not key or key.endswith("/") else f"{key}/"
        # What is named without a slash may be a file itself: a tar, perhaps.
        for name, size, version in self.s3.list(bucket, folder, key if folder != key else ""):
            if name == key or not is_hidden(name.removeprefix(folder)):
                yield Entry(f"s3://{bucket}/{name}", size, version)

    def entries(self, uri: str) -> list[Entry]:
        """The files that a URI names: itself, or all in the folder if it ends with a slash.

        A URI with ``*`` names those that match, in one folder. Empty if there is none.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        if uri.startswith(WEB):
            data = self.read_whole(uri)
            if data is None:
                return []
            return [Entry(uri, len(data), hashlib.sha256(data).hexdigest()[:16])]
        bucket, key = split(uri)
        if bucket is None:
            return [_entry_of(path) for path in matching_files(key)]
        folder = key if key.endswith("/") else key.rpartition("/")[0]
        found = []
        for name, size, version in self.s3.list(
            bucket, folder if key.endswith("/") else key.split("*")[0]
        ):
            same_folder = name.rpartition("/")[0] == folder.rstrip("/")
            wanted = same_folder and (key.endswith("/") or ("*" in key and fnmatchcase(name, key)))
            if (wanted or name == key) and name.rpartition("/")[2][:1] not in ("", ".", "_"):
                found.append(Entry(f"s3://{bucket}/{name}", size, version))
            if found and found[0].uri == uri:
                # In the order of a listing nothing comes before it.
                break
        return found

    def copy_to(self, uri: str, path: Path) -> Path:
        """A file on disk with an object's bytes: the object itself if it is one.

        Parameters
        ----------
        uri : str
            The object's address.
        path : Path
            Where to, unless it lies on disk already.

        Returns
        -------
        Path
            Where it is.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        if uri.startswith(WEB):
            path.write_bytes(self.read_whole(uri) or b"")
            return path
        bucket, key = split(uri)
        if bucket is None:
            return Path(key)
        self.s3.download(bucket, key, path)
        return path

    def put(self, path: Path, uri: str) -> None:
        """Copy a file of this disk to S3, or to another folder.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        bucket, key = split(uri)
        if bucket is not None:
            self.s3.upload(path, bucket, key)
            return
        with replacing(Path(key)) as scratch:
            shutil.copyfile(path, scratch)

    def delete(self, uri: str) -> None:
        """Take an object away, if it is there.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        bucket, key = split(uri)
        if bucket is None:
            Path(key).unlink(missing_ok=True)
        else:
            self.s3.delete(bucket, key)

    def check(self, uri: str) -> None:
        """See that the bucket of a URI is there and may be read; raise as `read` does."""
        bucket, key = split(uri)
        if bucket is not None:
            self.s3.check(bucket, key)


def _entry_of(path: Path) -> Entry:
    stat = path.stat()
    return Entry(str(path), stat.st_size, str(stat.st_mtime_ns))


def _one_of(together: Future[list[bytes | None]], at: int) -> bytes | None:
    return together.result()[at]


def whole(found: Found) -> bytes:
    """The bytes that `Store.read_many` found.

    Raises
    ------
    BadCutoutError
        If there are none, and why.
    """
    if isinstance(found, BadCutoutError):
        raise found
    if found is None:
        raise BadCutoutError("missing", "there is no such object")
    return found


def split(uri: str) -> tuple[str | None, str]:
    """A URI's bucket and key; None and the path for one on disk."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise ValueError("it names no bucket")
        # A key may begin with a slash itself.
        return parts.netloc, uri.split("://", 1)[1].removeprefix(parts.netloc).removeprefix("/")
    return None, parts.path if parts.scheme == "file" else uri
