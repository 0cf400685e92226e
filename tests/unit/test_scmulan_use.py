"""A small scMulan in use: making cells, learning to tell them."""

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, new_model
from cellwright.objectives import TERMS, VIEWS, Objective
from cellwright.objectives.views import Clean
from cellwright.tasks import tell
from cellwright.tasks.decode import DecodeConfig
from cellwright.tasks.generate import CellPrompt, GenerateConfig, generate_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.tell import TellConfig, tell_cells
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab

FAMILY = FAMILIES["scmulan"]
GENES = [f"G{i:02}" for i in range(24)]
QUIET = InferenceOptions(progress=False, device="cpu", batch_size=16)


def vocab():
    words = {"organ": ["Lung", "Liver"], "coarse_type": ["T", "B"], "cell_type": ["T1", "T2", "B"]}
    return GeneVocab.from_genes(GENES, FAMILY.specials, words)


def model(seed=0):
    return new_model("scmulan", vocab(), FAMILY.sizes["tiny"], seed=seed)


class Source:
    state = "raw"

    def __init__(self, cells, known):
        self.cells, self.vocab = cells, known

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(rows)


def cells(num=60, seed=0):
    """Cells of three types; each type has eight genes of its own."""
    rng = np.random.default_rng(seed)
    type_n = np.arange(num) % 3
    genes = [np.sort(rng.choice(np.arange(8) + 8 * t, rng.integers(4, 8), replace=False)) for t in type_n]
    gene_z = np.concatenate(genes).astype(np.int32)
    coarse_n = np.array([0, 0, 1])[type_n]
    return CellBatch(
        indptr_n1=np.cumsum([0, *map(len, genes)]),
        gene_z=gene_z,
        value_z=rng.integers(1, 9, len(gene_z)).astype(np.float32),
        row_n=np.arange(num),
        total_n=np.full(num, 60.0),
        # codes go by the words' places in their categories: "B" is a coarse and a fine type, and comes first
        obs={
            "organ": vocab().codes("organ", np.array(["Lung", "Liver"])[coarse_n]),
            "coarse_type": vocab().codes("coarse_type", np.array(["T", "B"])[coarse_n]),
            "cell_type": vocab().codes("cell_type", np.array(["T1", "T2", "B"])[type_n]),
        },
    )


def tasks(*names):
    known = {
        "annotate": {"word": "annotate", "asked": ["coarse_type", "cell_type"]},
        "generate": {"word": "generate", "given": ["organ", "cell_type"], "asks_genes": True},
    }
    return VIEWS["c_sentence"].read({"tasks": [known[name] for name in names]}, "view")


