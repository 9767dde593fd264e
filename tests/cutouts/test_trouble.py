"""S3 in trouble: what passes is waited for, what does not is said at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zoo_bridge.cutouts.load import Loader
from zoo_bridge.cutouts.preprocess import BadCutoutError, Preprocessing
from zoo_bridge.cutouts.store import Store
from zoo_bridge.errors import SettingsError, StorageError
from zoo_bridge.sandbox.server import Sandbox

BODY = b"SIMPLE" + bytes(range(256)) * 40


class Troubled(BaseHTTPRequestHandler):
    """An S3 whose bucket ``b`` has every key; the server's ``faults`` are used up one by one."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(200 if self.path.strip("/") == "b" else 404, b"")

    def do_GET(self) -> None:
        faults = self.server.faults  # type: ignore[attr-defined]
        with self.server.lock:  # type: ignore[attr-defined]
            fault = faults.pop(0) if faults else "none"
            self.server.asked += 1  # type: ignore[attr-defined]
        if fault == "reset":
            self.close_connection = True
            self.connection.shutdown(2)
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:100])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
        elif fault == "none":
            self._answer(200, BODY)
        else:
            code = {"503": "SlowDown", "500": "InternalError", "403": "AccessDenied"}.get(fault)
            code = code or "NoSuchKey"
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>x</Message></Error>"
            self._answer(int(fault), body.encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing."""


Serve = Callable[..., ThreadingHTTPServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(*faults: str) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Troubled)
        server.daemon_threads = True
        server.faults = list(faults)  # type: ignore[attr-defined]
        server.lock = threading.Lock()  # type: ignore[attr-defined]
        server.asked = 0  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def store_of(server: ThreadingHTTPServer, fast: bool) -> Store:
    return Store(f"http://127.0.0.1:{server.server_address[1]}", 4, fast)


@pytest.mark.parametrize("fast", [True, False], ids=["obstore", "boto3"])
@pytest.mark.parametrize("fault", ["503", "500", "reset", "cut"])
def test_what_passes_is_waited_for(serve: Serve, fault: str, fast: bool) -> None:
    server = serve(fault, fault)
    assert store_of(server, fast).read("s3://b/k") == BODY
    assert server.asked == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("fast", [True, False], ids=["obstore", "boto3"])
def test_a_denial_and_a_missing_bucket_are_said_at_once(serve: Serve, fast: bool) -> None:
    began = time.monotonic()
    server = serve("403", "403", "403")
    with pytest.raises(SettingsError, match="denies access to b/k"):
        store_of(server, fast).read("s3://b/k")
    assert server.asked <= 2  # type: ignore[attr-defined]
    assert store_of(serve("404"), fast).read("s3://b/k") is None
    if fast:
        with pytest.raises(SettingsError, match="There is no bucket nowhere"):
            store_of(serve("404"), fast).read("s3://nowhere/k")
    assert time.monotonic() - began < 10


def test_trouble_without_end_ends_the_run_and_is_no_reject(serve: Serve, tmp_path: Path) -> None:
    server = serve(*["reset"] * 1000)
    loader = Loader(store_of(server, False), Preprocessing(size=16), tmp_path)
    with pytest.raises(StorageError, match="failed at b/0"):
        loader.load([(str(n), f"s3://b/{n}") for n in range(3)])


@pytest.mark.parametrize("workers", [0, 2])
def test_cutouts_come_in_order_whoever_prepares_them(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path, workers: int
) -> None:
    box = make_sandbox(galaxies=70)
    bucket = box.plan.bucket
    objects = [(f"ZB{n:06d}", f"s3://{bucket}/cutouts/ZB{n:06d}.fits") for n in range(70)]
    objects.insert(40, ("gone", f"s3://{bucket}/cutouts/gone.fits"))
    store, preprocessing = Store(box.urls["s3"]), Preprocessing(size=16)
    one = Loader(store, preprocessing, tmp_path / "one").load(objects)
    groups = [objects[:50], objects[50:]]
    loader = Loader(store, preprocessing, tmp_path / "other", cache_bytes=20_000, workers=workers)
    first, second = loader.batches(groups)
    assert [*first.places, *(50 + place for place in second.places)] == one.places
    assert [reject.object_id for reject in first.rejects] == ["gone"]
    assert (first.images == one.images[:49]).all()
    assert (second.images == one.images[49:]).all()
    # The cache took what it had room for.
    (path,) = (tmp_path / "other").glob("*.sqlite3")
    assert path.stat().st_size < 200_000


def test_processes_end_with_who_asked(make_sandbox: Callable[..., Sandbox], tmp_path: Path) -> None:
    import psutil

    box = make_sandbox(galaxies=70)
    uri = f"s3://{box.plan.bucket}/cutouts/ZB000001.fits"
    loader = Loader(Store(box.urls["s3"]), Preprocessing(size=16), tmp_path, workers=2)
    before = set(psutil.Process().children())
    batches = loader.batches([[(str(n), uri)] for n in range(500)])
    next(batches)
    made = [each for each in psutil.Process().children() if each not in before]
    assert len(made) >= 2
    batches.close()
    _, alive = psutil.wait_procs(made, timeout=20)
    assert not [each for each in alive if "spawn_main" in " ".join(each.cmdline())]


def test_a_denial_in_a_process_reaches_the_run(serve: Serve, tmp_path: Path) -> None:
    server = serve(*["403"] * 1000)
    loader = Loader(store_of(server, True), Preprocessing(size=16), tmp_path, workers=1)
    with pytest.raises(SettingsError, match="denies access") as caught:
        loader.load([("1", "s3://b/1")])
    assert "s3:GetObject" in caught.value.hint


def test_one_that_cannot_be_read_is_one_reject(serve: Serve, tmp_path: Path) -> None:
    good = tmp_path / "good.fits"
    good.write_bytes(b"not even that")
    odd = ["s3:///k", "//[x", "bad\0name", str(tmp_path), "/" + "x" * 5000, "s3://b/" + "k" * 3000]
    server = serve()
    store = store_of(server, True)
    batch = Loader(store, Preprocessing(size=16), None).load(
        [(uri, uri) for uri in [*odd, str(good)]]
    )
    assert [reject.object_id for reject in batch.rejects] == [*odd, str(good)]
    assert {reject.reason for reject in batch.rejects[:5]} <= {"unreadable", "missing"}


def test_one_that_is_too_large_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    shard = tmp_path / "one.tar"
    shard.write_bytes(bytes(5000))
    asked = [f"{shard}#0+100", f"{shard}#100+{2**40}", f"{shard}#200+100"]
    with ThreadPoolExecutor(2) as pool:
        first, second, third = Store().read_many(asked, pool)
    assert (first, third) == (bytes(100), bytes(100))
    assert isinstance(second, BadCutoutError)
    assert second.reason == "too large"
