"""One module per group of nodes; each has a tuple ``SPECS``."""
