"""Methods side by side in words and text: who wins, by how much, and whether these cells settle it."""

from __future__ import annotations

from collections.abc import Sequence

from cellwright.evaluate.evaluation import Evaluation
from cellwright.evaluate.measures import Measure
from cellwright.evaluate.parts import Method, Score

_TEXT_COLUMNS = 5
"""Metrics beside each other in a terminal."""


def metric_columns(evaluation: Evaluation) -> list[str]:
    """Return the metrics that any method was scored by: the primary first, the others in the measures' order."""
    found = {name for method in evaluation.methods for name in method.scores} - {evaluation.primary_metric}
    return [evaluation.primary_metric, *(name for name in evaluation.measures if name in found)]


def drawn_metrics(evaluation: Evaluation) -> dict[str, Measure]:
    """Return the metrics of the comparison figure that any method was scored by, and their measures."""
    columns = metric_columns(evaluation)
    names = [name for name in evaluation.drawn if name in columns] or columns[:3]
    return {name: evaluation.measures[name] for name in names}


def ranked(methods: Sequence[Method], name: str, measure: Measure) -> list[Method]:
    """Return the methods, best first; the roof leads, those without the score come last, ties in the given order."""

    def key(method: Method) -> tuple[bool, bool, float]:
        score = method.scores.get(name)
        return (score is None, method.bound != "roof", 0.0 if score is None else measure.gap(score.value))

    return sorted(methods, key=key)


def best_methods(evaluation: Evaluation, name: str) -> set[str]:
    """Return the names of the methods whose score, as printed, no other surpasses; the roof does not compete."""
    order = ranked(evaluation.methods, name, evaluation.measures[name])
    scored = [method for method in order if name in method.scores and method.bound != "roof"]
    if not scored:
        return set()
    top = _printed_gap(evaluation, name, scored[0])
    return {method.name for method in scored if _printed_gap(evaluation, name, method) == top}


def _printed_gap(evaluation: Evaluation, name: str, method: Method) -> float:
    return round(evaluation.measures[name].gap(float(format_number(method.scores[name].value))), 6)


def format_number(value: float) -> str:
    """Return a score's value to three decimals, large ones to one."""
    value = round(value, 3) + 0.0  # never -0.000
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def format_score(score: Score) -> str:
    """Return the value as `format_number` does."""
    return format_number(score.value)


def format_interval(score: Score) -> str:
    """Return ``[low, high]``, or nothing where no interval was computed."""
    return "" if score.low is None else f"[{format_number(score.low)}, {format_number(score.high)}]"


def verdict(evaluation: Evaluation) -> str:
    """Say plainly which method is best by the primary metric, whether it is a baseline, and how sure that is."""
    name, measure = evaluation.primary_metric, evaluation.measures[evaluation.primary_metric]
    label = measure.label
    order = [method for method in ranked(evaluation.methods, name, measure) if method.bound != "roof"]
    models = [method for method in order if not method.is_baseline]
    baselines = [method for method in order if method.is_baseline]
    if not models or not baselines:
        if not order:
            return "Only a roof was run; there is nothing to compare it with."
        best, (kind, other) = order[0], ("models", "baseline") if models else ("baselines", "model")
        count = f" of {len(order)} {kind}" if len(order) > 1 else ""
        first = f"{best.name} has the best {label} ({format_score(best.scores[name])}){count}"
        if not count:
            first = f"{best.name} has the {label} {format_score(best.scores[name])}"
        return (
            f"{first}; no {other} was run, so this says nothing about the worth of {'a model' if models else 'models'}."
        )
    best = order[0]
    model, baseline = models[0], baselines[0]
    reached = {method.name: format_score(method.scores[name]) for method in (model, baseline)}
    if reached[model.name] == reached[baseline.name]:
        first = f"No winner: {model.name} and the baseline {baseline.name} both reach {label} {reached[model.name]}."
    elif best.is_baseline:
        first = (
            f"A baseline wins: {baseline.name} has the best {label} ({reached[baseline.name]}); "
            f"the best model, {model.name}, reaches {reached[model.name]}."
        )
    else:
        first = (
            f"{model.name} has the best {label} ({reached[model.name]}); "
            f"the best baseline, {baseline.name}, reaches {reached[baseline.name]}."
        )
    return " ".join(
        [first, _certainty(evaluation, model, baseline), *_bounds(evaluation), *_other_winners(evaluation, best)]
    )