@pytest.fixture(scope="module")
def trained():
    """A tiny model that has seen the cells in both tasks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made, batch = model(), cells()
        terms = {"next_entity": (1.0, TERMS["next_entity"]()), "next_level": (0.05, TERMS["next_level"]())}
        objective = Objective(tasks("annotate", "generate"), terms)
        optimiser = torch.optim.Adam(made.network.parameters(), lr=1e-2)
        losses = []
        order = np.random.default_rng(0)
        for step in range(300):
            some = batch.take(order.choice(len(batch), 20, replace=False))
            report = objective.step(made.network.train(), some, tokenize=made.tokenizer(), draw=Draw(0, step, step))
            optimiser.zero_grad()
            report.loss.backward()
            optimiser.step()
            losses.append(report.loss.item())
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    made.network.eval()
    return made


def test_it_tells_cells_it_has_not_seen(trained):
    batch = cells(30, seed=5)
    found = tell_cells(trained, Source(batch, trained.vocab), options=QUIET)
    names = np.array(trained.vocab.categories["cell_type"])
    coarse = np.array(trained.vocab.categories["coarse_type"])
    assert (found.words["cell_type"] == names[batch.obs["cell_type"]]).mean() > 0.9
    assert (found.words["coarse_type"] == coarse[batch.obs["coarse_type"]]).mean() > 0.9
    assert found.embedding_nd.shape == (30, 64)
    assert found.is_ended_n.all()
    loose = tell_cells(trained, Source(batch, trained.vocab), TellConfig(restricted="any"), options=QUIET)
    assert set(loose.words["cell_type"]) <= {"T", "B", "T1", "T2", "Unclassified"}


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_class_head_reads_the_state_of_the_task_word(is_padded):
    made = model()
    for word in ("annotate", "place"):
        tokens, _ = Clean()(cells(5), made.tokenizer(task_word=word), Draw())
        tokens = tokens.padded(made.vocab.special_id("pad")) if is_padded else tokens
        with torch.no_grad():
            out = made.network(tokens)
        is_task_nt = tokens.gene_nt == made.vocab.special_id(word)
        assert is_task_nt.sum() == 5
        torch.testing.assert_close(out.cell_nd, out.hidden_ntd[is_task_nt], rtol=0, atol=0)


def test_it_makes_cells_of_a_kind(trained):
    prompts = [
        CellPrompt(words={"organ": "Lung", "cell_type": "T1"}, num_cells=20),
        CellPrompt(words={"organ": "Liver", "cell_type": "B"}, levels={"G16": 7, "G03": 0}, num_cells=20),
    ]
    made = generate_cells(trained, prompts, GenerateConfig(gamma=1.0), options=QUIET)
    again = generate_cells(trained, prompts, GenerateConfig(gamma=1.0), options=replace_batch(7))
    assert (made.level_ng != again.level_ng).nnz == 0
    assert made.prompt_n.tolist() == [0] * 20 + [1] * 20
    dense = made.level_ng.toarray()
    assert dense.max() <= 1
    own = [dense[:20, :8].sum() / dense[:20].sum(), dense[20:, 16:].sum() / dense[20:].sum()]
    assert min(own) > 0.85
    assert (dense[20:, 16] == np.float32(0.7)).all()
    assert (dense[20:, 3] == 0).all()
    assert made.is_ended_n.mean() > 0.9
    assert not made.num_other_n.any()
    other = generate_cells(trained, prompts, GenerateConfig(gamma=1.0, seed=1), options=QUIET)
    assert (made.level_ng != other.level_ng).nnz > 0


def replace_batch(size):
    return QUIET.model_copy(update={"batch_size": size})


def test_a_cut_cell_loses_no_gene():
    prompts = [CellPrompt(words={"organ": "Lung"}, num_cells=3)]
    made = generate_cells(model(), prompts, GenerateConfig(gamma=0.0), max_genes=5, options=QUIET)
    assert not made.is_ended_n.any()
    assert made.level_ng.getnnz(1).max() <= 5


def test_bfloat16_stays_close(trained):
    source = Source(cells(12, seed=3), trained.vocab)
    exact, low = (
        tell_cells(trained, source, options=QUIET.model_copy(update={"precision": precision}))
        for precision in ("float32", "bfloat16")
    )
    assert 0 < np.abs(exact.embedding_nd - low.embedding_nd).max() < 0.2
    assert (exact.words["cell_type"] == low.words["cell_type"]).mean() > 0.9


def test_mistakes_in_prompts():
    for prompt, words in (
        ({"words": {"organ": "Kidney"}}, "'Kidney' is no organ that the model knows; it knows Lung, Liver"),
        ({"words": {"sex": "F"}}, "no category 'sex'"),
        ({"words": {"organ": "Lung"}, "levels": {"Lung": 3}}, "gene 'Lung' is not in"),
        ({"words": {"organ": "Lung"}, "levels": {"G01": 11}}, "levels are 0 .. 10"),
    ):
        with pytest.raises(ValueError, match=words):
            generate_cells(model(), [CellPrompt(**prompt)], options=QUIET)
    with pytest.raises(ValueError, match="no cells were asked for"):
        generate_cells(model(), [], options=QUIET)
    scgpt = FAMILIES["scgpt"]
    plain = new_model("scgpt", GeneVocab.from_genes(GENES, scgpt.specials), scgpt.sizes["tiny"])
    with pytest.raises(ValueError, match="scGPT writes no sentences"):
        generate_cells(plain, [CellPrompt(words={})], options=QUIET)
    other = GeneVocab.from_genes(GENES[::-1], FAMILY.specials)
    with pytest.raises(ValueError, match="mapped onto another vocabulary"):
        tell_cells(model(), Source(cells(3), other), options=QUIET)
    with pytest.raises(ValueError, match="no category 'age'"):
        tell_cells(model(), Source(cells(3), vocab()), TellConfig(asked=("age",)), options=QUIET)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, 2),
        ({"embedding": "task"}, 2),
        ({"asked": ("cell_type",), "embedding": "task"}, 1),
        ({"asked": ("cell_type",)}, 2),  # the state of the only answer is asked for
        ({"restricted": "any", "asked": ("cell_type",), "embedding": "task"}, 2),
    ],
)
def test_what_is_certain_is_not_read_for(trained, changes, passes, monkeypatch):
    source, config = Source(cells(5, seed=3), trained.vocab), TellConfig(**changes)
    count = []
    hook = trained.network.register_forward_hook(lambda *_: count.append(1))
    quick = tell_cells(trained, source, config, options=QUIET)
    hook.remove()
    assert len(count) == passes
    assert quick.is_ended_n.all() or config.restricted == "any"
    monkeypatch.setattr(tell, "DecodeConfig", lambda **given: DecodeConfig(**given | {"is_end_read": True}))
    whole = tell_cells(trained, source, config, options=QUIET)
    for name in config.asked:
        assert quick.words[name].tolist() == whole.words[name].tolist()
        np.testing.assert_array_equal(quick.probs[name], whole.probs[name])
    np.testing.assert_array_equal(quick.embedding_nd, whole.embedding_nd)
    np.testing.assert_array_equal(quick.is_ended_n, whole.is_ended_n)
