#!/usr/bin/env python3
"""Cycle: pull, aggregate, retrain, score and upload, one after the other.

Reads   what the five jobs read
Writes  what they write; a step with nothing new to do says "unchanged"
        runs/<run>/: run.json and log.jsonl; a row of the ledger
Exit    0 done or unchanged, 1 failed, 2 settings or usage, 3 a safety rule said no (a
        model that is kept out does not end the cycle), 75 another run holds the lock, 143 stopped

    python jobs/cycle.py --config zoo_bridge.toml [--dry-run] [--force] [--json]

The same as: zoo-bridge run cycle
"""

from zoo_bridge.service.cli import run_script

if __name__ == "__main__":
    run_script("cycle")