def _certainty(evaluation: Evaluation, model: Method, baseline: Method) -> str:
    name = evaluation.primary_metric
    for difference in evaluation.differences:
        if difference.metric == name and {difference.method, difference.other} == {model.name, baseline.name}:
            sign = 1 if difference.method == model.name else -1
            low, high = sorted((sign * difference.low, sign * difference.high))
            text = f"The difference, model minus baseline on the same cells, is {sign * difference.value:+.3f} "
            text += f"[{low:+.3f}, {high:+.3f}]"
            return f"{text}, so these cells do not settle it." if low <= 0 <= high else f"{text}, which excludes zero."
    ours, theirs = model.scores[name], baseline.scores[name]
    if ours.low is None or theirs.low is None:
        return "No interval was computed, so it is not known how sure that is."
    if ours.low <= theirs.high and theirs.low <= ours.high:
        return "Their intervals overlap, so the order is not settled by these alone."
    return "Their intervals do not overlap."


def _bounds(evaluation: Evaluation) -> list[str]:
    name = evaluation.primary_metric
    found = {method.bound: method for method in reversed(evaluation.methods) if method.bound and name in method.scores}
    words = [
        f"the {kind}, {found[kind].name}, {format_score(found[kind].scores[name])}"
        for kind in ("floor", "roof")
        if kind in found
    ]
    return [f"For scale: {' and '.join(words)}."] if words else []


def _other_winners(evaluation: Evaluation, best: Method) -> list[str]:
    kinds = {method.name: method.kind for method in evaluation.methods}
    found: dict[str, list[str]] = {}
    for name in metric_columns(evaluation)[1:]:
        winners = best_methods(evaluation, name)
        if winners and best.name not in winners:
            measure = evaluation.measures[name]
            first = next(method.name for method in ranked(evaluation.methods, name, measure) if method.name in winners)
            found.setdefault(first, []).append(measure.label)
    return [f"By {_listed(labels)} the {kinds[name]} {name} is ahead." for name, labels in found.items()]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def table_text(evaluation: Evaluation) -> str:
    """Return the comparison as aligned plain text, best method first; a star marks the best of each column.

    More than five metrics are written below each other, in blocks.
    """
    columns = metric_columns(evaluation)
    chunks = [columns[at : at + _TEXT_COLUMNS] for at in range(0, len(columns), _TEXT_COLUMNS)]
    blocks = [_aligned(*_text_rows(evaluation, chunk, chunk is chunks[-1])) for chunk in chunks]
    notes = [f"* best of its column. {evaluation.interval_note}".rstrip()]
    return "\n".join([*"\n\n".join(blocks).split("\n"), "", *notes, verdict(evaluation)])


def _text_rows(evaluation: Evaluation, columns: Sequence[str], is_last: bool) -> tuple[list[list[str]], int]:
    """Return rows of text, headings first, and how many columns of them begin at the left."""
    best = {name: best_methods(evaluation, name) for name in columns}
    costs = [name for name in ("seconds", "trained_parameters") if is_last and _is_given(evaluation, name)]
    labels = [evaluation.measures[name].label for name in columns]
    rows = [["method", "kind", *labels, *(name.replace("_", " ") for name in costs)]]
    primary = evaluation.primary_metric
    for method in ranked(evaluation.methods, primary, evaluation.measures[primary]):
        cells = [method.name, method.kind]
        for name in columns:
            score = method.scores.get(name)
            star = "*" if method.name in best[name] else " "
            cells.append("-" if score is None else f"{format_score(score)}{star} {format_interval(score)}".rstrip(" "))
        for name in costs:
            cost = getattr(method, name)
            cells.append("-" if cost is None else f"{cost:.1f}" if name == "seconds" else f"{cost:,}")
        rows.append(cells)
    return rows, 2 + len(columns)


def _is_given(evaluation: Evaluation, name: str) -> bool:
    return any(getattr(method, name) is not None for method in evaluation.methods)


def _aligned(rows: list[list[str]], num_left: int) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if i < num_left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
