"""The HTML report: one file, nothing loaded, everything escaped, every part where it belongs."""

import base64
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from unit.evaluate.made_up import METHODS, made_up_cells, made_up_evaluation

from cellwright.evaluate import Cells, Evaluation, Score, Section, Table, verdict, write_report
from cellwright.evaluate.measures import Measure

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> & {{ 7 * 7 }} </style>'


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.ids = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)

    def of(self, attribute):
        return [value for _, name, value in self.attributes if name == attribute]


def page_of(evaluation, folder):
    return Page(write_report(evaluation, folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_of(made_up_evaluation(), tmp_path_factory.mktemp("report"))


def test_sections_stand_in_order(page):
    assert page.of("id") == [
        "comparison", "data", "training", "cells", "classes", "calibration", "tables", "cost", "provenance",
        "credit", "limitations",
    ]  # fmt: skip
    assert page.text.index("Fine-tuning the pre-trained") < page.text.index(verdict(made_up_evaluation()))
    assert page.text.index(verdict(made_up_evaluation())) < page.text.index("trained parameters")


def test_many_scores_stand_in_tables_below_each_other(tmp_path):
    """A page is as wide as six of them; every score is there once, every method in each table."""
    names = [f"score {k}" for k in range(13)]
    measures = {name: Measure(label=name, what=f"what {name} says") for name in names}
    scores = {name: Score(value=k / 20, low=k / 20, high=k / 20 + 0.01) for k, name in enumerate(names)}
    methods = tuple(method.model_copy(update={"scores": scores}) for method in METHODS)
    many = made_up_evaluation(
        measures=measures, primary_metric="score 0", methods=methods, differences=(), sections=(), cells=Cells(),
        cells_method="",
    )  # fmt: skip
    text = write_report(many, tmp_path / "report.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="comparison">') :]
    tables = section[: section.index("</section>")].split("<table")[1:]
    heads = [[name for name in names if f">{name}</th>" in table] for table in tables]
    assert [name for head in heads for name in head] == names
    assert [len(head) for head in heads] == [4, 5, 4]
    for table in tables:
        assert all(f'<span class="name">{method.name}</span>' in table for method in methods)
    assert [">trained parameters</th>" in table for table in tables] == [False, False, True]
    assert [METHODS[0].what in table for table in tables] == [True, False, False]
    assert text.count('title="what score 3 says; any number, higher is better"') == 1


def test_a_table_of_many_columns_keeps_its_first_one_in_sight(tmp_path):
    wide = Table(columns=("type", *"abcdefghij"), rows=(("B", *range(10)),))
    few = Table(columns=("type", "a"), rows=(("B", 1),))
    part = Section(heading="Types", tables={"wide": wide, "few": few})
    text = write_report(made_up_evaluation(sections=(part,)), tmp_path / "report.html").read_text(encoding="utf-8")
    assert [text.count(opening) for opening in ('<table class="many">\n<caption>wide', "<table>\n<caption>few")] == [
        1,
        1,
    ]
    assert ".many td:first-child { position: sticky; left: 0;" in text


def test_the_contents_are_there(page):
    for words in (
        "0.861 [0.848, 0.873]", "7.2 min", "3,412,998", "13,670", "conventional dendritic cell", "21.0 min", "2.31 GB",
        "unknown", "a" * 64, "CC BY 4.0", "10.1038/s41592-024-02201-0", "sorted population", "Few labelled cells",
        "95 % bootstrap intervals", "seed 0",
    ):  # fmt: skip
        assert words in page.text, words


def test_nothing_is_loaded_or_run(page):
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert page.of("src")
    assert all(value.startswith("data:image/svg+xml;base64,") for value in page.of("src"))
    assert all(value.startswith("#") for value in page.of("href"))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    style = page.words[page.words.index(next(w for w in page.words if ":root" in w))]
    assert "url(" not in style
    assert "@import" not in style
    assert any("default-src 'none'" in value for value in page.of("content"))


def test_every_image_has_words_and_every_link_a_target(page):
    assert len(page.of("alt")) == len(page.of("src")) == 5
    assert {value[1:] for value in page.of("href")} == set(page.of("id"))


def test_everything_is_escaped(tmp_path):
    classes = tuple(f"{EVIL} {i}" for i in range(8))
    methods = tuple(m.model_copy(update={"name": f"{m.name} {EVIL}", "what": EVIL}) for m in METHODS)
    evaluation = made_up_evaluation(
        title=EVIL, task=EVIL, created=EVIL, headline=EVIL, summary=(EVIL,), classes=classes, methods=methods,
        differences=(), cells_method="", interval_note=EVIL, citations=(EVIL,), licences=(EVIL,), limitations=(EVIL,),
        contracts=(Section(heading=EVIL, lines=(EVIL,), facts={EVIL: EVIL}),),
        tables={EVIL: Table(columns=(EVIL,), rows=((EVIL,),), note=EVIL)},
        cells=made_up_cells(300, group_names=(EVIL, "b")),
    )  # fmt: skip
    page = page_of(evaluation, tmp_path)
    assert "script" not in page.tags
    assert page.tags.count("img") == 5
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count('<script>alert("x")</script><img src=x onerror=alert(1)> & {{ 7 * 7 }} </style>') > 30
    assert page.tags.count("style") == 1
    for source in page.of("src"):
        assert b"<script" not in base64.b64decode(source.partition(",")[2])


def test_the_same_evaluation_gives_the_same_bytes_also_after_saving(tmp_path):
    evaluation = made_up_evaluation(cells=made_up_cells(200), curves=())
    evaluation.save(tmp_path / "saved")
    first = write_report(evaluation, tmp_path / "a.html").read_bytes()
    assert write_report(Evaluation.load(tmp_path / "saved"), tmp_path / "b.html").read_bytes() == first


def test_best_of_each_column_is_bold(tmp_path):
    text = write_report(made_up_evaluation(cells=Cells(), curves=()), tmp_path / "a.html").read_text()
    assert '<td class="num best">0.861' in text
    assert '<td class="num">0.841' in text
    assert '<td class="num best">0.041' in text  # the smallest calibration error


def test_a_winning_baseline_is_in_the_headline_box(tmp_path):
    weak = METHODS[0].model_copy(update={"scores": METHODS[0].scores | {"macro_f1": Score(value=0.2)}})
    evaluation = made_up_evaluation(methods=(weak, *METHODS[3:]), differences=(), cells=Cells(), curves=())
    assert "A baseline wins: pca_logistic has the best macro-F1 (0.841)" in page_of(evaluation, tmp_path).text


def test_parts_without_data_are_left_out(tmp_path):
    evaluation = made_up_evaluation(
        cells=Cells(),
        classes=(),
        curves=(),
        contracts=(),
        tables={},
        citations=(),
        licences=(),
        limitations=(),
    )
    page = page_of(evaluation, tmp_path)
    assert page.of("id") == ["comparison", "cost", "provenance"]
    assert {value[1:] for value in page.of("href")} == set(page.of("id"))
    assert len(page.of("src")) == 1


def test_cells_without_a_known_class_are_counted_not_scored(tmp_path):
    cells = made_up_cells(300)
    cells.truth_n[:40] = -1
    evaluation = made_up_evaluation(cells=replace(cells, umap_n2=None), curves=())
    text = page_of(evaluation, tmp_path).text
    assert "260 cells are scored" in text
    assert "40 cells without a known class are not scored" in text


def test_a_large_report_stays_small(tmp_path):
    names = tuple(f"cell type with a long name, number {i}" for i in range(60))
    evaluation = made_up_evaluation(classes=names, cells=made_up_cells(8_000, 60), curves=())
    assert write_report(evaluation, tmp_path / "a.html").stat().st_size < 1_500_000


def test_an_existing_file_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("cellwright.evaluate.report.verdict", lambda evaluation: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(made_up_evaluation(cells=Cells()), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_importing_the_room_is_cheap():
    code = (
        "import sys, cellwright.evaluate, cellwright.baselines; "
        "print({'matplotlib', 'jinja2', 'umap', 'sklearn', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
