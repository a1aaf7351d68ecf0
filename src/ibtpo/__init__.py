"""IB-TPO."""
