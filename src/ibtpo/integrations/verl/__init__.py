"""IB-TPO in verl: trees grown over its rollout servers, their step advantages in its PPO update. See docs/verl.md.

`trees` holds what needs no verl, `plugin` what verl calls, and the folder `method` the configuration that verl's
command takes with `+method=ibtpo`.
"""
