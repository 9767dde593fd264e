"""How fast a survey is scored, stage by stage and whole, and how much memory that takes.

An invented survey of FITS cutouts lies behind a local server; in turn, in one run:

stages alone
    Fetching; decoding and preprocessing; the network's trunk with the posterior. Each with what the
    whole pipeline gives it, the others idle.
pipeline
    ``zoo-bridge run score`` itself, from the model's being loaded and compiled, as the stages alone
    are measured, to the last part.
fetching
    obstore against boto3 with 8 threads, 30 kB objects.
posterior
    p(k of 40) and BALD of a million galaxies given as (mean, spread) of their logits.
memory
    Peak of all processes that score, at a thousand and at fifty thousand cutouts.

Machines are not equally fast all day: stages and pipeline take turns, three rounds of them, and the
ratio is the median of the rounds' ratios.

The server is nginx (Debian's nginx-light), which serves the files as S3 would and checks nothing:
what is measured are the clients. ``--endpoint`` compares the ways of fetching on another S3, with
the credentials of the environment; a bucket is made there. Run by hand, on a machine that does
nothing else::

    python tests/benchmarks/bench_scoring.py --json bench_scoring.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

BUCKET = "survey"
UNIQUE = 500
NGINX = """
daemon off; pid {folder}/nginx.pid; worker_processes 1; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  default_type application/octet-stream;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[str]:
    """Serve a folder; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)
    settings = folder / "nginx.conf"
    settings.write_text(NGINX.format(folder=folder, port=port, root=root))
    server = subprocess.Popen(["nginx", "-c", str(settings), "-e", str(folder / "error.log")])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise SystemExit(f"nginx ended: {folder / 'error.log'}") from None
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def make_survey(folder: Path, objects: int) -> Path:
    """A bucket of cutouts, most of them links to few files; the catalogue's path."""
    from zoo_bridge.sandbox.survey import write

    bucket = folder / BUCKET
    catalogue = bucket / f"catalogue-{objects}.csv"
    if catalogue.exists():
        return catalogue
    drawn = folder / "drawn"
    if not (drawn / "objects.json").exists():
        write(drawn, UNIQUE, 0, lambda steps: None)
    files = sorted((drawn / "cutouts").glob("*.fits"))
    (bucket / "cutouts").mkdir(parents=True, exist_ok=True)
    rows = ["object_id,uri"]
    for number in range(objects):
        path = bucket / "cutouts" / f"G{number:07d}.fits"
        if not path.exists():
            os.link(files[number % len(files)], path)
        rows.append(f"G{number:07d},s3://{BUCKET}/cutouts/{path.name}")
    catalogue.write_text("\n".join(rows) + "\n")
    return catalogue


