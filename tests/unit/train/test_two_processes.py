"""Training on two processes: shards differ, weights agree, a killed run resumes bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from toy_cells import ToyLoader, ToyModel, ToyTokenizer, toy_cells
from cellwright.objectives import Objective
from cellwright.objectives.value import MaskedValue
from cellwright.objectives.views import RandomMask
from cellwright.train.optim import OptimConfig
from cellwright.train.plan import TrainPlan
from cellwright.train.run import TrainConfig, fit, open_run

folder, after, resume = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resume"

class Stopping(ToyTokenizer):
    def __call__(self, cells, draw):
        if draw.epoch < 9 and draw.epoch * 5 + draw.step // 2 >= after:
            os._exit(3)
        return super().__call__(cells, draw)

# only one of the heads is read, so that parts of the network get no gradient
plan = TrainPlan(
    ToyModel(dropout=0.2), Objective(RandomMask(), {"gep": (1, MaskedValue())}), Stopping(), optim=OptimConfig(lr=0.02)
)
loader = ToyLoader(toy_cells(40, seed=3), 4)
open_run(folder, {"name": "two"}, resume=resume)
config = TrainConfig(max_steps=14, accelerator="cpu", devices=2, log_every=1, checkpoint_every=4, keep="best")
result = fit(
    plan, loader, ToyLoader(toy_cells(16, seed=1)), config=config, folder=folder, resume=resume, is_progress_shown=False
)
rank = os.environ.get("LOCAL_RANK", "0")
rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
weights = {k: v.tolist() for k, v in plan.state_dict().items()}
with open(f"{folder}/result-{rank}.json", "w") as handle:
    json.dump({"rows": rows, "weights": weights, "given": loader.given, "best": result.best_step}, handle)
"""


def launch(script, folder, after=99, resume=False):
    tests = Path(__file__).parents[2]
    command = [sys.executable, str(script), str(tests), str(folder), str(after), "resume" if resume else "new"]
    return subprocess.run(command, timeout=240, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_two_processes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = launch(script, tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    zero, one = (json.loads((tmp_path / "whole" / f"result-{rank}.json").read_text()) for rank in (0, 1))
    assert zero["weights"] == one["weights"]
    assert zero["best"] == one["best"] is not None
    assert not {row for rows in zero["given"][:5] for row in rows} & {row for rows in one["given"][:5] for row in rows}
    assert [row["step"] for row in zero["rows"] if "train/loss" in row] == list(range(1, 15))
    killed = launch(script, tmp_path / "parts", after=11)
    assert killed.returncode != 0
    resumed = launch(script, tmp_path / "parts", resume=True)
    assert resumed.returncode == 0, resumed.stderr
    again = json.loads((tmp_path / "parts" / "result-0.json").read_text())
    assert again["rows"] == zero["rows"]
    assert again["weights"] == zero["weights"]
