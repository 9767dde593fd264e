"""The ``zoo-bridge`` command, a file for each thing that one wants to do.

Nothing heavy is imported before it is needed: ``--help`` must not wait for TensorFlow.
"""

from zoo_bridge.service.cli import act, look, project, run, sandbox, survey
from zoo_bridge.service.cli.app import main, run_script
from zoo_bridge.service.cli.common import app

__all__ = ["act", "app", "look", "main", "project", "run", "run_script", "sandbox", "survey"]
