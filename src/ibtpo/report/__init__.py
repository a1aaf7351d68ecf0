"""What a run looks like: the report and the tree viewer, offline HTML."""
