"""Compare branching rules on the same problems, seeds and sampling, and with independent answers at equal tokens.

An ARM is a branching rule, with score options after commas: entropy, ib,ib_beta=1 or ib,confidence=joint,value=draws.
Independent answers are always measured: each problem gets a pool of them, which serves groups of every size.
IB-Score and Cov(eta1, eta2) are measured with the same score options (those given with --ib-beta, --confidence, …) for
every arm.

--output gets trees/ARM.jsonl.gz, summary.json and table.md; --resume goes on where a run was stopped.
"""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import without_nan
from ..compare.branching_arms import ARMS, GROUPS, POOL, arm_options, pool_options
from ..engines.models import decoder
from ..errors import ConfigError
from .inputs import make_prompts, open_environments, open_model, open_verifier, read_problems
from .options import add_search_options, search_options
from .output import check_free, print_json, say_shard_is_done, tree_progress

if TYPE_CHECKING:
    from ..search import SearchOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `ibtpo compare branching`."""
    parser.usage = "ibtpo compare branching --model M --data D --output DIR [--arms ARM ...] [options]"
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the trees and the result")
    parser.add_argument("--resume", action="store_true", help="keep the trees that are there, grow the others")
    parser.add_argument("--arms", nargs="+", default=ARMS, metavar="ARM", help=f"default: {' '.join(ARMS)}")
    parser.add_argument(
        "--pool", type=int, default=24, metavar="N", help="independent answers a problem (default: %(default)s)"
    )
    add_search_options(parser)


def run(args: argparse.Namespace) -> int:
    """Grows the trees that are missing of every arm, writes the result into the folder and prints it."""
    from ..compare.branching import branching_summary, markdown, store_of
    from ..evaluation.stored_trees import grow_stored, made_by
    from ..search import TreeSearch

    options = search_options(args)
    if args.pool < max(GROUPS):
        raise ConfigError(f"--pool must be at least {max(GROUPS)}, the larger group of the table; got {args.pool}")
    arms = {POOL: pool_options(options, args.pool), **{arm: arm_options(arm, options) for arm in args.arms}}
    folder = args.output
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder")
    stores = {arm: store_of(folder, arm, args.shard) for arm in arms}
    if args.shard is not None:
        check_free([path for s in stores.values() for path in (s.path, s.part)], overwrite=False, resume=args.resume)
    elif folder.is_dir() and any(folder.iterdir()) and not args.resume:
        raise ConfigError(f"{folder} exists already; give --resume to go on with it, or another --output")
    problems, verifier_name = read_problems(args)
    (folder / "trees").mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    meta = made_by(args.model, verifier_name, args.environment)
    with open_verifier(args, verifier_name) as verifier:
        engine, tokenizer = open_model(args)
        for arm, its_options in arms.items():
            with (
                open_environments(args, tokenizer) as environments,
                tree_progress(f"trees of {arm}", len(problems), quiet=args.quiet) as show,
            ):
                prompts = make_prompts(args, problems, engine, tokenizer, environments)
                search = TreeSearch(engine, verifier, decoder(tokenizer), its_options, environments=environments)
                grow_stored(search, prompts, stores[arm], meta=meta, resume=args.resume, on_tree=show)
    if args.shard is not None:
        say_shard_is_done(args)
        return 0
    summary = branching_summary(folder, list(args.arms), options.score, seed=args.seed)
    _write(args, folder, summary, options, verifier_name, time.monotonic() - began)
    if args.json:
        print_json(summary)
    else:
        print(markdown(summary))
    return 0


def _write(
    args: argparse.Namespace,
    folder: Path,
    summary: dict[str, Any],
    options: "SearchOptions",
    verifier: str,
    seconds: float,
) -> None:
    from .._files import write_whole
    from ..compare.branching import markdown
    from ..storage.env import collect_env

    about = {
        "model": args.model, "data": args.data, "limit": args.limit, "verifier": verifier, "pool": args.pool,
        "environment": args.environment,
        "options": options.to_json(), "seconds": round(seconds, 1), "env": collect_env(),
    }  # fmt: skip
    text = json.dumps(without_nan({**summary, **about}), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "summary.json", text + "\n")
    write_whole(folder / "table.md", markdown(summary) + "\n")
