"""What is on disk: run folders, tree files, recipes, YAML, and the environment a run was made in."""
