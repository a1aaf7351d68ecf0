"""The recipe from Python, with one setting changed."""

import ibtpo

run = ibtpo.train("recipe.yaml", output="runs/from-python", learning_rate=1e-4)
print(run)