def make_project(folder: Path, catalogue: Path, endpoint: str, given: Any) -> Path:
    """A project whose model was never trained, which costs a network's time all the same."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger import Ledger
    from zoo_bridge.model import registry
    from zoo_bridge.model.heads import Head
    from zoo_bridge.model.network import Design, Network
    from zoo_bridge.steps.inputs import preprocessing_of

    folder.mkdir(parents=True)
    path = folder / "zoo_bridge.toml"
    path.write_text(
        f"""
        [project]
        slug = "bench/scoring"
        workflow = 1
        [[question]]
        name = "smooth-or-featured"
        task = "T0"
        answers = {{ smooth = ["Smooth"], featured = ["Features or Disk"] }}
        target = "featured"
        [survey]
        catalogue = "{catalogue}"
        endpoint_url = "{endpoint}"
        [cutouts]
        size = {given.size}
        [score]
        cache_gib = 0
        workers = {given.workers}
        """
    )
    settings = load(path)
    heads = (Head("smooth-or-featured", ("smooth", "featured"), "featured"),)
    network = Network(Design(given.network, given.size, 1, heads), 0)
    preprocessing = preprocessing_of(settings).as_dict()
    estimator = {"kind": "analytic", "enumerated": 5}
    calibration = {"smooth-or-featured": {"sure": 0.05, "unsure": 0.1, "surprise": 0.02}}
    record = registry.Record(
        "bench",
        network.design.as_dict(),
        [0],
        preprocessing,
        "none",
        {"galaxies": 0, "start": "nothing", "members": []},
        estimator,
        {},
        calibration,
        {},
        {},
        "never trained",
    )
    registry.save(settings.work / "models" / "bench", [network], record)
    ledger = Ledger.of(settings)
    facts = {"metrics": {}, "training": {"galaxies": 0}, "verdict": ""}
    model = settings.work / "models" / "bench"
    ledger.add_artifact("model", "bench", model, "none", "none", facts)
    ledger.promote("bench", "promote", "for the benchmark")
    ledger.close()
    return path


def score(config: Path) -> tuple[float, float]:
    """Run the job as a person does: cutouts a second, and the peak of all its processes in MiB."""
    import psutil

    command = [sys.executable, "-m", "zoo_bridge", "run", "score", "--force", "--config", config]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    watched = psutil.Process(child.pid)
    peak = 0
    while child.poll() is None:
        with suppress(psutil.Error):
            everyone = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(each.memory_info().rss for each in everyone))
        # More often would slow down what is looked at.
        time.sleep(0.25)
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    log = max((config.parent / "data" / "runs").glob("*-score-*")) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    rates = [line["cutouts_per_second"] for line in lines if "cutouts_per_second" in line]
    return rates[0], peak / 2**20


def rate(work: Callable[[], int], seconds: float) -> float:
    """Objects a second of work that is done again and again."""
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += work()
    return done / (time.perf_counter() - began)


def network_alone(config: Path, seconds: float) -> float:
    """Trunk and posterior, of cutouts that are in memory."""
    from zoo_bridge.config import load
    from zoo_bridge.model import registry
    from zoo_bridge.steps.inputs import preprocessing_of
    from zoo_bridge.steps.scoring.scorer import AT_ONCE, score_batch

    settings = load(config)
    preprocessing = preprocessing_of(settings)
    model = registry.load(settings.work / "models" / "bench", preprocessing.as_dict())
    count = settings.score.batch_size
    images = np.random.default_rng(0).random(
        (count, preprocessing.size, preprocessing.size, 1), np.float32
    )
    objects = [(str(n), str(n)) for n in range(count)]
    expected = {"smooth-or-featured": 40}

    with ThreadPoolExecutor(AT_ONCE) as pool:

        def work() -> int:
            # As many at once as the pipeline has.
            made = [
                pool.submit(score_batch, model, objects, images, expected) for _ in range(AT_ONCE)
            ]
            for each in made:
                each.result()
            return AT_ONCE * count

        return rate(work, seconds)


def posterior_alone(config: Path, seconds: float) -> float:
    """The posterior as the pipeline has it: enumerated terms, calibrated, a batch at a time."""
    from zoo_bridge.config import load
    from zoo_bridge.model import registry
    from zoo_bridge.model.predict import calibrations_of, posteriors_of
    from zoo_bridge.steps.inputs import preprocessing_of

    settings = load(config)
    model = registry.load(settings.work / "models" / "bench", preprocessing_of(settings).as_dict())
    width = model.networks[0].width
    features = [np.abs(np.random.default_rng(0).normal(size=(256, width))).astype(np.float32)]
    known = calibrations_of(model, 0)

    def work() -> int:
        said = posteriors_of(model.networks, features, 0, model.record.estimator, 40)
        for answer, posterior in said.items():
            posterior.calibrated(known.get(answer)).both(40)
        return 256

    return rate(work, seconds)


def decoding_alone(folder: Path, size: int, workers: int, seconds: float) -> float:
    """The loader on files of this disk, as it runs in the pipeline."""
    from zoo_bridge.cutouts.load import Loader
    from zoo_bridge.cutouts.preprocess import Preprocessing
    from zoo_bridge.cutouts.store import Store

    paths = [str(path) for path in sorted((folder / "drawn" / "cutouts").glob("*.fits"))]
    group = [(path, path) for path in paths[:256]]
    loader = Loader(Store(), Preprocessing(size=size), folder / "cache", 0, workers, anew=True)

    def groups() -> Iterator[list[tuple[str, str]]]:
        while True:
            yield group

    batches = loader.batches(groups())
    found = rate(lambda: len(next(batches).places), seconds)
    batches.close()
    return found


def fetching_alone(endpoint: str, fast: bool, seconds: float) -> float:
    """GETs of whole cutouts, with 8 threads."""
    from zoo_bridge.cutouts.store import Store

    store = Store(endpoint, 8, fast)
    uris = [f"s3://{BUCKET}/cutouts/G{number:07d}.fits" for number in range(UNIQUE)]
    with ThreadPoolExecutor(8) as pool:
        return rate(lambda: sum(data is not None for data in pool.map(store.read, uris)), seconds)


def fill_bucket(endpoint: str, folder: Path) -> None:
    """Put what `fetching_alone` gets into a bucket."""
    from zoo_bridge.cutouts.store import Store

    s3 = Store(endpoint).s3.client
    s3.create_bucket(Bucket=BUCKET)
    for path in sorted((folder / BUCKET / "cutouts").glob("*.fits"))[:UNIQUE]:
        s3.put_object(Bucket=BUCKET, Key=f"cutouts/{path.name}", Body=path.read_bytes())


def posterior_of_a_million() -> tuple[float, float]:
    """Seconds, the median of three; and how many MiB more than before it needs."""
    from zoo_bridge.acquisition.logits import normal
    from zoo_bridge.acquisition.posterior import Posterior

    draw = np.random.default_rng(0)
    mean, spread = draw.normal(-1, 2, 1_000_000), draw.uniform(0.1, 2, 1_000_000)
    parts = np.split(np.arange(1_000_000), 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        began = time.perf_counter()
        told = [Posterior.of([normal(mean[at], spread[at])], 40).both(40) for at in parts]
        times.append(time.perf_counter() - began)
        del told
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return statistics.median(times), (after - before) / 1024


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench_scoring"
    )
    parser.add_argument("--endpoint", help="an S3 to compare fetching on, in place of nginx")
    parser.add_argument("--server", help="what the endpoint is, for the record")
    parser.add_argument("--network", default="walmsley2020")
    parser.add_argument("--size", type=int, default=128)
    spare = max(1, len(os.sched_getaffinity(0)) - 1)
    parser.add_argument("--workers", type=int, default=spare, help="processes that decode")
    parser.add_argument("--objects", type=int, default=20_000, help="of the pipeline's runs")
    parser.add_argument("--many", type=int, default=50_000, help="of the run for memory; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="for each stage alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "bench")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "bench")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    seconds, mib = posterior_of_a_million()
    sizes = sorted({1000, given.objects, given.many} - {0})
    catalogues = {size: make_survey(given.folder, size) for size in sizes}
    shutil.rmtree(given.folder / "projects", ignore_errors=True)
    rounds: list[dict[str, float]] = []
    peaks: dict[int, float] = {}
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    if given.endpoint:
        fill_bucket(given.endpoint, given.folder)
    with nginx(given.folder, given.folder / "nginx") as endpoint:
        other = given.endpoint or endpoint
        projects = {
            size: make_project(given.folder / "projects" / str(size), path, endpoint, given)
            for size, path in catalogues.items()
        }
        main_run = projects[given.objects]
        for _ in range(given.rounds):
            now = {
                "boto3": fetching_alone(other, False, given.seconds / 3),
                "obstore": fetching_alone(other, True, given.seconds / 3),
                "fetching": fetching_alone(endpoint, True, given.seconds / 3),
                "decoding": decoding_alone(
                    given.folder, given.size, given.workers, given.seconds / 2
                ),
                "network": network_alone(main_run, given.seconds),
            }
            now["pipeline"], peaks[given.objects] = score(main_run)
            rates[given.objects].append(now["pipeline"])
            # On both sides of it, since the machine may have changed meanwhile.
            now["network"] = (now["network"] + network_alone(main_run, given.seconds)) / 2
            rounds.append(now)
        told = posterior_alone(main_run, given.seconds / 2)
        for size in sizes:
            if size != given.objects:
                one, peaks[size] = score(projects[size])
                rates[size].append(one)
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    ratios = [
        each["pipeline"] / min(each[name] for name in ("fetching", "decoding", "network"))
        for each in rounds
    ]
    ratio = statistics.median(ratios)
    together = 1 / sum(1 / median[name] for name in ("fetching", "decoding", "network"))
    names = {
        "fetching": "fetching alone (obstore)",
        "decoding": f"decoding alone ({given.workers} process)",
        "network": "network and posterior alone",
        "pipeline": f"pipeline, {given.objects} cutouts",
    }
    print(f"{'median of rounds':<34}{'cutouts/s':>10}")
    for name, title in names.items():
        print(f"{title:<34}{median[name]:>10.0f}")
    print(f"{'all stages one after the other':<34}{together:>10.0f}")
    shown = ", ".join(f"{each:.2f}" for each in ratios)
    print(f"pipeline to the slowest stage: {ratio:.2f} (rounds: {shown})")
    server = given.server or given.endpoint or "nginx"
    print(f"\n{f'fetching from {server}, 8 threads':<34}{'GETs/s':>10}{'to boto3':>10}")
    fetch = statistics.median(each["obstore"] / each["boto3"] for each in rounds)
    print(f"{'boto3':<34}{median['boto3']:>10.0f}{1:>10.2f}")
    print(f"{'obstore':<34}{median['obstore']:>10.0f}{fetch:>10.2f}")
    print(f"\nposterior and BALD of a million galaxies: {seconds:.2f} s, {mib:.0f} MiB")
    print(f"the posterior as the pipeline computes it: {told:,.0f} galaxies a second")
    for size in sizes:
        one = statistics.median(rates[size])
        print(f"{size:>6} cutouts: peak {peaks[size]:.0f} MiB, {one:.0f} cutouts/s")
    found: dict[str, Any] = {
        "pipeline_over_slowest_stage": ratio,
        "bald_1m_seconds": seconds,
        "bald_1m_mib": mib,
        "fetch_over_boto3": fetch,
        "fetch_server": server,
        "peak_mib_1k": peaks[1000],
        "peak_mib_50k": peaks[given.many] if given.many >= 50_000 else None,
        "cutouts_per_s": median["pipeline"],
        "posteriors_per_s": told,
        "rounds": rounds,
        "conditions": {
            name: getattr(given, name) for name in ("network", "size", "workers", "objects", "many")
        },
    }
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
