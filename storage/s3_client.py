"""One bucket through boto3: its URL, bounded requests, errors that say what to do. Shared by s3.py and s3_private.py.

    s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=NAME&…

Every upload is a single PUT with Content-MD5 (a multipart upload cannot be create-once); every download is bounded in size
and time, because the store is not trusted to end. Checksums beyond that are sent and expected only where an operation
requires them: older gateways refuse botocore's defaults. Credentials come from AWS's environment variables and files alone;
none is ever in a URL or a message.
"""

import base64
import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConnectionClosedError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from storage.errors import BadPlace, MissingObject, StorageError, StoreDenied, StoreFull, StoreUnavailable, StoreUnsuitable
from storage.object_store import oversized

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*")
_CHUNK = 1 << 20
_ABSENT = {"404", "NoSuchKey", "NotFound", "NoSuchVersion"}
_DENIED = {
    "401", "403", "AccessDenied", "AllAccessDisabled", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
}
_FULL = {"507", "InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}
EXISTS = {"412", "PreconditionFailed"}
BUSY = {"409", "ConditionalRequestConflict", "ConcurrentModification"}
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound, ConfigNotFound)
_DOWN = (
    HTTPClientError, EndpointConnectionError, ReadTimeoutError, ConnectionClosedError, ResponseStreamingError, IncompleteReadError,
    HTTPError, TimeoutError, ConnectionError,
)


@dataclass(frozen=True)
class Limits:
    """Seconds to connect, between two pieces of an answer, and for one object in all; attempts at one request."""

    connect: float = 10.0
    read: float = 60.0
    total: float = 900.0
    attempts: int = 4


@dataclass(frozen=True)
class Place:
    """Where a bucket is: what its URL says. `prefix` is empty or ends in a slash; options are those the caller allowed."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    options: Mapping[str, str]

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/") + (f" at {self.endpoint}" if self.endpoint else "")


def parse_place(url: str, setting: str, options: tuple[str, ...]) -> Place:
    """A bucket's URL; `setting` names the key in the error, and anything like a credential is refused without being shown."""
    form = "&".join(f"{name}=…" for name in ("endpoint", "region", *options))
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        endpoint = urlsplit(dict(query).get("endpoint", ""))
        _ = endpoint.port
    except ValueError:
        raise BadPlace(f"{setting} cannot be read as an S3 URL: use s3://BUCKET/PREFIX?{form}") from None
    if "@" in parts.netloc or "@" in endpoint.netloc:
        raise BadPlace(
            f"{setting} holds credentials, which must not be in a URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use "
            "AWS's credentials file"
        )
    names = [name for name, _ in query]
    unknown = sorted(set(names) - {"endpoint", "region", *options})
    if unknown or len(set(names)) != len(names):
        shown = ", ".join(unknown) or "an option twice"
        raise BadPlace(f"{setting} has {shown}: use s3://BUCKET/PREFIX?{form}. Credentials do not belong there")
    prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or not _PREFIX.fullmatch(prefix) or parts.fragment:
        raise BadPlace(
            f"{setting} names no bucket and prefix: use s3://BUCKET/PREFIX?{form}, with a bucket of 3 to 63 lower-case letters, "
            "digits, '.' and '-'"
        )
    values = dict(query)
    if "endpoint" in values and (endpoint.scheme not in ("http", "https") or not endpoint.hostname or endpoint.query):
        raise BadPlace(f"{setting}: endpoint is no web address: use endpoint=http://HOST:PORT or https://HOST")
    chosen = {name: values[name] for name in options if name in values}
    return Place(parts.netloc, prefix, values.get("endpoint"), values.get("region"), chosen)


@functools.cache
def _descriptions() -> Any:
    """AWS's service descriptions, megabytes of JSON: parsed once in a process, not for every client."""
    return botocore.loaders.create_loader()


def s3_session() -> boto3.session.Session:
    """A session of its own, which reads credentials anew."""
    session = botocore.session.Session()
    session.register_component("data_loader", _descriptions())
    return boto3.session.Session(botocore_session=session)


