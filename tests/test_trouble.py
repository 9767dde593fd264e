"""What a disk says, in the words of every library that we write with, on disks that say it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from zoo_bridge.errors import InputError, SettingsError, StorageError
from zoo_bridge.trouble import explain, explain_any, unexpected

WRITERS = {
    "text": "open(path, 'w').write('x' * 3_000_000)",
    "shutil": "import shutil; open('/dev/shm/src', 'wb').write(b'x' * 3_000_000)\n"
    "shutil.copyfile('/dev/shm/src', path)",
    "numpy": "import numpy as np; np.save(path, np.random.default_rng(0).random(400_000))",
    "numpy archive": "import numpy as np\n"
    "np.savez(path, a=np.random.default_rng(0).random(400_000))",
    "pyarrow": "import numpy as np, pyarrow as pa, pyarrow.parquet as pq\n"
    "pq.write_table(pa.table({'a': np.random.default_rng(0).random(600_000)}), path)",
    "polars": "import numpy as np, polars as pl\n"
    "pl.DataFrame({'a': np.random.default_rng(0).random(600_000)}).write_parquet(path)",
    "duckdb": "import duckdb\n"
    "duckdb.sql(f\"COPY (SELECT random() AS a FROM range(600000)) TO '{path}' (FORMAT parquet)\")",
    "sqlite": "import sqlalchemy as sa\n"
    "with sa.create_engine(f'sqlite:///{path}').begin() as db:\n"
    "    db.exec_driver_sql('CREATE TABLE t (a BLOB)')\n"
    "    db.exec_driver_sql('INSERT INTO t VALUES (randomblob(3000000))')",
    "h5py": "import h5py, numpy as np\n"
    "h5py.File(path, 'w').create_dataset('a', data=np.random.default_rng(0).random(400_000))",
    "gzip": "import gzip, os; gzip.open(path, 'wb').write(os.urandom(3_000_000))",
    "pillow": "import numpy as np; from PIL import Image\n"
    "noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype='uint8')\n"
    "Image.fromarray(noise).save(path, 'png')",
}
TOLD = """
import sys
from zoo_bridge.trouble import explain, explain_any, unexpected
path = sys.argv[1]
try:
    exec(sys.argv[2])
except Exception as error:
    known = explain(error, path)
    print(repr(error) if known is None else known.message)
else:
    print('no error')
"""


def may_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


MAY_MOUNT = may_mount()


def on_a_disk(options: str, writer: str, tmp_path: Path) -> str:
    """What is said of a writer on a small disk of its own, or where there are no such disks, of one
    that may write no large file."""
    folder = tmp_path / "disk"
    folder.mkdir()
    script = tmp_path / "told.py"
    script.write_text(TOLD)
    inner = [sys.executable, str(script), str(folder / "file"), WRITERS[writer]]
    command = ["prlimit", "--fsize=1000000", *inner]
    if MAY_MOUNT:
        mount = f'mount -t tmpfs -o {options} none {folder} && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", mount, "sh", *inner]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return ended.stdout.strip() or ended.stderr


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_called_one(writer: str, tmp_path: Path) -> None:
    told = on_a_disk("size=1m", writer, tmp_path)
    # SQLite does not say why a file may not grow, where it is not the disk that is full.
    limited = writer == "sqlite" and not MAY_MOUNT
    assert ("does not work" if limited else "There is no space left to write") in told


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a disk")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_disk_is_called_one(writer: str, tmp_path: Path) -> None:
    told = on_a_disk("size=9m,ro", writer, tmp_path)
    assert "read-only file system" in told or "this user may not" in told


def test_what_is_no_disk_is_left_alone() -> None:
    for error in (
        ValueError("no"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        sa.exc.OperationalError("", {}, Exception("password authentication: permission denied")),
    ):
        assert explain(error, "it") is None


def test_the_cause_is_looked_for_behind_an_error() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/data/x")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        known = explain(error, "it")
    assert isinstance(known, StorageError)
    assert known.message == "There is no space left to write /data/x."


def test_what_is_around_us_is_no_fault_of_ours() -> None:
    import botocore.exceptions
    import requests

    for error, words in (
        (sa.exc.OperationalError("SELECT 1", {}, Exception("could not connect")), "database"),
        (requests.ConnectionError("refused"), "server does not answer"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), "server does not"),
        (ConnectionResetError("reset"), "server does not answer"),
        (MemoryError(), "not enough memory"),
        (ModuleNotFoundError("No module named 'dask'", name="dask"), "dask is not installed"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b"), "/a/b: no such"),
    ):
        told = unexpected(error, "it")
        assert words in told.message
        assert "fault of zoo_bridge" not in told.hint


def test_a_fault_of_ours_is_two_lines_and_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANOPTES_PASSWORD", "correct horse")
    try:
        {}["correct horse"]  # type: ignore[index]
    except KeyError as error:
        told = unexpected(error, "check")
    assert told.message.startswith("check failed unexpectedly: KeyError")
    assert "This is a fault of zoo_bridge" in told.hint
    path = Path(told.hint.rpartition(" ")[2].rstrip("."))
    text = path.read_text()
    path.unlink()
    assert "Traceback" in text
    assert "correct horse" not in text


@pytest.mark.parametrize("words", [("check",), ("status",), ("runs",), ("labels",)])
def test_no_command_ends_in_a_traceback(words: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever is raised, wherever: here by a settings module that is broken."""
    script = (
        "import sys, zoo_bridge.config as c\n"
        "def load(path): raise RuntimeError('something new')\n"
        "c.load = load\n"
        "from zoo_bridge.service.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *words, "--config", str(tmp_path / "x.toml")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[0] == f"zoo-bridge: {words[0]} failed unexpectedly: RuntimeError: something new"
    assert "fault of zoo_bridge" in lines[1]
    assert len(lines) == 2
    assert len(list(tmp_path.glob("zoo-bridge-*.txt"))) == 1


def test_our_own_faults_are_not_laid_on_others() -> None:
    import botocore.exceptions

    for error in (
        sa.exc.IntegrityError("INSERT", {}, Exception("NOT NULL constraint failed")),
        sa.exc.OperationalError("SELECT", {}, Exception("no such table: runs")),
        botocore.exceptions.ParamValidationError(report="Missing Bucket"),
        ModuleNotFoundError("No module named 'zoo_bridge.x'", name="zoo_bridge.x"),
    ):
        assert explain_any(error, "it") is None, error
    met = KeyError("a")
    met.__context__ = ConnectionError("reset")
    assert explain_any(met, "it") is None
    assert isinstance(explain_any(botocore.exceptions.NoCredentialsError(), "it"), SettingsError)


def test_a_broken_table_is_no_fault_of_ours(tmp_path: Path) -> None:
    import polars as pl

    (tmp_path / "x.parquet").write_bytes(b"PAR1 broken PAR1")
    for read in (
        lambda path: pl.read_parquet(path),
        lambda path: __import__("pyarrow.parquet").parquet.read_table(path),
        lambda path: __import__("duckdb").sql(f"SELECT * FROM '{path}'").fetchall(),
    ):
        with pytest.raises(Exception) as caught:
            read(tmp_path / "x.parquet")
        assert isinstance(explain_any(caught.value, "it"), InputError), caught.value
