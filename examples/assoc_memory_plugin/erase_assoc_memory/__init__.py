"""An associative memory of erased concepts: recognises them from damaged cues, and unlearns one as if never stored.

Source: Coyac, Gripon, Langlais, Berrou, Robust Associative Memories Naturally Occuring From Recurrent Hebbian Networks
Under Noise, arXiv 1709.08367.
"""

from __future__ import annotations

__version__ = "0.1.0"
