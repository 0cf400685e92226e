"""Training: the plan (what one step does), the run (loop, folder, checkpoints), optimiser groups and schedules.

The engine is Lightning. It takes seconds to import, so that `plan`, `run`, `callbacks` and `checkpoint`, which need
it, are imported where used; `config` and `optim` are light.
"""
