"""The report pages: what a run did, several runs side by side, or a diagnosis of checkpoints.

Each page is one HTML file that opens offline. The pages that show the trees themselves are in `ibtpo.viewer`.
"""
