"""The object store: `STORAGE_URL=s3://bucket/prefix`, which holds the same names as the data folder.

    store = objects.store()
    if store is not None:
        store.put("doodles/images/ab/ab12….png", data)

Without STORAGE_URL there is none, and the data folder is all there is. Keys, endpoint and region are the AWS_ variables
that every S3 client reads. What is put is checked by the server against its SHA-256 and is whole or absent; what is
got is checked against the same. Nothing here waits long: core.patience is for those who can.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from core import telemetry
from core.errors import ConfigurationError, Unavailable
from core.settings import Settings, settings
from core.storage import replacing

CONNECT_SECONDS = 3
READ_SECONDS = 5  # between two packets, not for a whole object
AT_ONCE = 16  # requests of bring_all
UPLOAD_HOURS = 24  # an upload in parts that is older was given up by a process that is gone

# What the server says when the request itself can never work: what to look at.
_SETTINGS_AT_FAULT = {
    "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID is not known there",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not the one of AWS_ACCESS_KEY_ID",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's by more than 15 minutes; set it",
    "AccessDenied": "the key may not do that; give it the right to read, write, list and delete there",
    "NoSuchBucket": "the bucket is not there; `emend storage` makes it",
    "InvalidBucketName": "the bucket's name in STORAGE_URL is not one that S3 takes",
}

_T = TypeVar("_T")
_log = telemetry.get_logger("objects")


class StoreUnavailable(Unavailable):
    """The object store does not answer, or refuses; the message says which and what to look at."""

    code = "store_unavailable"


class Damaged(StoreUnavailable):
    """What the store sent is not what was stored."""


class _Missing(Exception):
    """There is no such object."""


@dataclass(frozen=True)
class Listed:
    name: str
    size_bytes: int
    modified_at: datetime


class Objects:
    """An object store below one address. Threads may share it.

    Names are relative, with `/`. Every method raises StoreUnavailable.
    """

    def __init__(self, url: str, *, endpoint: str | None = None, links_url: str | None = None) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self.bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._endpoint, self._links_url = endpoint, links_url or endpoint

    @cached_property
    def _client(self) -> Any:
        return _client(self._endpoint)

    @property
    def where(self) -> str:
        """For people: no keys in it."""
        return f"{self.url} at {self._endpoint}" if self._endpoint else self.url

    def put(self, name: str, data: bytes) -> None:
        """Returns when the server has it, whole."""
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with self._told("store", name):
            self._client.put_object(
                Bucket=self.bucket, Key=self._key(name), Body=data, ChecksumSHA256=checksum
            )

    def put_file(self, name: str, path: Path) -> None:
        """Large files go in parts; a file that grows meanwhile is put as it was or as it is."""
        if path.stat().st_size <= 8_000_000:
            self.put(name, path.read_bytes())
            return
        with self._told("store", name):
            self._client.upload_file(str(path), self.bucket, self._key(name))

    def get(self, name: str) -> bytes | None:
        """None: there is no such object."""
        try:
            with self._told("fetch", name):
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name))
                data: bytes = answer["Body"].read()
                return data
        except _Missing:
            return None

    def get_file(self, name: str, path: Path) -> bool:
        """Whole, or not at all. False: there is no such object."""
        try:
            with replacing(path) as temporary, self._told("fetch", name):
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name))
                with temporary.open("wb") as file:
                    for chunk in answer["Body"].iter_chunks(1 << 20):
                        file.write(chunk)
        except _Missing:
            return False
        return True

    def etag(self, name: str) -> str | None:
        """Changes with the object. None: there is no such object."""
        try:
            with self._told("look at", name):
                return str(self._client.head_object(Bucket=self.bucket, Key=self._key(name))["ETag"])
        except _Missing:
            return None

    def remove(self, names: Iterable[str]) -> None:
        """Those that are not there are no error."""
        keys = [{"Key": self._key(name)} for name in names]
        with self._told("remove", f"{len(keys)} objects"):
            for start in range(0, len(keys), 1000):  # as many as S3 takes at once
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys[start : start + 1000], "Quiet": True}
                )
                failed = [each for each in answer.get("Errors", []) if each.get("Code") != "NoSuchKey"]
                if failed:
                    first = failed[0]
                    raise StoreUnavailable(
                        f"cannot remove {first.get('Key')} and {len(failed) - 1} more: the object store {self.where} "
                        f"does not do it ({first.get('Code')})"
                    )

    def list(self, prefix: str) -> list[Listed]:
        """All below a folder."""
        cut = len(self._key(""))
        folder = self._key(prefix).rstrip("/")
        with self._told("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{folder}/" if folder else ""
            )
            return [
                Listed(each["Key"][cut:], int(each["Size"]), each["LastModified"])
                for page in pages
                for each in page.get("Contents", [])
            ]

    def link(self, name: str, file_name: str, seconds: int) -> str:
        """An address that gives this one object to whoever has it, until then; a browser saves it as `file_name`."""
        client = _client(self._links_url)
        parameters = {
            "Bucket": self.bucket,
            "Key": self._key(name),
            "ResponseContentDisposition": f'attachment; filename="{file_name}"',
        }
        url: str = client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)
        return url

    def prepare(self, *, make: bool = True) -> bool:
        """Makes the bucket if it is not there, and tries whether it can be written. True when it was made.

        make: False to be told of a missing bucket instead.

        Raises ConfigurationError when a setting is at fault, StoreUnavailable when nobody answers.
        """
        from botocore.exceptions import ClientError

        client = self._client
        made = False
        try:
            try:
                client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)  # unlike a HEAD, it says why not
            except ClientError as exc:
                if not make or exc.response["Error"]["Code"] != "NoSuchBucket":
                    raise
                client.create_bucket(Bucket=self.bucket)
                made = True
            client.put_object(Bucket=self.bucket, Key=self._key(".probe"), Body=b"")
            client.delete_object(Bucket=self.bucket, Key=self._key(".probe"))
        except ClientError as exc:
            code = str(exc.response["Error"]["Code"])
            why = _SETTINGS_AT_FAULT.get(code, exc.response["Error"].get("Message", "no reason given"))
            raise ConfigurationError(
                f"the object store {self.where} refuses ({code}): {why}; see STORAGE_URL in docs/configuration.md"
            ) from exc
        except Exception as exc:
            raise self._unavailable("look at", self.bucket, exc) from exc
        return made

    def abort_old_uploads(self) -> int:
        """Uploads in parts that a killed process left behind: S3 keeps, and bills, their parts for ever."""
        before = datetime.now(UTC) - timedelta(hours=UPLOAD_HOURS)
        client = self._client
        aborted = 0
        with self._told("list", "unfinished uploads"):
            pages = client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self._key("")
            )
            try:
                for upload in (each for page in pages for each in page.get("Uploads", [])):
                    if upload["Initiated"] < before:
                        client.abort_multipart_upload(
                            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        aborted += 1
            # Ended meanwhile; or how some servers say that there are none.
            except client.exceptions.NoSuchUpload:
                pass
        return aborted

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextmanager
    def _told(self, verb: str, name: str) -> Iterator[None]:
        """Whatever a client of S3 raises, as StoreUnavailable, or _Missing; what this disk says goes through."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            FlexibleChecksumError,
            HTTPClientError,
        )

        try:
            yield
        except ClientError as exc:
            code = str(exc.response["Error"]["Code"])
            # Of S3 itself: a HEAD has no body to say it in. A proxy's plain 404 says nothing of the object.
            if code == {"fetch": "NoSuchKey", "look at": "404"}.get(verb):
                raise _Missing(name) from exc
            if code == "NoSuchBucket":
                raise StoreUnavailable(
                    f"cannot {verb} {name}: the bucket {self.bucket} is not there; `emend storage` makes it"
                ) from exc
            raise self._unavailable(verb, name, exc, code) from exc
        except FlexibleChecksumError as exc:
            raise Damaged(f"cannot {verb} {name}: it is damaged in the object store {self.where}") from exc
        except (BotoCoreError, HTTPClientError, Boto3Error) as exc:
            raise self._unavailable(verb, name, exc) from exc

    def _unavailable(self, verb: str, name: str, exc: Exception, code: str | None = None) -> StoreUnavailable:
        why = code or type(exc).__name__
        return StoreUnavailable(f"cannot {verb} {name}: the object store {self.where} does not do it ({why})")