class Bucket:
    """Requests on one bucket; keys are relative to the place's prefix. Safe for several threads."""

    def __init__(self, place: Place, limits: Limits | None = None) -> None:
        self.place, self.where = place, str(place)
        self.limits = limits or Limits()
        with self.explained("open"):
            region = place.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
            self.client: Any = s3_session().client(
                "s3", endpoint_url=place.endpoint, region_name=region, config=Config(
                    connect_timeout=self.limits.connect, read_timeout=self.limits.read, max_pool_connections=32,
                    retries={"mode": "standard", "total_max_attempts": self.limits.attempts}, signature_version="s3v4",
                    request_checksum_calculation="when_required", response_checksum_validation="when_required",
                    s3={"addressing_style": "path" if place.endpoint else "auto"},
                ),
            )

    def name(self, key: str) -> dict[str, str]:
        """Bucket and key as boto3 wants them."""
        return {"Bucket": self.place.bucket, "Key": self.place.prefix + key}

    def create(self, key: str, data: bytes, **more: Any) -> bool:
        """Create one key; False if it is there already (it may hold anything)."""
        for attempt in range(self.limits.attempts):
            try:
                with self.explained(key):
                    self.client.put_object(**self.name(key), Body=data, ContentMD5=_md5(data), IfNoneMatch="*", **more)
                    return True
            except Refused as refusal:
                if refusal.code in EXISTS:
                    return False
                if refusal.code not in BUSY:
                    raise
                time.sleep(0.1 * 2**attempt)  # two writers at once: one of them wins, and then the key exists
        raise StoreUnavailable(f"{self.where}: {key} is being written by others all the time. Try again")

    def put(self, key: str, data: bytes, **more: Any) -> None:
        """Write or replace one key."""
        with self.explained(key):
            self.client.put_object(**self.name(key), Body=data, ContentMD5=_md5(data), **more)

    def chunks(self, key: str, what: str, missing: str, cap: int, version: str = "") -> Iterator[bytes]:
        """The bytes of one key, never more than `cap` of them and never for longer than the limits say."""
        with self.explained(key, missing):
            until = time.monotonic() + self.limits.total
            answer = self.client.get_object(**self.name(key), **({"VersionId": version} if version else {}))
            size, announced = 0, int(answer["ContentLength"])
            if announced > cap:
                raise oversized(what, announced, self.where)
            with contextlib.closing(answer["Body"]) as body:
                # read1 returns what has arrived; StreamingBody.read waits for a full piece, for as long as bytes trickle in
                while chunk := body._raw_stream.read1(min(_CHUNK, announced + 1 - size)):
                    size += len(chunk)
                    yield chunk
                    if time.monotonic() > until:
                        raise StoreUnavailable(f"{self.where}: {what} did not arrive within {self.limits.total:g} s, {size:,} bytes did")
            if size != announced:
                raise StoreUnavailable(f"{self.where}: {what} broke off after {size:,} of {announced:,} bytes. Try again")

    def has(self, key: str) -> bool:
        """Whether a key exists."""
        try:
            with self.explained(key, "absent"):
                self.client.head_object(**self.name(key))
                return True
        except MissingObject:
            return False

    def list(self, prefix: str = "") -> Iterator[str]:
        """All keys below `prefix`, in order."""
        full = self.place.prefix + prefix
        with self.explained(f"list {prefix}"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.place.bucket, Prefix=full):
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self.place.prefix)

    def versions(self, key: str) -> Iterator[str]:
        """The ids of all versions of a key, if the bucket keeps them, newest first."""
        with self.explained(key):
            pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.place.bucket, Prefix=self.place.prefix + key)
            for page in pages:
                for item in page.get("Versions", []):
                    if item["Key"] == self.place.prefix + key:
                        yield item["VersionId"]

    @contextlib.contextmanager
    def explained(self, key: str, missing: str = "") -> Iterator[None]:
        """Turn what boto3 raises into a storage error that says what to do; `missing` is the text for an absent key."""
        try:
            yield
        except ClientError as error:
            raise self._explain(error, key, missing) from None
        except _NO_CREDENTIALS as error:
            raise StoreDenied(
                f"{self.where}: there are no usable credentials ({type(error).__name__}): set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from None
        except _DOWN as error:
            raise StoreUnavailable(
                f"{self.where} does not answer ({type(error).__name__}) after {self.limits.attempts} attempts. Nothing recorded so far "
                "is lost: see whether the store is up and the endpoint is right, and start the same command again"
            ) from None
        except (BotoCoreError, ValueError) as error:
            raise StorageError(f"{self.where}: {key} cannot be asked for: {error}") from None

    def _explain(self, error: ClientError, key: str, missing: str) -> StorageError:
        details = error.response.get("Error", {})
        code, status = str(details.get("Code", "")), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        names = {code, str(status)}
        if code == "NoSuchBucket":
            return StoreUnsuitable(f"{self.where}: there is no such bucket. Create it, or correct the URL")
        if names & _ABSENT:
            return MissingObject(missing or f"{key} is not in {self.where}")
        if names & _FULL:
            return StoreFull(
                f"{self.where}: no space left, or the quota is used up ({code}). Nothing recorded so far is lost: free some space "
                "and start the same command again; it continues where it stopped"
            )
        if names & EXISTS or names & BUSY:
            return Refused(f"{self.where}: {key}: the store refused the request ({code})", code if code in EXISTS | BUSY else str(status))
        if code == "RequestTimeTooSkewed":
            return StoreDenied(f"{self.where}: this machine's clock and the store's differ too much: set the clock")
        if names & _DENIED:
            return StoreDenied(
                f"{self.where}: access denied ({code or status}) for {key}. Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or "
                "AWS_PROFILE), and that this account may do this on the bucket"
            )
        if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling", "ServiceUnavailable"):
            return StoreUnavailable(f"{self.where} reports {code or status} after {self.limits.attempts} attempts. Try again later")
        return StorageError(f"{self.where}: {key}: the store answers {code or status}: {str(details.get('Message', ''))[:200]}")


class Refused(StorageError):
    """A condition of a request was not met; `code` says which."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def _md5(data: bytes) -> str:
    """Content-MD5: against accidents on the way; the content's name is its SHA-256."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
