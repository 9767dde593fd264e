"""Ledgers in an SQLite file and in a PostgreSQL that the tests start themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite3"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def old(url: str) -> str:
    """The URL of a ledger that commit b86a1a5 wrote, on a loop of three batches."""
    kind = url.partition(":")[0].partition("+")[0]
    text = (FIXTURES / f"b86a1a5.{kind}.sql").read_text(encoding="utf-8")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        (driver.executescript if kind == "sqlite" else driver.execute)(text)
    engine.dispose()
    return url


@pytest.fixture
def rows() -> Callable[[str], dict[str, list[dict[str, object]]]]:
    """Every row of every table of a database, as it is."""

    def read(url: str) -> dict[str, list[dict[str, object]]]:
        engine = sa.create_engine(url)
        found = sa.MetaData()
        with engine.connect() as connection:
            found.reflect(connection)
            values = {
                table.name: [
                    dict(row)
                    for row in connection.execute(
                        sa.select(table).order_by(*table.primary_key.columns)
                    ).mappings()
                ]
                for table in found.sorted_tables
            }
        engine.dispose()
        return values

    return read
