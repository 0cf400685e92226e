"""Networks that are too large are refused before they are built."""

import pytest
import torch
from torch import nn

from cellwright.models import FAMILIES, new_model
from cellwright.models.sizes import check_fits, machine_memory
from cellwright.vocab import GeneVocab

ABSURD = {
    "scgpt": {"num_layers": 100_000, "width": 10**9, "num_heads": 5000, "feed_forward": 10**8},
    "scmulan": {"num_layers": 100_000, "width": 10**9, "num_heads": 5000},
    "scfoundation": {"encoder_layers": 100_000, "encoder_width": 10**9, "decoder_layers": 5000, "decoder_heads": 2000},
}


@pytest.mark.parametrize(
    ("family", "name", "value"), [(f, n, v) for f, fields in ABSURD.items() for n, v in fields.items()]
)
def test_absurd_records_name_the_field(family, name, value):
    record = FAMILIES[family].sizes["tiny"].record() | {name: value}
    with pytest.raises(ValueError, match=f"{name} = {value}: Input should be less than or equal to"):
        FAMILIES[family].config.read(record, "args.json")


def test_a_network_beyond_half_of_the_memory_is_refused_unbuilt():
    assert machine_memory() > 2**28
    num = machine_memory() // 4 // 1000  # as many rows of 1,000 numbers as fill the machine
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(200)], FAMILIES["scgpt"].specials)
    width = 1 << 16
    config = FAMILIES["scgpt"].config.read({"width": width, "num_layers": 8, "feed_forward": width}, "model")
    with pytest.raises(
        ValueError, match=r"a scGPT network of [\d,]+ parameters takes .* more than half of this machine's"
    ):
        new_model("scgpt", vocab, config)
    with torch.device("meta"):
        network = nn.Embedding(num, 1000)
    with pytest.raises(ValueError, match="a table of"):
        check_fits(network, "a table")


def test_half_is_the_limit():
    network = nn.Linear(255, 1000, bias=True)  # 256,000 numbers of four bytes
    check_fits(network, "it", 2 * 4 * 256_000)
    with pytest.raises(ValueError, match="it of 256,000 parameters"):
        check_fits(network, "it", 2 * 4 * 256_000 - 1)
    check_fits(network, "it", 0)


def test_the_seeded_weights_do_not_depend_on_the_check():
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(20)], FAMILIES["scgpt"].specials)
    config = FAMILIES["scgpt"].sizes["tiny"]
    torch.manual_seed(5)
    one = new_model("scgpt", vocab, config, seed=3)
    after = torch.rand(3)
    torch.manual_seed(3)
    network = FAMILIES["scgpt"].build(config, vocab)
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), network.parameters(), strict=True))
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
