"""Runs of several processes on a CPU: DDP, FSDP2 and DeepSpeed over gloo.

A test calls `run_jobs`, which starts the processes with the command of docs/scale.md; each of them runs this file. A
job is one call of `ibtpo.train`, or one of `EXTRA`, and each process writes down what its jobs gave. accelerate takes
FSDP and DeepSpeed for accelerators only, and transformers bf16; `allow_on_cpu` is what makes them take a CPU.
"""

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.places import ROOT
from helpers.training import QUIET
from ibtpo.storage.recipes import accelerate_files

MODES = ("ddp", "fsdp2", "zero2", "zero3")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
NO_DEEPSPEED = "DeepSpeed is not installed: make test-deepspeed"

Job = dict[str, Any]


def launcher(mode: str, *, processes: int = 2) -> list[str]:
    """The words before the program that start it in several processes."""
    if mode == "ddp":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    file = accelerate_files()[mode]
    words = ["--config_file", str(file), "--num_processes", str(processes), "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *words]


def environment(mode: str, place: Path) -> dict[str, str]:
    """The environment of such a command. place: a folder for imports and for what DeepSpeed compiles."""
    paths = [str(place), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found |= {"TORCH_EXTENSIONS_DIR": str(place / "extensions"), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    # DeepSpeed starts gloo itself, but not where accelerate has been told that there are CPUs only.
    return found if mode.startswith("zero") else {**found, "ACCELERATE_USE_CPU": "true"}


def run_jobs(place: Path, mode: str, jobs: list[Job], *, expect: int = 0) -> list[dict[str, Any]]:
    """Runs the jobs one after the other in two processes; returns each process's results, by the name of the job.

    place: the working folder.
    mode: one of `MODES`.
    expect: the exit code; not 0 for jobs that end their processes.
    """
    folder = place / f"{mode}-{jobs[0]['name']}"
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [*launcher(mode), __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment(mode, place), timeout=900)
    assert done.returncode == expect, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    assert sorted(p.name for p in folder.glob("rank*.json")) == ["rank0.json", "rank1.json"]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def allow_on_cpu() -> None:
    """Makes accelerate take FSDP and DeepSpeed on a CPU, if the launcher asked for one of them, and bf16 usable."""
    import accelerate.state
    import transformers.training_args
    from accelerate.utils import DistributedType

    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    partial, whole = accelerate.state.PartialState, accelerate.state.AcceleratorState
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        plain = whole.__init__

        def with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
            plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
            if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
                self.distributed_type = partial._shared_state["distributed_type"] = DistributedType.FSDP
                self.fsdp_plugin = fsdp_plugin
                if self._mixed_precision != "no":
                    fsdp_plugin.set_mixed_precision(self._mixed_precision)

        whole.__init__ = with_fsdp
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        prepare = partial._prepare_backend

        def with_gloo(self: Any, *args: Any, **kwargs: Any) -> Any:
            found = prepare(self, *args, **kwargs)
            return ("gloo", DistributedType.MULTI_CPU) if found[0] is None else found

        partial._prepare_backend = with_gloo
        communication: Any = importlib.import_module("deepspeed.comm.torch")
        communication.build_shm_op = lambda: None  # it would compile C++ for a minute


def train_job(job: Job) -> dict[str, Any]:
    """Trains, and returns the losses and what was logged beside them.

    job: `settings` and `output` as for `ibtpo.train`; `resume`; `die_at`, a step after which the process is killed.
    """
    import transformers

    import ibtpo

    rows: list[dict[str, Any]] = []
    held: list[float] = []

    class Watch(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                rows.append({"step": state.global_step, **logs})

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            held.append(share_held(model))
            if state.global_step == job.get("die_at"):
                os.kill(os.getpid(), signal.SIGKILL)

    how = {"resume": True} if job.get("resume") else {}
    run = ibtpo.train(None if how else job["settings"], output=job["output"], callbacks=[Watch()], **how)
    keep = ("step", "loss", "grad_norm", "kl", "reward", "sampling/logp_gap_max", "ibtpo/generated_tokens")
    return {
        "rows": [{k: row[k] for k in keep if k in row} for row in rows],
        "held": held,
        "before": run.before,
        "after": run.after,
        "generated_tokens": run.generated_tokens,
    }


def share_held(model: Any) -> float:
    """The share of a model's weights that this process holds."""
    here = whole = 0
    for p in model.parameters():
        whole += getattr(p, "ds_numel", p.numel())
        part = getattr(p, "_local_tensor", getattr(p, "ds_tensor", p))
        here += part.numel()
    return here / whole


def more_a(completions: list[str], **columns: Any) -> list[float]:
    """A reward: whether an answer has more a than b."""
    return [float(c.count("a") > c.count("b")) for c in completions]


def probe_job(job: Job) -> dict[str, Any]:
    """Trains with an `IBScoreCallback` and a reward that is a function of this process; returns what was probed."""
    from datasets import Dataset

    from ibtpo import IBScoreCallback, IBTPOConfig, IBTPOTrainer, Sampling, SearchOptions
    from ibtpo.search import Budget

    args = IBTPOConfig(output_dir=job["output"], **QUIET, **job["options"])
    data = Dataset.from_list([{"prompt": "abc"[i % 3] + "defg"[i % 4]} for i in range(12)])
    trainer = IBTPOTrainer(job["model"], more_a, args, data)
    search = SearchOptions(Budget(3, 4), Sampling(1.0, 1.0, 0), max_completion_length=24, seed=5, deterministic=True)
    trees = Path(job["output"]) / "trees"
    callback = IBScoreCallback(trainer, every=1, num_prompts=5, search=search, max_time_share=1.0, trees_dir=trees)
    trainer.add_callback(callback)
    trainer.train()
    found = [row for row in trainer.state.log_history if "ibtpo/probe/seconds" in row]
    return {
        "probes": [{k: v for k, v in row.items() if "seconds" not in k and "time_share" not in k} for row in found],
        "ids": [tree.id for tree in callback.trees],
    }


def command_job(job: Job) -> dict[str, Any]:
    """Goes on with a run as `ibtpo train --resume` does, and returns the exit code."""
    from ibtpo.cli import main

    return {"code": main(["train", "--resume", job["output"]])}


EXTRA = {"probe": probe_job, "command": command_job}


def run_job(job: Job) -> dict[str, Any]:
    """The result of a job, or the error that it ended with."""
    try:
        return EXTRA.get(job["name"], train_job)(job)
    except Exception as e:
        import traceback

        return {"error": f"{type(e).__name__}: {e}", "traceback": traceback.format_exc()}


def main() -> None:
    allow_on_cpu()
    import torch

    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    results: dict[str, Any] = {}
    for job in json.loads((folder / "jobs.json").read_text()):
        (folder / f"rank{rank}.json").write_text(json.dumps(results))  # so that it is there if the job kills us
        results[job["name"]] = run_job(job)
        print(job["name"], json.dumps(results[job["name"]])[:300], flush=True)
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
