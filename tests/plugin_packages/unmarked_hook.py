"""Forgot the decorator."""


def erase_methods():
    return []
