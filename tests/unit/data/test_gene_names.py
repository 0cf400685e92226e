"""Names matched to vocabularies: both directions, Ensembl ids, ambiguity, duplicates, and what is never guessed."""

import json
import time

import numpy as np
import pytest

from cellwright.data.gene_table import human_genes
from cellwright.data.genes import id_kind, match_genes, organism
from cellwright.vocab import GeneVocab


def vocab(*tokens):
    return GeneVocab.from_genes(tokens, {"pad": "<pad>"})


def found(names, genes, **options):
    """Return token (None = unmatched) and way of each name."""
    match = match_genes(names, genes, **options)
    return [(genes.tokens[i] if i >= 0 else None, str(how)) for i, how in zip(match.id_g, match.how_g, strict=True)]


def test_previous_symbols_match_in_both_directions():
    assert found(["MARCH8", "CD3E"], vocab("CD3E", "MARCHF8")) == [("MARCHF8", "previous"), ("CD3E", "exact")]
    assert found(["MARCHF8", "NTAQ1"], vocab("MARCH8", "WDYHV1")) == [("MARCH8", "previous"), ("WDYHV1", "previous")]


def test_aliases_match_in_both_directions():
    assert found(["CD40L", "CD3E"], vocab("CD40LG", "CD3E"))[0] == ("CD40LG", "alias")
    assert found(["CD40LG", "CD3E"], vocab("CD40L", "CD3E"))[0] == ("CD40L", "alias")


def test_ensembl_ids_with_and_without_version():
    genes = vocab("ENSG00000198851", "MS4A1", "SEPT7")
    assert found(["ENSG00000198851.9", "ENSG00000156738.17", "ENSG00000122545"], genes) == [
        ("ENSG00000198851", "version_stripped"),
        ("MS4A1", "ensembl"),
        ("SEPT7", "ensembl"),
    ]
    assert found(["CD3E"], genes) == [("ENSG00000198851", "ensembl")]
    assert found(["ENSG00000198851"], vocab("ENSG00000198851.4")) == [("ENSG00000198851.4", "ensembl")]


def test_ensembl_suffixed_tokens_are_reached_by_id_only():
    genes = vocab("CD3E", "ZBED1_ENSG00000214717")
    assert found(["ENSG00000214717.5"], genes) == [("ZBED1_ENSG00000214717", "ensembl")]
    match = match_genes(["ZBED1", "CD3E"], genes)
    assert match.id_g.tolist() == [-1, 0]
    assert match.ambiguous == {"ZBED1": ("ZBED1_ENSG00000214717",)}
    alternatives = {"gene_ids": ["ENSG00000214717", "ENSG00000198851"]}
    assert (match_genes(["ZBED1", "CD3E"], genes, alternatives=alternatives).id_g >= 0).all()


def test_exact_spelling_wins_over_every_other_meaning():
    # SEPT2 is an approved symbol's previous name; a vocabulary that holds both keeps them apart
    assert found(["SEPT2", "SEPTIN2"], vocab("SEPTIN2", "SEPT2")) == [("SEPT2", "exact"), ("SEPTIN2", "exact")]
    table = human_genes()
    assert not set(table.renamed) & set(table.id_of), "an alias must not be the symbol of another gene"
    assert not set(table.ambiguous) & set(table.renamed)


def test_names_of_several_genes_are_listed_not_guessed():
    match = match_genes(["QARS", "CD3E"], vocab("EPRS1", "QARS1", "CD3E"))
    assert match.id_g.tolist() == [-1, 2]
    assert match.ambiguous == {"QARS": ("EPRS1", "QARS1")}
    assert any("QARS" in line for line in match.lines())


def test_two_old_names_of_one_gene_in_the_vocabulary_are_not_guessed():
    aliases = [name for name, (symbol, _) in human_genes().renamed.items() if symbol == "MS4A1"][:2]
    assert len(aliases) == 2
    assert found(["MS4A1", "CD3E"], vocab(*aliases, "CD3E"))[0] == (None, "unmatched")


