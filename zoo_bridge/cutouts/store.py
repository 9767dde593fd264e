"""Where cutouts live: S3, the web, or the disk, each in a file or packed into large ones.

Errors say what, where and why.

Many small objects of S3 are fetched by obstore, which the interpreter's lock does not hold up;
everything else, and whatever obstore cannot do, goes through boto3, whose errors are explained.
"""

from __future__ import annotations

import errno
import hashlib
import io
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import boto3
import pyarrow as pa
import requests
from boto3.exceptions import S3UploadFailedError
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.exceptions import ReadTimeoutError as ReadTimeoutOfOne
from urllib3.util import Retry

from zoo_bridge.cutouts.packed import Place, RowReader, is_hidden, place_of
from zoo_bridge.cutouts.preprocess import SIZE_LIMIT, BadCutoutError
from zoo_bridge.errors import SettingsError, StorageError, ZooBridgeError
from zoo_bridge.files import digest_value, replacing
from zoo_bridge.redact import redact

MISSING = ("NoSuchKey", "404", "NotFound")
BEYOND = ("InvalidRange", "416")
# Errors of one object that say nothing of others.
THIS_ONE = ("KeyTooLongError", "InvalidURI", "InvalidArgument", "InvalidObjectState")
# A 403, or what should be one, whose sentence says whose fault it is.
DENIED = (
    *("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"),
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"),
    *("RequestTimeTooSkewed", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
)
# So many objects may fail by themselves, one after the other or in all: more than this share of
# what was asked for is no matter of single ones.
MOST_SINGLE, MOST_SINGLE_SHARE = 10, 0.2
ATTEMPTS = 6
TIMEOUT = timedelta(seconds=60)
# What an open file of S3 asks for at once; small, since headers are all that is read of a tar.
BUFFER = 2**14
# Pieces of one file that lie so near to each other are fetched together.
GAP = 2**20


# What is wrong with an address itself, and with one answer.
NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    LocationParseError,
    ValueError,
)
NO_ANSWER = (
    requests.exceptions.ReadTimeout,
    requests.exceptions.TooManyRedirects,
    requests.exceptions.ContentDecodingError,
    requests.exceptions.ChunkedEncodingError,
)

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
        self._single = _SingleFaults()
        self._s3: Any = None
        self._buckets: dict[str, Any] = {}
        self._rows: dict[str, RowReader] = {}
        self._lock = threading.Lock()

    @property
    def settings(self) -> tuple[Any, ...]:
        """What another process makes the same store of."""
        return self.endpoint_url, self.threads, self.fast, self.anonymous, self.requester_pays

    @cached_property
    def _session(self) -> Any:
        # A session of our own: the default one keeps the first credentials it saw.
        return boto3.session.Session()

    @cached_property
    def _unsigned(self) -> bool:
        return self.anonymous or self._session.get_credentials() is None

    @property
    def s3(self) -> Any:
        """The boto3 client, made when it is first needed; safe to share between threads."""
        if self._s3 is None:
            retries: Any = {"max_attempts": 6, "mode": "adaptive"}
            try:
                config = Config(
                    max_pool_connections=self.threads,
                    retries=retries,
                    connect_timeout=10,
                    read_timeout=60,
                    # Many servers that are not Amazon's refuse what they do not know.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    **({"signature_version": UNSIGNED} if self._unsigned else {}),
                )
                s3 = self._session.client("s3", endpoint_url=self.endpoint_url, config=config)
                if self.requester_pays:
                    s3.meta.events.register("before-call.s3", _say_who_pays)
                self._s3 = s3
            except (BotoCoreError, ValueError) as error:
                raise SettingsError(
                    f"The S3 client cannot be set up: {error}.",
                    "Check AWS_DEFAULT_REGION, the AWS profile and survey.endpoint_url.",
                ) from None
        return self._s3

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
            _limit(place.length or 0)
            return self.read_places([place])[0]
        if uri.startswith(("http://", "https://")):
            return self._read_web(uri)
        try:
            bucket, key = split(uri)
        except ValueError as error:
            raise BadCutoutError("unreadable", f"{uri!r} is no address: {error}") from None
        if bucket is None:
            return _read_disk(uri, key)
        if self.fast and _is_plain(key):
            try:
                found = self._read_fast(bucket, key)
                self._single.went_well()
                return found
            except FileNotFoundError:
                self._see_bucket(bucket)
                return None
            except (BadCutoutError, ZooBridgeError):
                raise
            except Exception:
                # Whatever it is that obstore cannot do, boto3 can, or says why not.
                return self._read_boto3(bucket, key)
        return self._read_boto3(bucket, key)

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
            What.
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
            try:
                with Path(key).open("rb") as shard:
                    return [_part_of(shard, start, size) for start, size in ranges]
            except FileNotFoundError:
                return [None] * len(places)
            except OSError as error:
                raise StorageError(f"{file} cannot be read: {error.strerror}.") from None
        if self.fast and _is_plain(key):
            try:
                parts = self._bucket(bucket).get_ranges(
                    key,
                    starts=[start for start, _ in ranges],
                    lengths=[size for _, size in ranges],
                    coalesce=GAP,
                )
                self._single.went_well()
                return [bytes(each) for each in parts]
            except FileNotFoundError:
                self._see_bucket(bucket)
                return [None] * len(places)
            except ZooBridgeError:
                raise
            except Exception:
                pass  # Whatever it is that obstore cannot do, boto3 can, or says why not.
        return [self._read_boto3(bucket, key, range_) for range_ in ranges]

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
        if bucket is None:
            return Path(key).open("rb")
        try:
            size = int(self.s3.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if _code_of(error) in MISSING:
                self._see_bucket(bucket)
                raise FileNotFoundError(uri) from None
            error = self._in_words(error, self.s3.get_object, bucket, Key=key)
            raise self._explain(error, bucket, key) from None
        except BotoCoreError as error:
            raise self._explain(error, bucket, key) from None
        return io.BufferedReader(_Remote(self, uri, size), BUFFER)

    def _read_boto3(
        self, bucket: str, key: str, part: tuple[int, int] | None = None
    ) -> bytes | None:
        more = {"Range": f"bytes={part[0]}-{part[0] + part[1] - 1}"} if part else {}

        def get() -> bytes:
            answer = self.s3.get_object(Bucket=bucket, Key=key, **more)
            _limit(answer["ContentLength"])
            body: bytes = answer["Body"].read()
            return body

        try:
            found = _again(get)
            self._single.went_well()
            return found
        except ClientError as error:
            if _code_of(error) in MISSING:
                return None
            if _code_of(error) in BEYOND:
                # The file ends before: as of any other cutout that is cut short, what is there.
                return b""
            if _code_of(error) in THIS_ONE:
                raise BadCutoutError("unreadable", str(error)) from None
            trouble = self._explain(error, bucket, key)
            if isinstance(trouble, StorageError) and part is None and self._single.is_one():
                raise BadCutoutError("unreadable", _said(error)) from None
            raise trouble from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise self._explain(error, bucket, key) from None

    def _read_fast(self, bucket: str, key: str) -> bytes:
        got = self._bucket(bucket).get(key)
        _limit(got.meta["size"])
        return bytes(got.bytes())

    def _bucket(self, bucket: str) -> Any:
        """An obstore of a bucket, with boto3's credentials."""
        with self._lock:
            if bucket not in self._buckets:
                from obstore.auth.boto3 import Boto3CredentialProvider
                from obstore.store import S3Store

                signed = not self._unsigned
                credentials = Boto3CredentialProvider(self._session) if signed else None
                # Where boto3 goes, by the environment or its own settings; Amazon's is the default.
                address = self.s3.meta.endpoint_url
                amazon = self.endpoint_url is None and ".amazonaws.com" in address
                config: Any = {} if amazon else {"endpoint": address}
                if self.requester_pays:
                    config["request_payer"] = True
                if self._unsigned:
                    config["skip_signature"] = True
                self._buckets[bucket] = S3Store(
                    bucket,
                    config=config,
                    region=self.s3.meta.region_name or "us-east-1",
                    credential_provider=credentials,
                    # As boto3 does: many servers know no bucket names before their own.
                    virtual_hosted_style_request=amazon,
                    client_options={
                        "allow_http": True,
                        "timeout": TIMEOUT,
                        "connect_timeout": timedelta(seconds=10),
                        "pool_max_idle_per_host": str(self.threads),
                    },
                    retry_config={"max_retries": ATTEMPTS, "retry_timeout": 2 * TIMEOUT},
                )
            return self._buckets[bucket]

    @cached_property
    def _seen(self) -> set[str]:
        return set()

    def _see_bucket(self, bucket: str) -> None:
        """A missing object is one cutout lost; a missing bucket is a setting to correct."""
        if bucket not in self._seen:
            self.check(f"s3://{bucket}/")
            self._seen.add(bucket)

    def _read_web(self, url: str) -> bytes | None:
        shown = redact(url)
        try:
            answer = self._web.get(url, timeout=(10, 60))
        except NO_ADDRESS as error:
            raise BadCutoutError("unreadable", f"it is no address: {redact(str(error))}") from None
        except requests.RequestException as error:
            # An answer that cannot be read, or none in time, may be that of one cutout alone.
            reason = getattr(error.args[0] if error.args else None, "reason", None)
            of_one = isinstance(error, NO_ANSWER) or isinstance(reason, ReadTimeoutOfOne)
            if of_one and self._single.is_one():
                why = "the server does not answer as it should"
                raise BadCutoutError("unreadable", f"{why}: {redact(str(error))}") from None
            raise self._web_trouble(shown, redact(str(error))) from None
        if answer.status_code in (404, 410):
            return None
        if answer.status_code < 400:
            self._single.went_well()
            return answer.content
        said = f"the server answers {answer.status_code} {answer.reason or ''}".rstrip()
        # Too many questions are no fault of what was asked for.
        if answer.status_code != 429 and self._single.is_one():
            raise BadCutoutError("unreadable", said)
        raise self._web_trouble(shown, said)

    def _web_trouble(self, shown: str, why: str) -> StorageError:
        return StorageError(
            f"{shown} cannot be read: {why}.",
            "Can this machine reach it? Run the same command again; what was done is kept.",
        )

    @cached_property
    def _web(self) -> requests.Session:
        session = requests.Session()
        codes = (429, 500, 502, 503, 504)
        patience = Retry(5, backoff_factor=0.5, status_forcelist=codes, raise_on_status=False)
        adapter = HTTPAdapter(pool_maxsize=self.threads, max_retries=patience)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        return session

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
            top = Path(key)
            for path in [top] if top.is_file() else sorted(top.rglob("*")):
                if not is_hidden(path.relative_to(top).as_posix()) and path.is_file():
                    stat = path.stat()
                    yield Entry(str(path), stat.st_size, str(stat.st_mtime_ns))
            return
        folder = key if not key or key.endswith("/") else f"{key}/"
        try:
            if folder != key:
                # A tar, perhaps. In the order of a listing nothing comes before it.
                first = self.s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
                for item in first.get("Contents", []):
                    if item["Key"] == key:
                        yield Entry(f"s3://{bucket}/{key}", item["Size"], item["ETag"])
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
            for page in pages:
                for item in page.get("Contents", []):
                    if not is_hidden(item["Key"].removeprefix(folder)):
                        yield Entry(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"])
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, bucket, key) from None

    def entries(self, uri: str) -> list[Entry]:
        """The files that a URI names: itself, or all in the folder if it ends with a slash.

        A URI with ``*`` names those that match, in one folder. Empty if there is none.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        if uri.startswith(("http://", "https://")):
            data = self.read_whole(uri)
            if data is None:
                return []
            return [Entry(uri, len(data), hashlib.sha256(data).hexdigest()[:16])]
        bucket, key = split(uri)
        folder = key if key.endswith("/") else key.rpartition("/")[0]
        if bucket is None:
            one = Path(key)
            paths = [one] if one.is_file() else []
            if key.endswith("/") or one.is_dir():
                paths = [path for path in one.iterdir() if path.is_file()] if one.is_dir() else []
            elif "*" in one.name:
                paths = [path for path in one.parent.glob(one.name) if path.is_file()]
            stats = [(path, path.stat()) for path in sorted(paths) if path.name[0] not in "._"]
            return [Entry(str(path), stat.st_size, str(stat.st_mtime_ns)) for path, stat in stats]
        found = []
        prefix = folder if key.endswith("/") else key.split("*")[0]
        try:
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    name = item["Key"]
                    same_folder = name.rpartition("/")[0] == folder.rstrip("/")
                    wanted = name == key or (key.endswith("/") and same_folder)
                    wanted = wanted or ("*" in key and same_folder and fnmatchcase(name, key))
                    if wanted and name.rpartition("/")[2][:1] not in ("", ".", "_"):
                        found.append(Entry(f"s3://{bucket}/{name}", item["Size"], item["ETag"]))
                if found and found[0].uri == uri:
                    break
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, bucket, key) from None
        return found

    def copy_to(self, uri: str, path: Path) -> Path:
        """A file on disk with an object's bytes: the object itself if it is one.

        Parameters
        ----------
        uri : str
            What.
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
        if uri.startswith(("http://", "https://")):
            path.write_bytes(self.read_whole(uri) or b"")
            return path
        bucket, key = split(uri)
        if bucket is None:
            return Path(key)
        try:
            with path.open("wb") as file:
                self.s3.download_fileobj(bucket, key, file)
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._explain(error, bucket, key) from None
        return path

    def put(self, path: Path, uri: str) -> None:
        """Copy a file of this disk to S3, or to another folder.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        bucket, key = split(uri)
        if bucket is None:
            with replacing(Path(key)) as scratch:
                shutil.copyfile(path, scratch)
            return
        try:
            self.s3.upload_file(str(path), bucket, key)
        except (ClientError, BotoCoreError, S3UploadFailedError) as error:
            raise self._explain(error, bucket, key, "s3:PutObject") from None

    def check(self, uri: str) -> None:
        """See that the bucket of a URI is there and may be read; raise as `read` does."""
        bucket, key = split(uri)
        if bucket is None:
            return
        try:
            self.s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _code_of(error) not in MISSING:
                error = self._in_words(error, self.s3.list_objects_v2, bucket, MaxKeys=1)
            raise self._explain(error, bucket, key) from None
        except BotoCoreError as error:
            raise self._explain(error, bucket, key) from None

    def _in_words(
        self, error: ClientError, ask: Callable[..., Any], bucket: str, **more: Any
    ) -> ClientError:
        """The server's own sentence: an answer to HEAD has none, so ask again in another way."""
        try:
            ask(Bucket=bucket, **more)
        except ClientError as told:
            return told
        except BotoCoreError:
            pass
        return error

    def _hint(self, code: str, said: str, need: str) -> str:
        """What to do about access that is denied."""
        if "kms" in said.lower():
            return "The credentials need kms:Decrypt for the key that encrypts this bucket."
        if code == "RequestTimeTooSkewed":
            return "Set this machine's clock: it must not be off by minutes."
        if code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
            return "Get new credentials: these were for a time, or are not known here."
        if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch") and not self._unsigned:
            return (
                "The credentials are not those of this server; if its bucket is public, set "
                "survey.anonymous = true."
            )
        if self.anonymous:
            return "survey.anonymous is set, and this bucket is not public: take it out."
        if self._unsigned:
            return (
                "There are no credentials, and this bucket is not public: set AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, or an AWS profile or role."
            )
        pays = "" if self.requester_pays else " If it is Requester Pays: survey.requester_pays."
        return f"The credentials need {need} there.{pays}"

    def _explain(
        self, error: Exception, bucket: str, key: str, need: str = "s3:GetObject and s3:ListBucket"
    ) -> SettingsError | StorageError:
        where = self.endpoint_url or "Amazon S3"
        code = _code_of(error) if isinstance(error, ClientError) else ""
        if isinstance(error, S3UploadFailedError) and "AccessDenied" in str(error):
            code = "AccessDenied"
        if isinstance(error, NoCredentialsError):
            return SettingsError(
                f"There are no credentials for {where}.",
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile or role.",
            )
        if code == "NoSuchBucket" or (code in MISSING and isinstance(error, ClientError)):
            return SettingsError(
                f"There is no bucket {bucket} on {where}.",
                "Correct the [survey] table; an S3 that is not Amazon's needs survey.endpoint_url.",
            )
        status = _status_of(error) if isinstance(error, ClientError) else 0
        if code in DENIED or status in (401, 403):
            assert isinstance(error, ClientError | S3UploadFailedError)
            return SettingsError(
                f"{where} denies access to {bucket}/{key}: {_said(error)}.",
                self._hint(code, str(error), need),
            )
        return StorageError(
            f"{where} failed at {bucket}/{key}: {error}.",
            "Can this machine reach it? Run the same command again; what was done is kept.",
        )


class _SingleFaults:
    """Whether what failed, after its retries, is one of many, or many are: then it is the server.

    Counted are answers: where there is none, nothing can be read at all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._well = self._badly = self._in_a_row = 0

    def went_well(self) -> None:
        """An object was read."""
        with self._lock:
            self._well += 1
            self._in_a_row = 0

    def is_one(self) -> bool:
        """Note one that failed; whether it stands alone."""
        with self._lock:
            self._badly += 1
            self._in_a_row += 1
            total = self._well + self._badly
            many = self._badly > MOST_SINGLE and self._badly > MOST_SINGLE_SHARE * total
            return not many and self._in_a_row <= MOST_SINGLE


def _say_who_pays(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


def _is_plain(key: str) -> bool:
    """Whether obstore takes a key as it is: it knows of no empty or dotted parts of a path."""
    return not {"", ".", ".."} & set(key.split("/"))


def _code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _said(error: Exception) -> str:
    """The server's own sentence, and its code."""
    if not isinstance(error, ClientError):
        return str(error).rstrip(".")
    message = str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
    code = _code_of(error)
    if not message or message == code:
        return code or str(_status_of(error))
    return f"{message} ({code})"


def _again(get: Callable[[], bytes]) -> bytes:
    """Again where an answer broke off: boto3 retries the request, but not the body's reading."""
    for attempt in range(ATTEMPTS):
        try:
            return get()
        except (ReadTimeoutError, IncompleteReadError, ResponseStreamingError, HTTPError, OSError):
            if attempt == ATTEMPTS - 1:
                raise
            # With jitter, or all threads would come back at the same moment.
            time.sleep(random.uniform(0, min(10.0, 0.2 * 2**attempt)))
    raise AssertionError("unreachable")


class _Remote(io.RawIOBase):
    """An object of S3 as a file."""

    def __init__(self, store: Store, uri: str, size: int) -> None:
        super().__init__()
        self._store = store
        self._uri = uri
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """As of any file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As of any file: an answer of S3 for each call."""
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        (data,) = self._store.read_places([Place(self._uri, self._at, length)])
        if data is None:
            raise FileNotFoundError(self._uri)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


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


def _limit(size: int) -> None:
    if size > SIZE_LIMIT:
        raise BadCutoutError("too large", f"it has {size / 2**20:.0f} MiB")


def _read_disk(uri: str, path: str) -> bytes | None:
    try:
        _limit(Path(path).stat().st_size)
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EMFILE, errno.ESTALE):
            raise StorageError(f"{uri} cannot be read: {error.strerror}.") from None
        raise BadCutoutError("unreadable", str(error)) from None


def _part_of(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def split(uri: str) -> tuple[str | None, str]:
    """A URI's bucket and key; None and the path for one on disk."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        if not parts.netloc:
            raise ValueError("it names no bucket")
        # A key may begin with a slash itself.
        return parts.netloc, uri.split("://", 1)[1].removeprefix(parts.netloc).removeprefix("/")
    return None, parts.path if parts.scheme == "file" else uri


def join(base: str, key: str) -> str:
    """A key beside another object: a URI as it is, anything else in the base's folder."""
    if "://" in key or key.startswith("/"):
        return key
    return f"{base.rsplit('/', 1)[0]}/{key}" if "/" in base else key
