"""Opening a ledger: which zoo_bridge wrote it, and what it takes to bring it up to date.

Migrations are Alembic's and run in one transaction, under a lock of the database, when a ledger is
opened: of several processes one migrates and the others wait. A ledger from before there were
migrations has the tables of the first one; it is stamped as such, not rebuilt.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from zoo_bridge import trouble
from zoo_bridge.errors import BusyError, SettingsError
from zoo_bridge.ledger.owners import is_held, named
from zoo_bridge.ledger.tables import HEAD, metadata
from zoo_bridge.redact import redact

BASELINE = "0001"
VERSION_TABLE = "alembic_version"
# Any number, as long as nobody else takes it for a lock of PostgreSQL's.
ADVISORY_LOCK = 0x7A6F6F62


def open_engine(url: str) -> sa.Engine:
    """Connect to a ledger's database; an SQLite file's folder is made.

    Parameters
    ----------
    url : str
        Any SQLAlchemy URL.

    Returns
    -------
    sqlalchemy.Engine

    Raises
    ------
    SettingsError
        If there is no such database.
    """
    with explained(url):
        parsed = sa.make_url(url)
        if parsed.drivername.startswith("sqlite") and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _sqlite_manners)
        with engine.connect():
            return engine


def version_of(connection: sa.Connection) -> str:
    """The migration that a database is at: empty for none, `BASELINE` for an old ledger."""
    names = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE in names:
        found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        return str(found or "")
    return BASELINE if "runs" in names else ""


def upgrade(engine: sa.Engine) -> tuple[str, str]:
    """Bring a ledger up to date, in one transaction that nobody else can enter.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        The open database.

    Returns
    -------
    (str, str)
        The migration that it was at (empty for a new ledger), and the one that it is at now.

    Raises
    ------
    SettingsError
        If a newer zoo_bridge wrote it, or it is no ledger.
    """
    with explained(str(engine.url)):
        with engine.connect() as connection:
            known = _has_versions(connection)
            before = version_of(connection)
        if known and before == HEAD:
            return before, before
        with alone(engine) as connection:
            # Somebody else may have done it while this process waited.
            before = version_of(connection)
            if before or sa.inspect(connection).get_table_names():
                _migrate(connection, before)
            else:
                _make(connection)
    return before, HEAD


def backup(url: str, path: Path) -> int:
    """Copy a ledger, at whatever migration it is, to a new SQLite file that is a ledger itself.

    Parameters
    ----------
    url : str
        Any SQLAlchemy URL, of an SQLite or PostgreSQL ledger.
    path : Path
        Where to; nothing may be there.

    Returns
    -------
    int
        Rows copied.

    Raises
    ------
    SettingsError
        If `path` exists, or the ledger cannot be read.
    """
    if path.exists():
        raise SettingsError(f"{path} exists already.", "Name another file, or remove it first.")
    engine = open_engine(url)
    scratch = path.with_name(f".{path.name}.part")
    try:
        with explained(url):
            scratch.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            copy = _copy_file if engine.dialect.name == "sqlite" else _copy_rows
            rows = copy(engine, scratch)
            scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
        engine.dispose()
    return rows


def _make(connection: sa.Connection) -> None:
    """The tables of a new ledger as they are now, which all migrations would come to."""
    metadata.create_all(connection)
    versions = sa.Table(
        VERSION_TABLE,
        sa.MetaData(),
        sa.Column("version_num", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
    )
    versions.create(connection)
    connection.execute(sa.insert(versions).values(version_num=HEAD))


def _migrate(connection: sa.Connection, before: str) -> None:
    # Loaded only when there is something to do: it takes longer than all else about a ledger.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(files("zoo_bridge.ledger") / "migrations"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if before and before not in known:
        raise SettingsError(
            f"The ledger {shown_url(str(connection.engine.url))} was written by a newer "
            f"zoo_bridge: its tables are at migration {before}, this one knows "
            f"{', '.join(sorted(known))}.",
            "Install that version or a newer one, or use a copy that was made before: "
            "zoo-bridge ledger backup.",
        )
    if before == BASELINE and not _has_versions(connection):
        _check_baseline(connection)
        command.stamp(config, BASELINE)
    if before:
        _check_alone(connection)
    command.upgrade(config, "head")


def _check_alone(connection: sa.Connection) -> None:
    """An earlier zoo_bridge that is at work would write what these tables do not hold."""
    for row in connection.execute(sa.text("SELECT owner, expires_at FROM locks")):
        if is_held(row.owner, row.expires_at):
            raise BusyError(
                "The ledger is to be brought up to date, and an earlier zoo_bridge is at work on "
                f"it: {named(row.owner)}.",
                "Stop it (serve, too) or wait until it has ended; then run the same command again.",
            )


def _check_baseline(connection: sa.Connection) -> None:
    """A ledger without migrations has the tables and columns of the first one."""
    from zoo_bridge.ledger.migrations.versions.baseline_0001 import TABLES

    inspector = sa.inspect(connection)
    names = set(inspector.get_table_names())
    missing = []
    for table, columns in TABLES.items():
        there = (
            {column["name"] for column in inspector.get_columns(table)} if table in names else ()
        )
        missing += [f"{table}.{name}" for name in columns if name not in there]
    if missing:
        raise SettingsError(
            f"The database {shown_url(str(connection.engine.url))} has a table runs, but is no "
            f"ledger that this zoo_bridge knows: {', '.join(missing[:4])}"
            f"{' …' if missing[4:] else ''} are missing.",
            "Name another database in the setting ledger, or use a backup of this one.",
        )


def _has_versions(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table(VERSION_TABLE)


@contextlib.contextmanager
def alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that takes in tables, too, and that only one process at a time is in."""
    if engine.dialect.name != "sqlite":
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
            yield connection
        return
    # Python's sqlite3 begins transactions by itself, before rows are changed and not before tables
    # are: left to itself, a migration that fails halfway would stay halfway.
    own = sa.create_engine(engine.url)
    sa.event.listen(own, "connect", _sqlite_manners)
    sa.event.listen(own, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    sa.event.listen(own, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with own.begin() as connection:
            yield connection
    finally:
        own.dispose()


def _copy_file(engine: sa.Engine, path: Path) -> int:
    """SQLite's own way to copy a database that is in use."""
    source = engine.raw_connection()
    target = sqlite3.connect(path)
    try:
        driver: Any = source.driver_connection
        driver.backup(target)
        names = target.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        counts = [target.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone() for (name,) in names]
        target.execute("PRAGMA journal_mode=DELETE")
        return sum(count for (count,) in counts)
    finally:
        target.close()
        source.close()


def _copy_rows(engine: sa.Engine, path: Path) -> int:
    """Every table as it is, in one moment of the database."""
    found = sa.MetaData()
    rows = 0
    copy = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as source:
        found.reflect(source)
        plain = sa.MetaData()
        for table in found.sorted_tables:
            columns = [
                sa.Column(
                    column.name,
                    column.type.as_generic(),
                    primary_key=column.primary_key,
                    nullable=column.nullable,
                )
                for column in table.columns
            ]
            sa.Table(table.name, plain, *columns)
        plain.create_all(copy)
        with copy.begin() as target:
            for table in found.sorted_tables:
                values = [dict(row) for row in source.execute(sa.select(table)).mappings()]
                if values:
                    target.execute(sa.insert(plain.tables[table.name]), values)
                rows += len(values)
    return rows


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """What a database says, in an administrator's words."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
        if (disk := trouble.explain(error, f"the ledger {shown_url(url)}", _path(url))) is not None:
            raise disk from None
        shown = redact(str(error).splitlines()[0])
        raise SettingsError(
            f"The ledger {shown_url(url)} cannot be opened: {shown}.",
            "Correct ledger in the settings (PostgreSQL needs 'zoo-bridge[postgresql]').",
        ) from None


def _path(url: str) -> Path | None:
    """The file of an SQLite ledger."""
    with contextlib.suppress(sa.exc.ArgumentError):
        parsed = sa.make_url(url)
        if parsed.drivername.startswith("sqlite") and parsed.database:
            return Path(parsed.database)
    return None


def shown_url(url: str) -> str:
    """A ledger's URL as it may be shown: without user and password, however they are given."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        return "of the settings"
    secret = {name: "***" for name in parsed.query if name.lower() in ("password", "sslpassword")}
    return redact(parsed.update_query_dict(secret).render_as_string(hide_password=True))


def _sqlite_manners(connection: Any, _: Any) -> None:
    """Let readers and one writer live together, and wait for a busy file, not fail at once."""
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
