"""The grammar of the command line, ``inspect`` and ``convert``, and the installed entry point."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from cli.command_line import cellwright as call
from cli.command_line import listing, refused, works

import cellwright
from cellwright.cli import build, run
from cellwright.commands import COMMANDS, GROUPS
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import ReadOptions

VERBS = [*COMMANDS, *(f"{group} {name}" for group, (_, commands) in GROUPS.items() for name in commands)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    said = works(*verb.split(), "--help")
    assert f"cellwright {verb}" in said
    for option in re.findall(r"^  (--[a-z-]+)", said, re.MULTILINE):
        # each option says what it is for
        assert re.search(rf"{option}\S*(?:, \S+)?(?: [A-Z]+)?\s+\S", said), option


def test_options_come_from_signatures():
    said = works("embed", "--help")
    for config in (ReadOptions, InferenceOptions):
        for name in config.model_fields:
            assert f"--{name.replace('_', '-')}" in said, name
    assert "--no-progress" in works("pretrain", "--help")
    assert "--no-progress" in works("demo", "--help")
    for verb in ("embed", "annotate", "inspect", "finetune annotate"):
        assert "--assume" in works(*verb.split(), "--help")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["embd"], ["'embd'", "id you mean 'embed'?"]),
        (["finetun", "annotate"], ["'finetun'", "id you mean 'finetune'?"]),
        (["finetune", "anotate"], ["'anotate'", "id you mean 'annotate'"]),
        (["finetune"], ["Missing command", "cellwright finetune --help"]),
        (["embed", "MODEL"], ["Missing argument 'data'", "cellwright embed --help"]),
        (["embed", "MODEL", "DATA"], ["Missing option '--out' / '-o'"]),
        (["embed", "MODEL", "DATA", "MORE", "-o", "OUT"], ["extra argument", "MORE"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--batchsize", "3"], ["--batchsize", "did you mean '--batch-size'?"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--batch-size", "many"], ["--batch-size", "integer"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--batch-size", "0"], ["batch_size = 0"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--max-length", "1"], ["max_length = 1"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--seed", "-1"], ["seed = -1"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--seed", "nan"], ["--seed", "integer"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--ties", "lower"], ["ties = 'lower'", "'upper' or 'random'"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--genes", "fuzzy"], ["genes = 'fuzzy'", "'harmonise' or 'exact'"]),
        (["embed", "MODEL", "DATA", "-o", "OUT", "--precision", "int8"], ["precision = 'int8'"]),
        (["pretrain", "-o", "OUT"], ["Missing argument 'data'"]),
        (["report", "ABSENT"], ["ABSENT", "evaluation.json is missing"]),
    ],
)
def test_wrong_words_end_in_one_line(words, says, tmp_path):
    refused(tmp_path, *words, says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--slot", ""], ["obsm key ''"]),
        (["--slot", "X/a"], ["obsm key 'X/a'", "must not be empty or contain '/'"]),
        (["--device", "quantum"], ["device 'quantum' is not known"]),
        (["--layer", ""], ["no matrix ''"]),
    ],
)
def test_wrong_values_end_in_one_line(words, says, official, data, tmp_path):
    refused(tmp_path, "embed", official, data, "-o", tmp_path / "out.h5ad", *words, says=says)


@pytest.mark.parametrize("threshold", ["1.5", "-0.1", "nan"])
def test_a_threshold_is_a_probability(threshold, annotator, data, tmp_path):
    words = ["annotate", annotator, data, "-o", tmp_path / "out.h5ad", "--threshold", threshold]
    refused(tmp_path, *words, says=["threshold is", "0 .. 1"])


def test_a_seed_of_any_size_is_written_down(official, data, tmp_path):
    works("embed", official, data, "-o", tmp_path / "out.h5ad", "--seed", 10**30)


def test_debug_shows_the_traceback(official, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        run(["--debug", "embed", str(official), str(tmp_path / "absent.h5ad"), "-o", str(tmp_path / "out.h5ad")])
    assert "--debug" in works()  # without words, the help
    assert works("--version").startswith("cellwright ")


def test_inspect_tells_data(data, official):
    said = works("inspect", data)
    assert f"{data}: 40 cells x 60 genes from X" in said
    assert "values are raw" in said
    record = json.loads(works("inspect", data, "--json", "--model", official))
    assert record["kind"] == "data"
    assert record["state"]["kind"] == "raw"
    assert record["coverage"] == {"source_genes": 1.0, "vocab_genes": 1.0, "molecules": 1.0}
    assert record == cellwright.inspect(data, model=official)[0]


def test_inspect_tells_models(official, own, model):
    said = works("inspect", official)
    assert "scGPT" in said
    assert "0 missing, 0 of another shape, 0 unused" in said
    assert "head label: none" in said
    released, kept = (json.loads(works("inspect", folder, "--json")) for folder in (official, own))
    assert (released["kind"], released["family"]) == ("model", "scgpt")
    assert released["num_parameters"] == kept["num_parameters"] == model.num_parameters
    assert kept["sha256"] == model.sha256()
    assert kept["vocab"]["sha256"] == model.vocab.sha256


def test_convert_there_and_back_is_exact(official, tmp_path):
    works("convert", official, tmp_path / "own")
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"config.json", "vocab.json", "model.safetensors"}
    works("convert", tmp_path / "own", tmp_path / "new" / "back", "--to", "released")
    before, after = (torch.load(f / "best_model.pt", weights_only=True) for f in (official, tmp_path / "new" / "back"))
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(before[name].dtype == after[name].dtype for name in before)
    for name in ("args.json", "vocab.json"):
        assert json.loads((official / name).read_text()) == json.loads((tmp_path / "new" / "back" / name).read_text())
    sums = [cellwright.load(folder).sha256() for folder in (official, tmp_path / "own", tmp_path / "new" / "back")]
    assert len(set(sums)) == 1


def test_convert_refuses_what_it_would_spoil(official, data, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    refused(tmp_path, "convert", official, tmp_path / "full", says=["full holds files; choose a folder"])
    refused(tmp_path, "convert", official, tmp_path / "full" / "notes.txt", says=["notes.txt is a file; choose"])
    refused(tmp_path, "convert", official, tmp_path / "full" / "notes.txt" / "x", says=["is a file, not a folder"])
    refused(tmp_path, "convert", official, tmp_path / "out", "--to", "relesed", says=["to = 'relesed'", "released"])
    refused(tmp_path, "convert", data, tmp_path / "out", says=["is not a model"])
    before = listing(official)
    assert call("convert", official, official).code == 2
    assert listing(official) == before


def test_the_installed_command_returns_its_exit_code(tmp_path):
    command = Path(sys.executable).with_name("cellwright")
    words = [command] if command.exists() else [sys.executable, "-c", "from cellwright.cli import main; main()"]
    absent = str(tmp_path / "absent.h5ad")
    done = subprocess.run([*words, "inspect", absent], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: no such file or folder: {absent}\n"


def test_every_option_says_what_it_is_for():
    def leaves(command, path):
        for name, child in getattr(command, "commands", {}).items():
            yield from leaves(child, f"{path} {name}")
        if not hasattr(command, "commands"):
            yield path, command

    for path, command in leaves(typer.main.get_command(build()), "cellwright"):
        for option in command.params:
            assert getattr(option, "help", None), f"{path}: {option.name} has no help text"
