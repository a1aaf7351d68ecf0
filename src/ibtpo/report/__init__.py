"""The report pages: what a run did or is doing, several runs side by side, or a diagnosis of checkpoints.

Each page is one HTML file that opens offline; `live` serves that of a run in progress. The pages that show the trees
themselves are in `ibtpo.viewer`.
"""
