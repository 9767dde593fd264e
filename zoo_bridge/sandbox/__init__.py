"""A local Panoptes, a local S3 and a simulated survey: everything can be tried without an account."""
