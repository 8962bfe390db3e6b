"""Pages that are written from the code: ``python -m tools.docs [ROOT]`` renews them all, tests compare them."""
