"""Talking to Panoptes: session, exports, subjects. The only import of panoptes_client."""
