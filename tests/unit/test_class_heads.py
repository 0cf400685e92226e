"""Class heads: what they are built of, and that they are built again as they were."""

import numpy as np
import pytest
import torch
from cli.command_line import gene_names, made_up_cells

from cellwright.data.cells import open_cells
from cellwright.models import FAMILIES, load, new_model
from cellwright.nn.heads import ClassHead, build_head
from cellwright.tasks.annotate import HEAD, AnnotateConfig, annotate_cells, class_weights, train_annotator
from cellwright.tasks.finetuning import Rows
from cellwright.tasks.inference import InferenceOptions
from cellwright.vocab import GeneVocab

PUBLISHED = {"num_layers": 2, "hidden": 256, "is_standardised": True, "has_layer_norm": False}
SHORT = ["train.accelerator=cpu", "train.max_epochs=2", "batch_size=8", "optim.lr=0.005"]


def test_scfoundations_head_is_the_published_one():
    """Batch norm without weights, then Linear 256, ReLU, Linear (published: ``finetune_model.py``)."""
    head = ClassHead(96, 11, **FAMILIES["scfoundation"].class_head).eval()
    x_nd = torch.randn(5, 96, generator=torch.Generator().manual_seed(0)) * 3 + 7
    head.norm.running_mean[:] = 7.0
    head.norm.running_var[:] = 9.0
    tensors = dict(head.named_parameters())
    assert sorted(p.shape for p in tensors.values()) == sorted([(256, 96), (256,), (11, 256), (11,)])
    first, last = head.trunk[0], head.out
    by_hand_nk = torch.relu((x_nd - 7) / (9 + 1e-6) ** 0.5 @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(head(x_nd), by_hand_nk)


@pytest.mark.parametrize("options", [{}, PUBLISHED, {"num_layers": 1}, {"is_standardised": True}])
def test_a_head_is_built_again_from_its_options(options):
    head = ClassHead(12, 3, **options).train()
    head(torch.randn(7, 12) * 5 + 2)  # statistics move
    again = build_head(12, head.options)
    again.load_state_dict(head.state_dict())
    x_nd = torch.randn(4, 12)
    assert torch.equal(again.eval()(x_nd), head.eval()(x_nd))


def test_usual_heads_say_no_more_than_before():
    """Folders written by earlier versions and these are the same."""
    assert ClassHead(8, 2).options == {"num_classes": 2, "num_layers": 3, "kind": "label"}


def test_a_minibatch_of_one_cell_is_trained_on():
    head = ClassHead(6, 2, is_standardised=True).train()
    head(torch.randn(9, 6))
    before = head.norm.running_mean.clone()
    assert torch.isfinite(head(torch.randn(1, 6))).all()
    assert torch.equal(before, head.norm.running_mean)


def small(family="scfoundation"):
    made = FAMILIES[family]
    vocab = GeneVocab.from_genes(gene_names(), made.specials)
    return new_model(family, vocab, made.sizes["tiny"], seed=1)


def labelled(model, num=24):
    source = open_cells(made_up_cells(num), model.vocab, accepts=model.family.accepts)
    return source.with_obs({HEAD: np.arange(num) % 2})


def trained(model, changes, folder):
    rows = Rows(train=np.arange(17), valid=np.arange(17, 24))  # 17 = two minibatches of 8, and one cell
    config = AnnotateConfig().override([*SHORT, *changes])
    return train_annotator(model, labelled(model), rows, ("a", "b"), config=config, folder=folder)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_alone_are_trained(family, tmp_path):
    model = small(family)
    num = len(model.network.blocks)
    tuned = trained(model, ["mode=blocks", "blocks=[-1]"], tmp_path / "run")
    before, after = model.network.state_dict(), tuned.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(f"blocks.{num - 1}.") for name in moved)


def test_a_head_that_standardises_is_kept(tmp_path):
    tuned = trained(small(), ["mode=probe"], tmp_path / "run")
    assert tuned.heads[HEAD].options.items() >= PUBLISHED.items()
    again, source = load(tmp_path / "run"), labelled(tuned)
    quiet = InferenceOptions(progress=False, device="cpu")
    assert (annotate_cells(again, source, quiet).prob_nk == annotate_cells(tuned, source, quiet).prob_nk).all()


def test_a_block_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"blocks = 5: the network has blocks 0 to 1, or -2 to -1 from the end"):
        trained(small(), ["mode=blocks", "blocks=[5]"], tmp_path / "run")


def test_capped_weights_of_classes():
    source = labelled(small(), 24).with_obs({HEAD: np.array([0] * 23 + [1])})
    rows = np.arange(24)
    balanced, capped = class_weights(source, rows, 3), class_weights(source, rows, 3, most=4.0)
    assert balanced == pytest.approx([24 / 46, 24 / 2, 1.0])
    assert capped[1] / capped[0] == pytest.approx(4.0)
    assert capped[0] * 23 + capped[1] == pytest.approx(24)
