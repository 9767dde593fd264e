"""``python -m zoo_bridge``: the same as the ``zoo-bridge`` command."""

from zoo_bridge.service.cli import main

if __name__ == "__main__":
    main()
