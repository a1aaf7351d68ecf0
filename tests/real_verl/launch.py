"""The command of a run of verl's `main_ppo` on a CPU, with the embedded model and task."""

import os
import subprocess
import sys
from pathlib import Path

import datasets

from ibtpo.engines.models import resolve_model
from real_verl.questions import row_of, walks

REPOSITORY = Path(__file__).parents[2]
RUNNER = "verl.trainer.main_ppo"
TRIES = 3
TIMEOUT = 900  # seconds
LENGTH = 64  # most tokens of an answer
QUESTIONS = 4
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"

METHOD = ["hydra.searchpath=[pkg://ibtpo.integrations.verl]", "+method=ibtpo"]
ON_A_CPU = [
    "trainer.device=cpu",
    "trainer.n_gpus_per_node=1",
    "+ray_kwargs.ray_init.num_gpus=1",
    "ray_kwargs.ray_init.num_cpus=12",  # more than there are: they are what verl's actors ask for
    "+ray_kwargs.ray_init.include_dashboard=false",
    "+ray_kwargs.ray_init.object_store_memory=300000000",
    "ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES="
    "'real_verl.cpu_platform,real_verl.cpu_rollout,ibtpo.integrations.verl.plugin'",
    "actor_rollout_ref.rollout.name=cpu",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "reward.num_workers=1",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "actor_rollout_ref.model.use_remove_padding=false",
    "actor_rollout_ref.model.enable_gradient_checkpointing=false",
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.actor.strategy=fsdp2",
    "actor_rollout_ref.actor.fsdp_config.model_dtype=fp32",
    "actor_rollout_ref.actor.fsdp_config.dtype=float32",
    "actor_rollout_ref.actor.use_torch_compile=false",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=false",
]


def questions(path: Path, count: int) -> None:
    """Writes a Parquet file of number walks in verl's format, without a column `agent_name`."""
    datasets.Dataset.from_list([row_of(walk, i) for i, walk in enumerate(walks(count))]).to_parquet(path)


def main_ppo(folder: Path, *options: str) -> tuple[int, str]:
    """Runs verl's command with `+method=ibtpo` in a folder, and returns its exit status and what it wrote."""
    data = folder / "walk.parquet"
    questions(data, QUESTIONS)
    command = [
        sys.executable,
        "-m",
        RUNNER,
        *METHOD,
        f"data.train_files={data}",
        f"data.val_files={data}",
        "data.train_batch_size=2",
        "data.max_prompt_length=64",
        f"data.max_response_length={LENGTH}",
        "data.shuffle=false",
        f"reward.custom_reward_function.path={Path(__file__).with_name('walk_score.py')}",
        "reward.custom_reward_function.name=compute_score",
        f"actor_rollout_ref.model.path={resolve_model('nano')}",
        f"+actor_rollout_ref.model.custom_chat_template='{TEMPLATE}'",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=12",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=12",
        "trainer.logger=console",
        "trainer.save_freq=-1",
        *ON_A_CPU,
        *options,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY / "tests")]),
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "real_verl.cpu_platform,real_verl.cpu_rollout",
        "HYDRA_FULL_ERROR": "1",
        "RAY_worker_niceness": "0",  # by default Ray gives way to everything else
        "RAY_worker_register_timeout_seconds": "600",
        "RAY_health_check_failure_threshold": "100",
        "RAY_enable_worker_prestart": "0",  # Ray would start as many idle processes as there are processors
        "RAY_prestart_worker_first_driver": "0",
    }
    log = folder / "output.txt"
    for _ in range(TRIES):
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            status = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.terminate()  # not killed: it ends Ray's processes with it
            process.wait(60)
            raise
        output = log.read_text()
        if "timed out during startup" not in output:  # Ray gives itself half a minute: short on a busy machine
            break
    return status, output
