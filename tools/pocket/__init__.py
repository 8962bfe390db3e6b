"""Trains the embedded model anew: ``python -m tools.pocket.train``, see `erase_plugins/pocket/README.md`."""
