#!/usr/bin/env python3
"""Pull: fetch the exports of the project from Zooniverse.

Reads   the classifications export of the workflow, the subjects and workflows exports of the
        project; a new one is asked for only when the last is older than pull.max_age_hours.
        With pull.mode = "incremental": the last ones, and what came since through the API
Writes  exports/<kind>-<digest>.csv.gz and a manifest that names them
        runs/<run>/: run.json and log.jsonl; a row of the ledger
Exit    0 done or unchanged, 1 failed, 2 settings or usage, 3 refused (an export shrank),
        75 another run holds the lock, 143 stopped

    python jobs/pull_exports.py --config zoo_bridge.toml [--dry-run] [--force] [--json]
        [--accept-shrunk]

The same as: zoo-bridge run pull
"""

from zoo_bridge.service.cli import run_script

if __name__ == "__main__":
    run_script("pull")
