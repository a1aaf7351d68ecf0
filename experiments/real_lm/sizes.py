"""How large everything is: on two CPU cores, on a GPU, and tiny, to try the whole way in two minutes."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of one kind of machine.

    model: what the warm-up starts from.
    longest: problems of more calculations are left out.
    warm_up: how many problems of one calculation are taught in the warm-up, and how many longer ones.
    most_tokens, epochs, batch, rate: of the warm-up, see `warm_up`.
    answers: a problem, to choose problems by, and again to measure what was chosen.
    train, validation, held_out: how many problems are chosen of each kind.
    length: most tokens of an answer.
    in_flight: answers that are sampled at once.
    dtype: what the warm-up multiplies in, and what answers are sampled in; gradients and training have float32.
    pool: independent answers a problem in the branching table.
    gradient_problems, gradient_answers, gradient_batch: of the gradient study, see gradient_signal/measure.py.
    tokens, pilot_tokens, rates, seeds, prompts: a training run's budget, a pilot's, learning rates, seeds, and problems
        a step; with one rate there are no pilots.
    """

    model: str = "smollm2-135m"
    longest: int = 4
    warm_up: int = 1000
    most_tokens: int = 160
    epochs: int = 2
    batch: int = 16
    rate: float = 8e-4
    answers: int = 8
    train: int = 256
    validation: int = 64
    held_out: int = 128
    length: int = 64
    in_flight: int = 256
    dtype: str = "bfloat16"
    pool: int = 12
    gradient_problems: int = 64
    gradient_answers: int = 32
    gradient_batch: int = 8
    tokens: int = 60_000
    pilot_tokens: int = 30_000
    rates: tuple[float, ...] = (2e-4,)
    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: int = 8


CPU = Sizes()
GPU = replace(
    CPU, answers=16, held_out=256, pool=24, gradient_problems=256, gradient_answers=64,
    gradient_batch=16, tokens=1_000_000, pilot_tokens=300_000, rates=(1e-4, 2e-4, 4e-4), seeds=(0, 1, 2, 3, 4),
    prompts=16,
)  # fmt: skip
TINY = Sizes(
    model="nano", warm_up=4, epochs=1, batch=4, train=6, validation=2, held_out=4, length=36, in_flight=64,
    dtype="float32", pool=12, gradient_problems=4, gradient_answers=4, gradient_batch=2, tokens=300, seeds=(0,),
    prompts=2,
)  # fmt: skip
SIZES = {"cpu": CPU, "gpu": GPU, "tiny": TINY}
