"""Edits and their files: exact sums, manifests, layouts, reading and writing of artifacts."""
