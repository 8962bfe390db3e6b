"""Attacks on erased models. One file each, registered like any outside attack."""
