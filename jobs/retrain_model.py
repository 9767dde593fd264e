#!/usr/bin/env python3
"""Retrain: teach the Bayesian CNN from the newest labels.

Reads   the newest labels, and the labelled galaxies' cutouts
Writes  models/<version>/: weights, model.json and a card; it is put in use unless it is worse than
        the model in use on galaxies that neither learned from
        runs/<run>/: run.json and log.jsonl; a row of the ledger
Exit    0 done or unchanged, 1 failed, 2 settings or usage, 3 the model was kept out,
        75 another run holds the lock, 143 stopped

    python jobs/retrain_model.py --config zoo_bridge.toml [--dry-run] [--force] [--json]

The same as: zoo-bridge run retrain
"""

from zoo_bridge.service.cli import run_script

if __name__ == "__main__":
    run_script("retrain")
