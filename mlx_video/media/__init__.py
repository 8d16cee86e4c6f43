"""Pixels and samples to files and back; knows no network."""
