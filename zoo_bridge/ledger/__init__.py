"""What was run, what came of it, what was uploaded: records, locks, migrations."""

from zoo_bridge.ledger.ledger import Ledger
from zoo_bridge.ledger.lock import LOCK_SECONDS
from zoo_bridge.ledger.owners import now
from zoo_bridge.ledger.records import (
    Act,
    Artifact,
    Batch,
    Event,
    Incident,
    NewObject,
    PlannedObject,
    Promotion,
    RunRecord,
)
from zoo_bridge.ledger.schema import shown_url
from zoo_bridge.ledger.scope import Scope
from zoo_bridge.ledger.states import HIDDEN, IN_DOUBT, BatchState, ObjectState
from zoo_bridge.ledger.tables import locks, metadata

__all__ = [
    "HIDDEN",
    "IN_DOUBT",
    "LOCK_SECONDS",
    "Act",
    "Artifact",
    "Batch",
    "BatchState",
    "Event",
    "Incident",
    "Ledger",
    "NewObject",
    "ObjectState",
    "PlannedObject",
    "Promotion",
    "RunRecord",
    "Scope",
    "locks",
    "metadata",
    "now",
    "shown_url",
]
