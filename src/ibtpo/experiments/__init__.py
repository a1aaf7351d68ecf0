"""The training comparison: arms, plan, runs as child processes, statistics over seeds and problems, pictures."""
