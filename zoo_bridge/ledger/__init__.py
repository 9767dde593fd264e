"""What was run, what came of it, what was uploaded: records, locks, migrations."""

from zoo_bridge.ledger.lock import LOCK_SECONDS, now
from zoo_bridge.ledger.records import Artifact, Ledger
from zoo_bridge.ledger.schema import shown_url
from zoo_bridge.ledger.tables import locks, metadata

__all__ = ["LOCK_SECONDS", "Artifact", "Ledger", "locks", "metadata", "now", "shown_url"]