def test_duplicates_are_reported():
    match = match_genes(["MARCH8", "CD3E", "MARCHF8"], vocab("CD3E", "MARCHF8"))
    assert match.duplicates == {"MARCHF8": ("MARCH8", "MARCHF8")}
    assert match.matched_ids.tolist() == [0, 1]
    assert match.coverage == {"source_genes": 1.0, "vocab_genes": 1.0}


def test_exact_mode_guesses_nothing_and_case_is_kept():
    assert found(["MARCH8", "CD3E"], vocab("CD3E", "MARCHF8"), mode="exact")[0] == (None, "unmatched")
    assert found(["Cd3e", "CD4"], vocab("CD3E", "CD4"))[0] == (None, "unmatched")
    with pytest.raises(ValueError, match="choose 'harmonise' or 'exact'"):
        match_genes(["CD3E"], vocab("CD3E"), mode="fuzzy")


def test_special_tokens_are_not_genes():
    assert found(["<pad>", "CD3E"], vocab("CD3E"))[0] == (None, "unmatched")


def test_the_best_column_is_primary_and_others_fill_gaps():
    names = ["0", "1", "2"]
    alternatives = {"feature_name": ["CD3E", "", "CD4"], "gene_ids": ["", "ENSG00000156738", "nan"]}
    match = match_genes(names, vocab("CD3E", "MS4A1", "CD4"), alternatives=alternatives)
    assert (match.column, match.id_g.tolist()) == ("feature_name", [0, 1, 2])
    assert match.ways == {"exact": 2, "ensembl": 1}
    with pytest.raises(ValueError, match="'short' has 1 entries for 3 genes"):
        match_genes(names, vocab("CD3E"), alternatives={"short": ["CD3E"]})


def test_no_overlap_shows_both_sides():
    with pytest.raises(ValueError, match=r"'Cd3e', 'Ms4a1', 'Gapdh' \(symbol\).*'CD3E'.*look like mouse.*human"):
        match_genes(["Cd3e", "Ms4a1", "Gapdh"], vocab("CD3E", "MS4A1", "GAPDH"))
    with pytest.raises(ValueError, match=r"'0', '1', '2' \(unknown\).*var column such as 'gene_symbol'"):
        match_genes(["0", "1", "2"], vocab("CD3E"))


def test_kinds_and_organisms():
    assert id_kind(["CD3E", "C1orf109", "HLA-A"]) == "symbol"
    assert id_kind(["ENSG00000198851"]) == "ensembl"
    assert id_kind(["ENSG00000198851.4", "ENSMUSG00000198851.1"]) == "ensembl_versioned"
    assert id_kind(["ENSG00000198851", "CD3E"]) == "mixed"
    assert id_kind(["1", "2"]) == id_kind([]) == "unknown"
    assert organism(["CD3E", "C1orf109", "HLA-A"]) == organism(["ENSG00000198851"]) == "human"
    assert organism(["Cd3e", "Gapdh"]) == organism(["ENSMUSG00000032093"]) == "mouse"
    assert organism(["1", "x_2"]) == "unknown"


def test_record_is_json_and_cut_to_a_readable_length():
    names = ["CD3E", *(f"UNKNOWN{i}" for i in range(500))]
    record = match_genes(names, vocab("CD3E")).record()
    assert len(json.dumps(record)) < 3000
    assert record["num_matched"] == 1
    assert record["ways"] == {"unmatched": 500, "exact": 1}


def test_loading_the_table_is_fast_and_happens_only_when_needed():
    human_genes.cache_clear()
    match_genes(["CD3E", "CD4"], vocab("CD3E", "CD4"))
    assert human_genes.cache_info().currsize == 0, "exact matches need no table"
    start = time.process_time()
    human_genes()
    assert time.process_time() - start < 1.5  # 0.1 s on an idle machine


def test_matching_is_vectorised_enough_for_a_full_genome():
    symbols = list(human_genes().id_of)[:30000]
    match = match_genes(symbols[::-1], GeneVocab(symbols))
    assert (match.id_g == np.arange(30000)[::-1]).all()
