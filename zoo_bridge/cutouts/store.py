"""Where cutouts live: S3 through boto3, the web, or the disk. Errors say what, where and why."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from zoo_bridge.errors import SettingsError, StorageError

MISSING = ("NoSuchKey", "404", "NotFound")


class Store:
    """Reads objects by URI: ``s3://bucket/key``, ``https://…``, ``file:///path`` or a plain path.

    Parameters
    ----------
    endpoint_url : str, optional
        For any S3 that is not Amazon's.
    threads : int
        How many connections to keep.
    """

    def __init__(self, endpoint_url: str | None = None, threads: int = 8) -> None:
        self.endpoint_url = endpoint_url
        self.threads = threads
        self._s3: Any = None

    @property
    def s3(self) -> Any:
        """The boto3 client, made when it is first needed; safe to share between threads."""
        if self._s3 is None:
            retries: Any = {"max_attempts": 6, "mode": "adaptive"}
            config = Config(
                max_pool_connections=self.threads,
                retries=retries,
                connect_timeout=10,
                read_timeout=60,
            )
            try:
                # A session of our own: the default one keeps the first credentials it saw.
                session = boto3.session.Session()
                self._s3 = session.client("s3", endpoint_url=self.endpoint_url, config=config)
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
        SettingsError
            If the bucket does not exist or access is denied.
        StorageError
            If S3 or the disk fails.
        """
        if uri.startswith(("http://", "https://")):
            return self._read_web(uri)
        bucket, key = split(uri)
        if bucket is None:
            try:
                return Path(key).read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise StorageError(f"{uri} cannot be read: {error.strerror}.") from None
        try:
            body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            return body
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING:
                return None
            raise self._explain(error, bucket, key) from None
        except (BotoCoreError, OSError) as error:
            raise self._explain(error, bucket, key) from None

    def _read_web(self, url: str) -> bytes | None:
        try:
            answer = self._web.get(url, timeout=(10, 60))
            if answer.status_code in (404, 410):
                return None
            answer.raise_for_status()
            return answer.content
        except requests.RequestException as error:
            raise StorageError(
                f"{url} cannot be read: {error}.",
                "Can this machine reach it? Run the same command again; what was done is kept.",
            ) from None

    @cached_property
    def _web(self) -> requests.Session:
        session = requests.Session()
        patience = Retry(5, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        adapter = HTTPAdapter(pool_maxsize=self.threads, max_retries=patience)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        return session

    def list(self, prefix: str) -> Iterator[str]:
        """The URI of every object below a prefix, in order.

        Raises
        ------
        SettingsError, StorageError
            As for `read`.
        """
        bucket, key = split(prefix)
        if bucket is None:
            yield from (str(path) for path in sorted(Path(key).rglob("*")) if path.is_file())
            return
        try:
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
            for page in pages:
                yield from (f"s3://{bucket}/{item['Key']}" for item in page.get("Contents", []))
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, bucket, key) from None

    def check(self, uri: str) -> None:
        """See that the bucket of a URI is there and may be read; raise as `read` does."""
        bucket, key = split(uri)
        if bucket is None:
            return
        try:
            self.s3.head_bucket(Bucket=bucket)
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, bucket, key) from None

    def _explain(self, error: Exception, bucket: str, key: str) -> SettingsError | StorageError:
        where = self.endpoint_url or "Amazon S3"
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
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
        if code in ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            return SettingsError(
                f"{where} denies access to {bucket}/{key} ({code}).",
                "The credentials need s3:GetObject and s3:ListBucket there.",
            )
        return StorageError(
            f"{where} failed at {bucket}/{key}: {error}.",
            "Can this machine reach it? Run the same command again; what was done is kept.",
        )


def split(uri: str) -> tuple[str | None, str]:
    """A URI's bucket and key; None and the path for one on disk."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return parts.netloc, uri.split(parts.netloc, 1)[1].lstrip("/")
    return None, parts.path if parts.scheme == "file" else uri


def join(base: str, key: str) -> str:
    """A key beside another object: a URI as it is, anything else in the base's folder."""
    if "://" in key or key.startswith("/"):
        return key
    return f"{base.rsplit('/', 1)[0]}/{key}" if "/" in base else key
