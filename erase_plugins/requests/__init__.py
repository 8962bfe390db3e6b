"""Requests to be forgotten: states, deadlines, a ledger without names, and certificates. Never imports torch."""
