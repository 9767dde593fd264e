"""Score on a Slurm cluster: workers as batch jobs, through dask-jobqueue.

Run it on a node that may submit jobs and stays up (or in a small job of its own), in an environment
with zoo_bridge and ``pip install 'zoo-bridge[dask]' dask-jobqueue``::

    python deploy/dask/slurm.py --config zoo_bridge.toml --jobs 10 --queue compute

The folder of the settings file must be on a disk that all nodes share. Stopped or killed, run it
again: parts that are there are not done again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from dask_jobqueue import SLURMCluster


def main() -> int:
    """Start workers, score, stop them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="zoo_bridge.toml")
    parser.add_argument("--jobs", type=int, default=10, help="Slurm jobs")
    parser.add_argument("--queue", help="partition")
    parser.add_argument("--account")
    parser.add_argument("--cores", type=int, default=16, help="of a job")
    parser.add_argument("--walltime", default="08:00:00")
    given = parser.parse_args()
    workers = max(1, given.cores // 2)
    with SLURMCluster(
        queue=given.queue,
        account=given.account,
        walltime=given.walltime,
        cores=workers,  # Dask's threads: one a worker
        processes=workers,
        job_cpu=given.cores,
        memory=f"{3 * workers} GiB",
        job_script_prologue=["export TF_NUM_INTRAOP_THREADS=2"],
        # A little before Slurm's own end, so that workers go in order.
        worker_extra_args=["--lifetime", "7h", "--lifetime-stagger", "10m"],
    ) as cluster:
        cluster.scale(jobs=given.jobs)
        command = ["zoo-bridge", "run", "score", "--config", given.config]
        return subprocess.call([*command, "--cluster", cluster.scheduler_address])


if __name__ == "__main__":
    sys.exit(main())
