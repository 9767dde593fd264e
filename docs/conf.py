"""Sphinx settings: pages are Markdown, read by MyST; make docs builds them strictly."""

from zoo_bridge.version import __version__

project = "zoo_bridge"
author = "The zoo_bridge team"
release = version = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"zoo_bridge {__version__}"
exclude_patterns = ["_build"]
# Nothing is fetched from elsewhere when a page is read.
html_static_path: list[str] = []
