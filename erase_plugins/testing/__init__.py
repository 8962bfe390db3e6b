"""Tools for plugin authors: tiny pipelines and the contract suite."""
