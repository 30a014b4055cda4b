"""Proofs on real processes and real files: what must hold when processes die, keys block and backlogs grow.

`pytest tests/proofs` runs them small. `python -m tests.proofs NAME` runs one at its full size and prints the figures.
"""
