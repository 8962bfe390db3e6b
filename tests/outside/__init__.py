"""Packages of other people, one file each: they import the public door only."""
