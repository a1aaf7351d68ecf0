"""IB-TPO: tree-based reinforcement learning for LLM reasoning that keeps exploration and exploitation in balance.

    prompt -> tree -> scores -> credit -> update -> report

The method is that of Jiang et al., "Long Live The Balance: Information Bottleneck Driven Tree-based Policy
Optimization" (arXiv 2605.28109); docs/method.md says where each part of it is implemented.

The names in `__all__` are the public interface; other names of the modules may change. A name is loaded when it is
first used, so that `import ibtpo` costs next to nothing, and what needs numpy alone works without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .branching import BranchPoint as BranchPoint
    from .credit import AdvantageFunction as AdvantageFunction
    from .credit import BatchScale as BatchScale
    from .credit import CreditOptions as CreditOptions
    from .credit import path_advantages as path_advantages
    from .credit import token_advantages as token_advantages
    from .engines import Completion as Completion
    from .engines import Engine as Engine
    from .engines import Sampling as Sampling
    from .engines.models import load_model as load_model
    from .engines.transformers import TransformersEngine as TransformersEngine
    from .errors import IBTPOError as IBTPOError
    from .evaluation.evaluate import EvalResult as EvalResult
    from .evaluation.evaluate import evaluate as evaluate
    from .metrics import summarise as summarise
    from .metrics import tree_record as tree_record
    from .rollout import Prompt as Prompt
    from .score import ScoreOptions as ScoreOptions
    from .score import score_tree as score_tree
    from .search import Budget as Budget
    from .search import SearchOptions as SearchOptions
    from .search import TreeSearch as TreeSearch
    from .tasks.problems import Problem as Problem
    from .tasks.problems import load_problems as load_problems
    from .tasks.prompts import encode_prompt as encode_prompt
    from .training.config import IBTPOConfig as IBTPOConfig
    from .training.launch import Run as Run
    from .training.launch import train as train
    from .training.probe import IBScoreCallback as IBScoreCallback
    from .training.trainer import IBTPOTrainer as IBTPOTrainer
    from .tree import ReasoningTree as ReasoningTree
    from .tree import read_trees as read_trees
    from .tree import write_trees as write_trees
    from .verify import Verdict as Verdict
    from .verify import Verifier as Verifier
    from .verify.pool import VerifierPool as VerifierPool

__all__ = [
    "AdvantageFunction",
    "BatchScale",
    "BranchPoint",
    "Budget",
    "Completion",
    "CreditOptions",
    "Engine",
    "EvalResult",
    "IBScoreCallback",
    "IBTPOConfig",
    "IBTPOError",
    "IBTPOTrainer",
    "Problem",
    "Prompt",
    "ReasoningTree",
    "Run",
    "Sampling",
    "ScoreOptions",
    "SearchOptions",
    "TransformersEngine",
    "TreeSearch",
    "Verdict",
    "Verifier",
    "VerifierPool",
    "encode_prompt",
    "evaluate",
    "load_model",
    "load_problems",
    "path_advantages",
    "read_trees",
    "score_tree",
    "summarise",
    "token_advantages",
    "train",
    "tree_record",
    "write_trees",
]

# Public name -> the module that defines it.
_MODULE_OF = {
    "AdvantageFunction": "credit",
    "BatchScale": "credit",
    "BranchPoint": "branching",
    "Budget": "search",
    "Completion": "engines",
    "CreditOptions": "credit",
    "Engine": "engines",
    "EvalResult": "evaluation.evaluate",
    "IBScoreCallback": "training.probe",
    "IBTPOConfig": "training.config",
    "IBTPOError": "errors",
    "IBTPOTrainer": "training.trainer",
    "Problem": "tasks.problems",
    "Prompt": "rollout",
    "ReasoningTree": "tree",
    "Run": "training.launch",
    "Sampling": "engines",
    "ScoreOptions": "score",
    "SearchOptions": "search",
    "TransformersEngine": "engines.transformers",
    "TreeSearch": "search",
    "Verdict": "verify",
    "Verifier": "verify",
    "VerifierPool": "verify.pool",
    "encode_prompt": "tasks.prompts",
    "evaluate": "evaluation.evaluate",
    "load_model": "engines.models",
    "load_problems": "tasks.problems",
    "path_advantages": "credit",
    "read_trees": "tree",
    "score_tree": "score",
    "summarise": "metrics",
    "token_advantages": "credit",
    "train": "training.launch",
    "tree_record": "metrics",
    "write_trees": "tree",
}


def __getattr__(name: str) -> Any:
    """Loads a public name at its first use; Python calls this for a name that the module does not have yet."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ibtpo' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    except ModuleNotFoundError as e:
        from ._extras import missing_package

        raise missing_package(e, f"ibtpo.{name}") or e from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
