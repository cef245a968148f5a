"""What only a bucket has: its URL, the start-up probe, object lock, versions, links; and every way in which a store fails."""

import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from storage.errors import (
    IntegrityError,
    MissingObject,
    StorageConflict,
    StorageError,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
    StoreUnsuitable,
)
from storage.object_store import digest_of, open_object_store
from storage.s3 import S3ObjectStore, parse_s3_url
from storage.s3_client import Limits
from tests.support.buckets import BUCKETS, admin, new_bucket, s3_server

DIGEST = "a" * 64


@pytest.fixture(params=BUCKETS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server(request.param, monkeypatch) as query:
        yield query


def url(bucket: str, query: str, *options: str) -> str:
    return f"s3://{bucket}/audit" + "?" * bool(query or options) + "&".join([*filter(None, [query[1:]]), *options])


# URLs -----------------------------------------------------------------------------------------------------------------


def test_a_url_says_where() -> None:
    place = parse_s3_url("s3://my-bucket/a/b/?endpoint=https://host:8443&region=eu-1&lock=COMPLIANCE:30d&versioning=on", "storage.objects")
    assert (place.bucket, place.prefix, place.endpoint, place.region) == ("my-bucket", "a/b/", "https://host:8443", "eu-1")
    assert place.options == {"lock": "COMPLIANCE:30d", "versioning": "on"} and str(place) == "s3://my-bucket/a/b at https://host:8443"
    assert parse_s3_url("s3://bucket", "storage.objects").prefix == ""


@pytest.mark.parametrize(("text", "part"), [
    ("s3:", "bucket"), ("s3://", "bucket"), ("s3:///x", "bucket"), ("s3://Bucket", "bucket"), ("s3://b", "bucket"),
    ("s3://bucket/../x", "prefix"), ("s3://bucket/a//b", "prefix"), ("s3://bucket/.x", "prefix"),
    ("s3://bucket?endpoint", "S3 URL"), ("s3://bucket?endpoint=host", "web address"),
    ("s3://bucket?endpoint=http://h:p", "S3 URL"), ("s3://bucket?endpoint=ftp://h", "web address"),
    ("s3://bucket?color=red", "color"), ("s3://bucket?region=a&region=b", "twice"),
    ("s3://bucket?lock=30d", "COMPLIANCE:30d"), ("s3://bucket?lock=COMPLIANCE:0d", "COMPLIANCE:30d"),
    ("s3://bucket?versioning=off", "versioning=on"), ("s3://[bucket", "S3 URL"),
])
def test_a_bad_url_is_refused_before_anything_is_asked(text: str, part: str) -> None:
    with pytest.raises(StorageError, match=part) as caught:
        open_object_store(text)
    assert "storage.objects" in str(caught.value)


@pytest.mark.parametrize("text", [
    "s3://AKIAXX:hunter2@bucket", "s3://bucket?endpoint=http://me:hunter2@host", "s3://bucket?secret=hunter2", "s3://bucket?aws_secret_access_key=hunter2",
])
def test_credentials_in_a_url_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(StorageError, match="redentials") as caught:
        open_object_store(text)
    assert "hunter2" not in str(caught.value) and "AKIAXX" not in str(caught.value)


# what a bucket must have ----------------------------------------------------------------------------------------------


@pytest.mark.gateway
def test_a_versioned_bucket_that_forgets_create_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server("gateway", monkeypatch) as query:
        bucket = new_bucket(query)
        admin(query).put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        with pytest.raises(StoreUnsuitable, match="create-once"):
            open_object_store(url(bucket, query, "versioning=on"))


def test_the_probe_leaves_one_small_key_and_can_be_repeated(server: str) -> None:
    bucket = new_bucket(server)
    for _ in range(3):
        open_object_store(url(bucket, server))
    assert [item["Key"] for item in admin(server).list_objects_v2(Bucket=bucket)["Contents"]] == ["audit/create-once"]


def test_a_store_that_drops_if_none_match_is_refused(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = new_bucket(server)
    from storage.s3_client import Bucket

    made = Bucket.__init__

    def behind_a_proxy(self: Bucket, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        put = self.client.put_object
        self.client.put_object = lambda **more: put(**{name: value for name, value in more.items() if name != "IfNoneMatch"})

    monkeypatch.setattr(Bucket, "__init__", behind_a_proxy)
    with pytest.raises(StoreUnsuitable, match="create-once"):
        open_object_store(url(bucket, server))
    open_object_store(url(bucket, server), read_only=True)  # a reader does not care


def test_object_lock_keeps_every_object(server: str) -> None:
    bucket = new_bucket(server, ObjectLockEnabledForBucket=True)
    store = open_object_store(url(bucket, server, "lock=COMPLIANCE:2d", "versioning=on"))
    digest = store.put(b"proof")
    client = admin(server)
    where = {"Bucket": bucket, "Key": f"audit/{digest[:2]}/{digest}"}
    (version,) = client.list_object_versions(Bucket=bucket, Prefix=where["Key"])["Versions"]
    head = client.head_object(**where)
    assert head["ObjectLockMode"] == "COMPLIANCE"
    assert 1.9 * 86400 < head["ObjectLockRetainUntilDate"].timestamp() - time.time() < 2.1 * 86400
    with pytest.raises(ClientError, match="AccessDenied|Forbidden|WORM|locked"):
        client.delete_object(**where, VersionId=version["VersionId"])
    client.delete_object(**where)  # hides it; the version stays
    with pytest.raises(MissingObject):
        store.get(digest)
    assert store.recover(digest) == b"proof" and store.recover(DIGEST) is None
    assert store.restore(b"proof") == "" and store.get(digest) == b"proof"
    client.put_object(**where, Body=b"overwritten")
    with pytest.raises(IntegrityError, match=digest):
        store.get(digest)
    assert store.recover(digest) == b"proof"
    store.publish("log/tile/0/000", b"hashes")
    with pytest.raises(StorageConflict):
        store.publish("log/tile/0/000", b"other")


@pytest.mark.parametrize(("option", "part"), [("lock=COMPLIANCE:1d", "object lock"), ("versioning=on", "versioning")])
def test_a_bucket_without_what_the_url_asks_for_is_refused(server: str, option: str, part: str) -> None:
    with pytest.raises(StoreUnsuitable, match=part):
        open_object_store(url(new_bucket(server), server, option))


def test_a_link_reads_one_object_without_credentials(server: str) -> None:
    store = open_object_store(url(new_bucket(server), server))
    assert isinstance(store, S3ObjectStore)
    digest, other = store.put(b"proof"), store.put(b"other")
    link = store.link(digest, 60)
    if server:  # moto serves no sockets
        with urllib.request.urlopen(link, timeout=10) as answer:
            assert answer.read() == b"proof"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(link.replace(digest[2:], other[2:]).replace(digest[:2] + "/", other[:2] + "/"), timeout=10)
        short = store.link(digest, 1)
        time.sleep(2.1)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(short, timeout=10)
    assert digest in link and "testing-secret" not in link
    for seconds in (0, -1, 8 * 86400):
        with pytest.raises(StorageError, match="valid for"):
            store.link(digest, seconds)


# a store that fails ---------------------------------------------------------------------------------------------------


def test_no_such_bucket(server: str) -> None:
    with pytest.raises(StoreUnsuitable, match="no such bucket"):
        open_object_store(url("test-absent-bucket", server))


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreDenied, match="AWS_ACCESS_KEY_ID"):
        open_object_store("s3://bucket/x?endpoint=http://127.0.0.1:9")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreDenied, match="AWS_PROFILE"):
        open_object_store("s3://bucket/x?endpoint=http://127.0.0.1:9")


@pytest.mark.parametrize("persisted", [False, True])
def test_a_write_that_failed_or_seemed_to_is_repeated(server: str, persisted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = new_bucket(server)
    store = open_object_store(url(bucket, server))
    assert isinstance(store, S3ObjectStore)
    real, failed = store._bucket.client.put_object, []

    def fails(**request: object) -> object:
        if persisted:
            real(**request)
        failed.append(request["Key"])
        raise ReadTimeoutError(endpoint_url="http://store")

    def replace() -> None:
        store.publish("log/x", b"c", replace=True)

    for use in (lambda: store.put(b"proof"), lambda: store.publish("log/tile/0/000", b"t"), replace):
        monkeypatch.setattr(store._bucket.client, "put_object", fails)
        with pytest.raises(StoreUnavailable):
            use()
        monkeypatch.setattr(store._bucket.client, "put_object", real)
        use()
    digest = digest_of(b"proof")
    assert len(failed) == 3 and store.get(digest) == b"proof" and (store.read("log/tile/0/000"), store.read("log/x")) == (b"t", b"c")
    keys = {item["Key"] for item in admin(server).list_objects_v2(Bucket=bucket)["Contents"]}
    assert keys == {f"audit/{name}" for name in ("create-once", "log/tile/0/000", "log/x", f"{digest[:2]}/{digest}")}


@pytest.mark.gateway
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with s3_server("gateway", monkeypatch) as query:
        bucket = new_bucket(query)
        monkeypatch.setenv(name, "0" * 20)
        with pytest.raises(StoreDenied, match="access denied") as caught:
            open_object_store(url(bucket, query))
    assert "0" * 20 not in str(caught.value)


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def failing_server(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """A web server that answers everything in one way; its endpoint and the requests seen."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with contextlib.suppress(OSError):
                answer(self)

        do_PUT = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def credentials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "gateway" not in request.node.name and request.node.get_closest_marker("gateway") is None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")


def refuse(status: int, code: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = b"" if handler.command == "HEAD" else f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def serve(size: int, pieces: list[tuple[float, bytes]]) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        for seconds, piece in pieces:
            time.sleep(seconds)
            handler.wfile.write(piece)
            handler.wfile.flush()
        handler.close_connection = True

    return answer


def reader(endpoint: str, **limits: float) -> S3ObjectStore:
    values = {"connect": 1.0, "read": 0.4, "total": 1.0, "attempts": 2} | limits
    return S3ObjectStore(parse_s3_url(f"s3://bucket?endpoint={endpoint}", "storage.objects"), read_only=True, limits=Limits(**values))


@pytest.mark.parametrize(("status", "code", "kind", "requests"), [
    (403, "AccessDenied", StoreDenied, 1), (403, "SignatureDoesNotMatch", StoreDenied, 1), (403, "RequestTimeTooSkewed", StoreDenied, 1),
    (403, "QuotaExceeded", StoreFull, 1), (507, "InsufficientStorage", StoreFull, 1), (503, "SlowDown", StoreUnavailable, 2),
    (500, "InternalError", StoreUnavailable, 2), (404, "NoSuchBucket", StoreUnsuitable, 1), (404, "NoSuchKey", MissingObject, 1),
    (418, "Teapot", StorageError, 1),
])
def test_each_refusal_has_its_error(status: int, code: str, kind: type, requests: int) -> None:
    with failing_server(refuse(status, code)) as (endpoint, seen):
        store = reader(endpoint)
        for use in (lambda: store.check(DIGEST), lambda: store.publish("log/x", b"x" * 100, replace=True)):
            seen.clear()
            with pytest.raises(StorageError) as caught:
                use()
            assert type(caught.value) is kind and len(seen) == requests and "testing-secret" not in str(caught.value)


def test_a_store_that_is_down() -> None:
    with failing_server(refuse(200, "")) as (endpoint, _):
        pass
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="start the same command again"):
        reader(endpoint).get(DIGEST)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("pieces", [[(2.0, b"late")], [(0.0, b"x" * 10), (2.0, b"late")], [(0.0, b"x" * 10)], [(0.25, b"x")] * 20])
def test_a_store_that_is_slow_or_stops_is_left(pieces: list[tuple[float, bytes]]) -> None:
    with failing_server(serve(1000, pieces)) as (endpoint, _):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            reader(endpoint).get(DIGEST)
        assert time.monotonic() - started < 3


def test_a_store_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.s3.MAX_OBJECT", 1 << 20)
    with failing_server(serve(1 << 40, [(0.0, b"x")])) as (endpoint, _), pytest.raises(StorageError, match="tampered"):
        reader(endpoint).get(DIGEST)
