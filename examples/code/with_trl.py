"""The Python tool in TRL's own trainer: it takes any function with type hints and a docstring."""

from ibtpo.tools import python_tool

tools = [python_tool()]  # raises where code cannot be isolated; then GRPOTrainer(..., tools=tools)

if __name__ == "__main__":
    print(tools[0]("sum(n * n for n in range(10))"))
