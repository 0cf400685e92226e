"""Files that the tests of the command line share; they are made once and never written to."""

import pytest
from cli.command_line import made_up_cells, made_up_model, works, write


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with the shared files; every test of it must leave it as it was."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def adata():
    """The cells of `data`; copy before changing them."""
    return made_up_cells()


@pytest.fixture(scope="session")
def data(home, adata):
    """40 cells x 60 genes of counts, two types, ten donors."""
    return write(adata.copy(), home / "cells.h5ad")


@pytest.fixture(scope="session")
def model():
    """An untrained tiny scGPT; not to be changed."""
    return made_up_model()


@pytest.fixture(scope="session")
def official(home, model):
    """The model as a published folder."""
    model.release(home / "official")
    return home / "official"


@pytest.fixture(scope="session")
def own(home, model):
    """The model as a cellwright checkpoint."""
    model.save(home / "own")
    return home / "own"


@pytest.fixture(scope="session")
def annotator(home, official, data):
    """A run folder that labels the two types."""
    changes = ("train.accelerator=cpu", "train.max_epochs=5", "batch_size=8", "optim.lr=0.005", "num_layers=1")
    words = ["--label", "cell_type", "--no-progress", *(word for change in changes for word in ("--set", change))]
    works("finetune", "annotate", official, data, "-o", home / "annotator", *words)
    return home / "annotator"
