"""Networks that are too large are refused before they are built."""

import pytest

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


def vocab_of(family, num=500):
    return GeneVocab.from_genes([f"G{i}" for i in range(num)], FAMILIES[family].specials)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_estimate_is_near(family, size):
    config, vocab = FAMILIES[family].sizes[size], vocab_of(family)
    num = sum(p.numel() for p in new_model(family, vocab, config).network.parameters())
    assert config.num_weights(len(vocab)) == pytest.approx(num, rel=0.1)


def test_a_network_beyond_half_of_the_memory_is_refused_unbuilt():
    assert machine_memory() > 2**28
    layers = 1 + machine_memory() // (4 * 6 * (1 << 32))
    config = FAMILIES["scgpt"].config.read({"width": 1 << 16, "num_layers": layers, "feed_forward": 1 << 16}, "model")
    with pytest.raises(ValueError, match=r"a scGPT network of about [\d,]+ weights takes .* more than half of this"):
        new_model("scgpt", vocab_of("scgpt"), config)


def test_half_is_the_limit():
    check_fits(1000, "it", 2 * 4 * 1000)
    with pytest.raises(ValueError, match="it of about 1,001 weights"):
        check_fits(1001, "it", 2 * 4 * 1000)
    check_fits(10**15, "it", 0)
