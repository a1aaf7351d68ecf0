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
# One step of plain gradient descent on trees that grow by need: its weights can be computed by hand.
ONE_PLAIN_STEP: dict[str, Any] = {
    "branching": "ib_adaptive",
    "max_completion_length": 24,
    "max_steps": 1,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    **QUIET,
}
