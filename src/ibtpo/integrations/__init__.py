"""IB-TPO inside trainers of other projects. Nothing here is loaded unless such a trainer asks for it."""
