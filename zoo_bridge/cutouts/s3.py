"""Cutouts in S3, Amazon's or another: errors say what, where and why.

Many small objects are fetched by obstore, which the interpreter's lock does not hold up; everything
else, and whatever obstore cannot do, goes through boto3, whose errors are explained.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import boto3
import botocore.session
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
from botocore.loaders import Loader, create_loader
from urllib3.exceptions import HTTPError

from zoo_bridge.cutouts.faults import SingleFaults, require_small
from zoo_bridge.cutouts.images import BadCutoutError
from zoo_bridge.errors import SettingsError, StorageError, ZooBridgeError
from zoo_bridge.retry import doubling, jittered, retry

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
ATTEMPTS = 6
TIMEOUT = timedelta(seconds=60)
# An answer that broke off, or took too long.
BROKEN_OFF = (
    ReadTimeoutError,
    IncompleteReadError,
    ResponseStreamingError,
    HTTPError,
    OSError,
)
# What an open file of S3 asks for at once; small, since headers are all that is read of a tar.
BUFFER = 2**14
# Pieces of one file that lie so near to each other are fetched together.
GAP = 2**20

# (key, bytes, what changes when it does) of an object.
Listed = tuple[str, int, str]

# What botocore knows of services, by the folder that is searched for more (AWS_DATA_PATH).
_loaders: dict[str | None, Loader] = {}
_loading = threading.Lock()


def _new_session() -> boto3.session.Session:
    """A session that shares with all others what it knows of services.

    Each would read and parse it anew, some megabytes of JSON: nine tenths of the time that it takes
    to make a client.
    """
    base = botocore.session.get_session()
    folder = base.get_config_variable("data_path")
    with _loading:
        if folder not in _loaders:
            _loaders[folder] = create_loader(folder)
        loader = _loaders[folder]
        base.register_component("data_loader", loader)
        session = boto3.session.Session(botocore_session=base)
        # Each session adds the folder of boto3.
        loader.search_paths[:] = dict.fromkeys(loader.search_paths)
    return session


class S3:
    """Objects of buckets of one server, by bucket and key.

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
    single : SingleFaults
        Whether an object that cannot be read stands alone.
    """

    def __init__(
        self,
        endpoint_url: str | None,
        threads: int,
        fast: bool,
        anonymous: bool,
        requester_pays: bool,
        single: SingleFaults,
    ) -> None:
        self.endpoint_url = endpoint_url
        self.threads = threads
        self.fast = fast
        self.anonymous = anonymous
        self.requester_pays = requester_pays
        self._single = single
        self._client: Any = None
        self._buckets: dict[str, Any] = {}
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    @cached_property
    def _session(self) -> Any:
        # A session of our own: the default one keeps the first credentials it saw.
        return _new_session()

    @cached_property
    def _unsigned(self) -> bool:
        return self.anonymous or self._session.get_credentials() is None

    @property
    def client(self) -> Any:
        """The boto3 client, made when it is first needed; safe to share between threads."""
        if self._client is None:
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
                self._client = s3
            except (BotoCoreError, ValueError) as error:
                raise SettingsError(
                    f"The S3 client cannot be set up: {error}.",
                    "Check AWS_DEFAULT_REGION, the AWS profile and survey.endpoint_url.",
                ) from None
        return self._client

    def read(self, bucket: str, key: str) -> bytes | None:
        """An object's bytes; None if there is no such object; raises as `Store.read` does."""
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

    def ranges(
        self, bucket: str, key: str, ranges: Sequence[tuple[int, int]]
    ) -> list[bytes | None]:
        """Parts of one object, each by its first byte and how many; None if there is none."""
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
                return [None] * len(ranges)
            except ZooBridgeError:
                raise
            except Exception:
                pass  # Whatever it is that obstore cannot do, boto3 can, or says why not.
        return [self._read_boto3(bucket, key, range_) for range_ in ranges]

    def open(self, bucket: str, key: str) -> IO[bytes]:
        """A seekable file of an object's bytes, of which only what is wanted is fetched."""
        try:
            size = int(self.client.head_object(Bucket=bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if _code_of(error) in MISSING:
                self._see_bucket(bucket)
                raise FileNotFoundError(f"s3://{bucket}/{key}") from None
            error = self._in_words(error, self.client.get_object, bucket, Key=key)
            raise self._explain(error, bucket, key) from None
        except BotoCoreError as error:
            raise self._explain(error, bucket, key) from None
        return io.BufferedReader(_Remote(self, bucket, key, size), BUFFER)

    def list(self, bucket: str, prefix: str, one: str = "") -> Iterator[Listed]:
        """Every object below a prefix, in order; before them the one object `one`, if it is there.

        In the order of a listing nothing comes before it.
        """
        try:
            if one:
                first = self.client.list_objects_v2(Bucket=bucket, Prefix=one, MaxKeys=1)
                for item in first.get("Contents", []):
                    if item["Key"] == one:
                        yield item["Key"], item["Size"], item["ETag"]
            lister = self.client.get_paginator("list_objects_v2")
            for page in lister.paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield item["Key"], item["Size"], item["ETag"]
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, bucket, one or prefix) from None

    def download(self, bucket: str, key: str, path: Path) -> None:
        """Write an object's bytes to a file."""
        try:
            with path.open("wb") as file:
                self.client.download_fileobj(bucket, key, file)
        except (ClientError, BotoCoreError, OSError) as error:
            raise self._explain(error, bucket, key) from None

    def upload(self, path: Path, bucket: str, key: str) -> None:
        """Make an object of a file."""
        try:
            self.client.upload_file(str(path), bucket, key)
        except (ClientError, BotoCoreError, S3UploadFailedError) as error:
            raise self._explain(error, bucket, key, "s3:PutObject") from None

    def delete(self, bucket: str, key: str) -> None:
        """Take an object away; that it is not there is as good."""
        try:
            self.client.delete_object(Bucket=bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, bucket, key, "s3:DeleteObject") from None

    def check(self, bucket: str, key: str = "") -> None:
        """See that a bucket is there and may be read; raise as `Store.read` does."""
        try:
            self.client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _code_of(error) not in MISSING:
                error = self._in_words(error, self.client.list_objects_v2, bucket, MaxKeys=1)
            raise self._explain(error, bucket, key) from None
        except BotoCoreError as error:
            raise self._explain(error, bucket, key) from None

    def _read_boto3(
        self, bucket: str, key: str, part: tuple[int, int] | None = None
    ) -> bytes | None:
        more = {"Range": f"bytes={part[0]}-{part[0] + part[1] - 1}"} if part else {}

        def get() -> bytes:
            answer = self.client.get_object(Bucket=bucket, Key=key, **more)
            require_small(answer["ContentLength"])
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
                raise BadCutoutError("unreadable", _server_message(error)) from None
            raise trouble from None
        except (BotoCoreError, HTTPError, OSError) as error:
            raise self._explain(error, bucket, key) from None

    def _read_fast(self, bucket: str, key: str) -> bytes:
        got = self._bucket(bucket).get(key)
        require_small(got.meta["size"])
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
                address = self.client.meta.endpoint_url
                amazon = self.endpoint_url is None and ".amazonaws.com" in address
                config: Any = {} if amazon else {"endpoint": address}
                if self.requester_pays:
                    config["request_payer"] = True
                if self._unsigned:
                    config["skip_signature"] = True
                self._buckets[bucket] = S3Store(
                    bucket,
                    config=config,
                    region=self.client.meta.region_name or "us-east-1",
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

    def _see_bucket(self, bucket: str) -> None:
        """A missing object is one cutout lost; a missing bucket is a setting to correct."""
        if bucket not in self._seen:
            self.check(bucket)
            self._seen.add(bucket)

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
                f"{where} denies access to {bucket}/{key}: {_server_message(error)}.",
                self._hint(code, str(error), need),
            )
        return StorageError(
            f"{where} failed at {bucket}/{key}: {error}.",
            "Can this machine reach it? Run the same command again; what was done is kept.",
        )


def _say_who_pays(params: dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"


def _is_plain(key: str) -> bool:
    """Whether obstore takes a key as it is: it knows of no empty or dotted parts of a path."""
    return not {"", ".", ".."} & set(key.split("/"))


def _code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _server_message(error: Exception) -> str:
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
    return retry(get, ATTEMPTS, jittered(doubling(0.2, 10.0)), BROKEN_OFF)


class _Remote(io.RawIOBase):
    """An object of S3 as a file."""

    def __init__(self, server: S3, bucket: str, key: str, size: int) -> None:
        super().__init__()
        self._server = server
        self._bucket, self._key = bucket, key
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
        (data,) = self._server.ranges(self._bucket, self._key, [(self._at, length)])
        if data is None:
            raise FileNotFoundError(f"s3://{self._bucket}/{self._key}")
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
