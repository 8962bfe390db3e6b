"""File layouts that can be written and read; each is a plugin with the protocol `erase_plugins.protocols.Layout`."""
