"""Fusion networks under erasure and error: how much loss and failure a photonic quantum computer tolerates.

"Erasure" is the word of coding theory here: a measurement outcome that is known to be lost. No network of neurons
is touched.
Source: Bartolucci et al., Fusion-based quantum computation, arXiv 2101.09310; the constructions are derived again from
the stabilizers (see `stabilizers`).
"""

from __future__ import annotations

__version__ = "0.1.0"
