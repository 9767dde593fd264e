#!/usr/bin/env python3
"""Score: read the whole survey with the model in use.

Reads   the survey's catalogue or prefix, and every cutout
Writes  scores/<run>/: part-*.parquet (mean, error bars and mutual information) and rejects.parquet
        runs/<run>/: run.json and log.jsonl; a row of the ledger
Exit    0 done or unchanged, 1 failed, 2 settings or usage, 3 the model was made for other cutouts,
        75 another run holds the lock, 143 stopped

    python jobs/score_cutouts.py --config zoo_bridge.toml [--dry-run] [--force] [--json]

The same as: zoo-bridge run score
"""

from zoo_bridge.service.cli import run_script

if __name__ == "__main__":
    run_script("score")
