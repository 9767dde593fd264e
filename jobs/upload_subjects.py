#!/usr/bin/env python3
"""Upload: stage the galaxies that would teach most as a new subject set.

Reads   the newest scores and labels, the ledger of what was uploaded; with no model, a batch
        is drawn at random from the survey
Writes  batches/<name>/: plan.parquet and previews; on Zooniverse a subject set that nobody sees
        until zoo-bridge publish <name> (or upload.publish = "automatic")
        runs/<run>/: run.json and log.jsonl; a row of the ledger
Exit    0 done or unchanged, 1 failed, 2 settings or usage, 3 a cap, the quota or a safety rule,
        75 another run holds the lock, 143 stopped

    python jobs/upload_subjects.py --config zoo_bridge.toml [--dry-run] [--force] [--json]

The same as: zoo-bridge run upload
"""

from zoo_bridge.service.cli import run_script

if __name__ == "__main__":
    run_script("upload")
