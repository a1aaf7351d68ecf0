"""Times the search's bookkeeping, choosing places and adding trajectories, in a tree that grows to 100,000 nodes."""

import random
import statistics
import sys
import time

from harness import Row, machine, write

from ibtpo.branching import ib
from ibtpo.score import ScoreOptions
from ibtpo.tree import ReasoningTree, Step

SIZES = (1_000, 10_000, 100_000)


def grow(seed: int) -> list[float]:
    """Grows a tree of random steps; returns the mean milliseconds a trajectory took up to each of `SIZES`."""
    rng = random.Random(seed)
    tree = ReasoningTree("t", [1], "q")
    spent, result = 0.0, []
    for size in SIZES:
        while len(tree.nodes) < size:
            begin = time.perf_counter()
            at = ib(tree, 1, ScoreOptions(), len(tree.leaves))[0].node if len(tree.leaves) >= 4 else 0
            spent += time.perf_counter() - begin
            depth = len(tree.path(at))
            steps = [
                Step((rng.randrange(10**6), 5), "x\n\n", (-rng.expovariate(2), -0.1), None)
                for _ in range(max(1, 7 - depth))
            ]
            reward = float(rng.random() < 0.3)
            begin = time.perf_counter()
            tree.add(at, steps, reward, "eos", round=1)
            spent += time.perf_counter() - begin
        result.append(1000 * spent / len(tree.leaves))
    return result


def main(runs: int = 5) -> None:
    """Writes one row a size, in which the peer is a bound of 1 ms.

    runs: how many trees are grown; the median counts.
    """
    figures = [grow(seed) for seed in range(runs)]
    rows = []
    for i, size in enumerate(SIZES):
        ms = statistics.median(f[i] for f in figures)
        name = f"search bookkeeping a trajectory, {size} nodes"
        rows.append(Row(name, "the bound", ms, 1.0, "ms", 1.0 / ms, 1.0, runs, machine()))
    write(rows)
    for r in rows:
        print(r)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
