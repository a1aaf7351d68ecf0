"""What the tests of the trainer have in common."""

from typing import Any

# Options of a trainer that writes and prints nothing.
QUIET: dict[str, Any] = {
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "save_trees_every": 0,
    "gradient_checkpointing": False,
}
