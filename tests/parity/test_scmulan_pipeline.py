"""From counts to labels and embeddings as the published high-level calls give them."""

import numpy as np
import pytest
from parity.cases import Case
from parity.sentences import recorded_cells

from cellwright.models import load
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.tell import TellConfig, tell_cells
from cellwright.types import Draw

NAMES = ["pipeline_tiny", "pipeline_realvocab"]


class Given:
    """Ready cells as a source."""

    def __init__(self, cells, vocab):
        self.cells, self.vocab, self.state = cells, vocab, cells.state

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(rows)


def tell(name, *, field="counts", batch_size=64, **changes):
    case = Case("scmulan", name)
    model = load(case.folder)
    source = Given(recorded_cells(case, model.vocab, field), model.vocab)
    options = InferenceOptions(progress=False, device="cpu", batch_size=batch_size)
    return case, tell_cells(model, source, TellConfig(**changes), options=options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("restricted", ["no", "any"])
@pytest.mark.parametrize("field", ["counts", "X_norm"])
def test_labels_and_embeddings(name, restricted, field):
    case, found = tell(name, field=field, restricted=restricted)
    prefix = "restricted/" if restricted == "any" else ""
    assert found.words["cell_type"].tolist() == case.arrays[f"{prefix}cell_type_from_scMulan"].tolist()
    assert found.words["coarse_type"].tolist() == case.arrays[f"{prefix}coarse"].tolist()
    np.testing.assert_allclose(found.embedding_nd, case.arrays[f"{prefix}X_scMulan"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_minibatches_do_not_matter(name):
    _, together = tell(name)
    for size in (1, 4):
        _, found = tell(name, batch_size=size)
        for category, label_n in together.words.items():
            assert found.words[category].tolist() == label_n.tolist()
        np.testing.assert_allclose(found.embedding_nd, together.embedding_nd, atol=1e-5, rtol=1e-5)
        assert found.is_ended_n.tolist() == together.is_ended_n.tolist()


def test_the_embedding_of_the_paper_is_that_of_the_task_word():
    case, found = tell("pipeline_tiny", embedding="task")
    model = load(case.folder)
    out = model.network(model.tokenizer()(recorded_cells(case, model.vocab, "counts"), Draw()))
    np.testing.assert_allclose(found.embedding_nd, out.cell_nd.detach().numpy(), atol=1e-5, rtol=1e-5)
    _, published = tell("pipeline_tiny", restricted="no")
    assert np.abs(found.embedding_nd - published.embedding_nd).max() > 0.1
