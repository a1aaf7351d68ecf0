"""What the trainer says before it starts: which options differ from those that the same `GRPOConfig` would have."""

from .config import IBTPOConfig


def announce(args: IBTPOConfig) -> None:
    """Prints the options whose values are the paper's and not TRL's, with both values; nothing if there are none."""
    differ = [f"{name} {ours} (TRL: {theirs})" for name, (ours, theirs) in args.departures().items()]
    if differ:
        print(
            f"IBTPOConfig has the paper's values where GRPOConfig has others: {', '.join(differ)}. "
            f"paper_defaults=False keeps TRL's."
        )
