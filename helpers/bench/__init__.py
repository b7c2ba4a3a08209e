"""Benchmarks: each measures some work beside the same work done otherwise, in turn, and records all runs.

``python -m helpers bench NAME`` runs them; the results are in ``benchmarks/results/``, and the notebooks show them.
"""
