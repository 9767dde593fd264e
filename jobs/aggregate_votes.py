#!/usr/bin/env python3
"""Aggregate: turn classifications into votes, and votes into k-of-N labels.

Reads   the newest exports, or the files named by --export, --subjects and --workflows
Writes  labels/<run>/: labels.parquet, votes.parquet, rejects.parquet and summary.json
        runs/<run>/: run.json and log.jsonl; a row of the ledger
Exit    0 done or unchanged, 1 failed, 2 settings or usage, 3 refused,
        75 another run holds the lock, 143 stopped

    python jobs/aggregate_votes.py --config zoo_bridge.toml [--dry-run] [--force] [--json]
        [--export FILE] [--subjects FILE] [--workflows FILE]

The same as: zoo-bridge run aggregate
"""

from zoo_bridge.service.cli import run_script

if __name__ == "__main__":
    run_script("aggregate")