def store() -> Objects | None:
    """This deployment's."""
    return _store(settings())


@lru_cache(maxsize=1)
def _store(chosen: Settings) -> Objects | None:
    if chosen.storage_url is None:
        return None
    for name, value in (
        ("AWS_ACCESS_KEY_ID", chosen.aws_access_key_id),
        ("AWS_SECRET_ACCESS_KEY", chosen.aws_secret_access_key),
        ("AWS_ENDPOINT_URL", chosen.aws_endpoint_url),
        ("AWS_DEFAULT_REGION", chosen.aws_region),
    ):
        if value is not None:  # .env may hold them: DVC, MLflow and boto3 look into the environment only
            os.environ[name] = value if isinstance(value, str) else value.get_secret_value()
    return Objects(chosen.storage_url, endpoint=chosen.aws_endpoint_url, links_url=chosen.storage_links_url)


def in_parallel(work: Callable[[_T], None], items: Sequence[_T]) -> None:
    """Requests that wait for the network more than they work. The first error is raised when all have ended."""
    if len(items) <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(min(AT_ONCE, len(items)), thread_name_prefix="objects") as pool:
        list(pool.map(work, items))


def _client(endpoint: str | None) -> Any:
    import boto3
    from botocore.config import Config

    options = _client_options(endpoint)
    session = boto3.session.Session()  # the default one would keep the keys it first saw
    return session.client("s3", endpoint_url=endpoint, config=Config(signature_version="s3v4", **options))


def _client_options(endpoint: str | None) -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": 2 * AT_ONCE,
        # Amazon wants bucket names in the host's, everybody else in the path.
        "s3": {"addressing_style": "path" if endpoint else "auto"},
    }
