"""Procedures of the papers as written there, one module per method, to count or run against ours.

Every module has ``forwards(options) -> dict`` for the plain procedure and ``ours(options) -> dict``: denoiser passes in
samples by what they are for ("preparation", "training"), for the options of a plan of that method. Where running it is
affordable a module also has ``run(target, concept, options, seed) -> (forwards, losses)``, which trains the pipeline's
own denoiser in place, or ``OPTIONS``, with which our engine does what the paper does. ``COMPARED`` are options that
both sides get where the method's defaults do more than the paper.
"""
