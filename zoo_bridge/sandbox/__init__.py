"""A local Panoptes, a local S3 and an invented survey: try everything without an account."""
