"""Training records deleted from small heads by noisy gradient descent, with a certificate (docs/records.md).

The accountant, the ledger and the check of a certificate need the standard library only; learning needs numpy.
"""
