"""Comparisons: branching rules, checkpoints, flat logs, and training runs over seeds and problems."""
