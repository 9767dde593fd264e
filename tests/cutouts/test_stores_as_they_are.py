"""Servers as they are: public, paid for by who asks, refusing for reasons of their own.

The servers here are the least that speaks the protocol, each with a rule of its own; what S3 says
in its answers is copied from Amazon's documentation of error responses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from zoo_bridge.cutouts.packed import tar_members
from zoo_bridge.cutouts.store import BadCutoutError, Store
from zoo_bridge.errors import SettingsError, StorageError

Rule = Callable[[str, str, dict[str, str]], tuple[int, str, str] | None]
OBJECTS = {
    "cutouts/g1.fits": b"one",
    "cutouts/.hidden.fits": b"no",
    "cutouts/._g1.fits": b"no",
    "cutouts/__MACOSX/g1.fits": b"no",
    "cutouts-old/g1.fits": b"old",
    "cutouts2/g1.fits": b"two",
    "/slash/g1.fits": b"slash",
    "a//b.fits": b"double",
    "shard.tar": b"tar",
}


class Server:
    """A web server, or the least of an S3: bucket ``b``; ``rule`` says what is refused."""

    def __init__(self, s3: bool) -> None:
        self.rule: Rule = lambda verb, key, headers: None
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, code: int, body: bytes = b"") -> None:
                self.send_response(code)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"x"')
                self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = urlsplit(self.path)
                headers = {key.lower(): value for key, value in self.headers.items()}
                key = unquote(parts.path).removeprefix("/b").removeprefix("/") if s3 else self.path
                outer.seen.append((self.command, key, headers))
                if said := outer.rule(self.command, key, headers):
                    code, name, words = said
                    xml = f"<Error><Code>{name}</Code><Message>{words}</Message></Error>"
                    return self.answer(code, xml.encode())
                if not s3:
                    return self.answer(200, b"fine")
                if "list-type" in parse_qs(parts.query):
                    prefix = parse_qs(parts.query).get("prefix", [""])[0]
                    most = int(parse_qs(parts.query).get("max-keys", ["1000"])[0])
                    names = sorted(name for name in OBJECTS if name.startswith(prefix))[:most]
                    items = "".join(
                        f'<Contents><Key>{name}</Key><Size>{len(OBJECTS[name])}</Size><ETag>"x"'
                        "</ETag><LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
                        for name in names
                    )
                    told = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}"
                    return self.answer(200, f"{told}</ListBucketResult>".encode())
                if not key or self.command == "PUT":
                    return self.answer(200)
                if key in OBJECTS:
                    return self.answer(200, OBJECTS[key])
                missing = b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"
                return self.answer(404, missing)

            do_GET = do_HEAD = do_PUT = do

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-another-place")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-another-place")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    server = Server(s3=True)
    yield server
    server.stop()


@pytest.fixture
def web() -> Iterator[Server]:
    server = Server(s3=False)
    yield server
    server.stop()


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def read_all(store: Store) -> None:
    store.check("s3://b/cutouts/")
    assert [entry.uri for entry in store.walk("s3://b/cutouts")] == ["s3://b/cutouts/g1.fits"]
    assert store.read("s3://b/cutouts/g1.fits") == b"one"
    assert store.open("s3://b/cutouts/g1.fits").read() == b"one"


def public(verb: str, key: str, headers: dict[str, str]) -> tuple[int, str, str] | None:
    if "authorization" in headers:
        return 403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."
    return None


@pytest.mark.parametrize("fast", [True, False])
def test_a_public_bucket_is_read_without_signing(
    s3: Server, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.rule = public
    read_all(Store(s3.url, fast=fast, anonymous=True))
    with pytest.raises(SettingsError, match=r"does not exist \(InvalidAccessKeyId\)") as caught:
        Store(s3.url, fast=fast).check("s3://b/")
    assert "survey.anonymous" in caught.value.hint
    # Whoever has no credentials need not say so.
    without_credentials(monkeypatch)
    read_all(Store(s3.url, fast=fast))
    s3.rule = lambda verb, key, headers: (403, "AccessDenied", "Access Denied")
    with pytest.raises(SettingsError, match="Access Denied") as caught:
        Store(s3.url, fast=fast).read("s3://b/cutouts/g1.fits")
    assert "There are no credentials" in caught.value.hint


@pytest.mark.parametrize("fast", [True, False])
def test_who_asks_pays(s3: Server, fast: bool) -> None:
    s3.rule = lambda verb, key, headers: (
        None
        if headers.get("x-amz-request-payer") == "requester"
        else (403, "AccessDenied", "Access Denied")
    )
    read_all(Store(s3.url, fast=fast, requester_pays=True))
    with pytest.raises(SettingsError, match="Access Denied") as caught:
        Store(s3.url, fast=fast).read("s3://b/cutouts/g1.fits")
    assert "survey.requester_pays" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "code", "words", "hint"),
    [
        (403, "AccessDenied", "not authorized to perform: kms:Decrypt on resource", "kms:Decrypt"),
        (403, "RequestTimeTooSkewed", "The difference between the request time …", "clock"),
        (400, "ExpiredToken", "The provided token has expired.", "new credentials"),
        (403, "AccountProblem", "There is a problem with your account.", "s3:GetObject"),
    ],
)
def test_a_refusal_shows_the_servers_own_sentence(
    s3: Server, status: int, code: str, words: str, hint: str
) -> None:
    s3.rule = lambda verb, key, headers: (status, code, words)
    store = Store(s3.url)
    for ask in (store.check, store.read, store.open, lambda uri: list(store.walk(uri))):
        with pytest.raises(SettingsError) as caught:
            ask("s3://b/cutouts/g1.fits")  # type: ignore[operator]
        assert words.rstrip(".") in caught.value.message, ask
        assert hint in caught.value.hint


def test_no_checksum_is_sent_to_a_server_that_may_not_know_it(s3: Server, tmp_path: Path) -> None:
    s3.rule = lambda verb, key, headers: (
        (400, "NotImplemented", "A header you provided implies functionality …")
        if any("checksum" in f"{name}{headers.get('x-amz-trailer', '')}" for name in headers)
        else None
    )
    (tmp_path / "x").write_bytes(b"data")
    Store(s3.url).put(tmp_path / "x", "s3://b/new/x")
    read_all(Store(s3.url, fast=False))
    assert any(verb == "PUT" for verb, _, _ in s3.seen)


@pytest.mark.parametrize("fast", [True, False])
def test_keys_with_slashes_where_others_have_none(s3: Server, fast: bool) -> None:
    store = Store(s3.url, fast=fast)
    assert store.read("s3://b//slash/g1.fits") == b"slash"
    assert store.read("s3://b/a//b.fits") == b"double"
    assert [entry.uri for entry in store.walk("s3://b//slash")] == ["s3://b//slash/g1.fits"]


def test_a_prefix_is_a_folder_and_hidden_files_are_none(s3: Server, tmp_path: Path) -> None:
    store = Store(s3.url)
    for prefix in ("s3://b/cutouts", "s3://b/cutouts/"):
        assert [entry.uri for entry in store.walk(prefix)] == ["s3://b/cutouts/g1.fits"]
    assert [entry.uri for entry in store.walk("s3://b/shard.tar")] == ["s3://b/shard.tar"]
    assert list(store.walk("s3://b/cut")) == []
    for name in ("c/g1.fits", "c/.g2.fits", "c/._g1.fits", "c/__MACOSX/g1.fits", "c-old/g1.fits"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [entry.uri for entry in Store().walk(f"{tmp_path}/c")] == [f"{tmp_path}/c/g1.fits"]


def test_hidden_files_of_a_tar_are_none(tmp_path: Path) -> None:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("./g1.fits", "x/g2.fits", "x/._g2.fits", "._g1.fits", "__MACOSX/x/g2.fits"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    out.seek(0)
    assert [name for name, _ in tar_members("t.tar", out, "v")] == ["./g1.fits", "x/g2.fits"]


@pytest.mark.parametrize("code", [400, 403, 500])
def test_one_address_that_fails_for_ever_is_that_cutouts_fault(web: Server, code: int) -> None:
    web.rule = lambda verb, path, headers: (code, "x", "y") if path.endswith("n=7") else None
    uris = [f"{web.url}/cut?token=SECRET&n={number}" for number in range(30)]
    with ThreadPoolExecutor(4) as pool:
        found = list(Store().read_many(uris, pool))
    bad = [each for each in found if isinstance(each, BadCutoutError)]
    assert [found.index(each) for each in bad] == [7]
    assert str(code) in bad[0].detail
    assert found.count(b"fine") == 29


def test_many_that_fail_are_the_servers_fault(web: Server) -> None:
    web.rule = lambda verb, path, headers: (400, "x", "y") if int(path[3:]) % 2 else None
    uris = [f"{web.url}/n={number}" for number in range(100)]
    with ThreadPoolExecutor(1) as pool, pytest.raises(StorageError) as caught:
        list(Store().read_many(uris, pool))
    assert "400" in caught.value.message


def test_a_server_that_is_full_of_questions_is_no_cutouts_fault(
    web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib3.util.retry.Retry.DEFAULT_BACKOFF_MAX", 0.01)
    monkeypatch.setattr("urllib3.util.retry.Retry.get_backoff_time", lambda self: 0.0)
    web.rule = lambda verb, path, headers: (429, "x", "y")
    with pytest.raises(StorageError) as caught:
        Store().read(f"{web.url}/cut?token=SECRET")
    assert "429" in caught.value.message
    assert "SECRET" not in str(caught.value)


def test_one_object_of_s3_that_fails_for_ever(s3: Server) -> None:
    s3.rule = lambda verb, key, headers: (
        (400, "Weird", "That one is odd.") if key == "cutouts-old/g1.fits" else None
    )
    store = Store(s3.url, fast=False)
    with pytest.raises(BadCutoutError, match="That one is odd"):
        store.read("s3://b/cutouts-old/g1.fits")
    assert store.read("s3://b/cutouts/g1.fits") == b"one"


def test_single_faults_of_a_large_survey_do_not_add_up(s3: Server) -> None:
    s3.rule = lambda verb, key, headers: (
        (400, "Weird", "That one is odd.") if key.startswith("bad") else None
    )
    store, bad = Store(s3.url), 0
    for number in range(150):
        try:
            store.read("s3://b/bad" if number % 6 == 5 else "s3://b/cutouts/g1.fits")
        except BadCutoutError:
            bad += 1
    assert bad == 25


def test_addresses_that_are_none_and_answers_that_break_off(web: Server) -> None:
    for url in ("http://", "http://[::1?token=SECRET", f"http://{'x' * 70}.org/a?token=SECRET"):
        with pytest.raises(BadCutoutError) as caught:
            Store().read(url)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("code", [400, 403, 500])
def test_a_catalogue_that_cannot_be_read_is_no_single_fault(
    web: Server, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib3.util.retry.Retry.get_backoff_time", lambda self: 0.0)
    web.rule = lambda verb, path, headers: (code, "x", "y")
    url = f"{web.url}/catalogue.csv?token=SECRET"
    for ask in (Store().entries, lambda uri: Store().copy_to(uri, tmp_path / "c")):
        with pytest.raises(StorageError) as caught:
            ask(url)  # type: ignore[operator]
        assert str(code) in caught.value.message
        assert "SECRET" not in str(caught.value)
