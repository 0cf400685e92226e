"""Methods side by side in words and text: who wins, by how much, and whether these cells settle it."""

from __future__ import annotations

from collections.abc import Sequence

from cellwright.evaluate.evaluation import Evaluation, Method, Score
from cellwright.metrics import METRICS

_LABELS = {"macro_f1": "macro-F1", "macro_f1_present": "macro-F1, true classes", "weighted_f1": "weighted-F1"}
_CAPITALS = ("nmi", "ari", "ece")


def metric_label(name: str) -> str:
    """Return a metric's name as a reader wants it."""
    return _LABELS.get(name) or (name.upper() if name in _CAPITALS else name.replace("_", " "))


def metric_columns(evaluation: Evaluation) -> list[str]:
    """Return the metrics that any method was scored by: the primary first, the others in the table's order."""
    found = {name for method in evaluation.methods for name in method.scores} - {evaluation.primary_metric}
    return [evaluation.primary_metric, *(name for name in METRICS if name in found)]


def ranked(methods: Sequence[Method], metric_name: str) -> list[Method]:
    """Return the methods, best first; those without the score last, ties in the given order."""
    sign = -1 if METRICS[metric_name].is_higher_better else 1

    def key(method: Method) -> tuple[bool, float]:
        score = method.scores.get(metric_name)
        return (score is None, 0.0 if score is None else sign * score.value)

    return sorted(methods, key=key)


def best_methods(evaluation: Evaluation, metric_name: str) -> set[str]:
    """Return the names of the methods whose score, as printed to three decimals, no other surpasses."""
    scored = [method for method in ranked(evaluation.methods, metric_name) if metric_name in method.scores]
    if not scored:
        return set()
    top = format_score(scored[0].scores[metric_name])
    return {method.name for method in scored if format_score(method.scores[metric_name]) == top}


def format_score(score: Score) -> str:
    """Return the value to three decimals."""
    return f"{score.value:.3f}"


def format_interval(score: Score) -> str:
    """Return ``[low, high]``, or nothing where no interval was computed."""
    return "" if score.low is None else f"[{score.low:.3f}, {score.high:.3f}]"


def verdict(evaluation: Evaluation) -> str:
    """Say plainly which method is best by the primary metric, whether it is a baseline, and how sure that is."""
    name = evaluation.primary_metric
    label = metric_label(name)
    order = ranked(evaluation.methods, name)
    models = [method for method in order if not method.is_baseline]
    baselines = [method for method in order if method.is_baseline]
    best = order[0]
    if not models or not baselines:
        kind, other = ("models", "baseline") if models else ("baselines", "model")
        return (
            f"{best.name} has the best {label} ({format_score(best.scores[name])}) of {len(order)} {kind}; "
            f"no {other} was run, so this says nothing about the worth of {'a model' if models else 'models'}."
        )
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
    return " ".join([first, _certainty(evaluation, model, baseline), *_other_winners(evaluation, best)])


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


def _other_winners(evaluation: Evaluation, best: Method) -> list[str]:
    kinds = {method.name: "baseline" if method.is_baseline else "model" for method in evaluation.methods}
    found: dict[str, list[str]] = {}
    for name in metric_columns(evaluation)[1:]:
        winners = best_methods(evaluation, name)
        if best.name not in winners:
            first = next(method.name for method in ranked(evaluation.methods, name) if method.name in winners)
            found.setdefault(first, []).append(metric_label(name))
    return [f"By {_listed(labels)} the {kinds[name]} {name} is ahead." for name, labels in found.items()]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def table_text(evaluation: Evaluation) -> str:
    """Return the comparison as aligned plain text, best method first; a star marks the best of each column."""
    columns = metric_columns(evaluation)
    best = {name: best_methods(evaluation, name) for name in columns}
    rows = [["method", "kind", *(metric_label(name) for name in columns), "seconds", "trained parameters"]]
    for method in ranked(evaluation.methods, evaluation.primary_metric):
        cells = [method.name, "baseline" if method.is_baseline else "model"]
        for name in columns:
            score = method.scores.get(name)
            star = "*" if method.name in best[name] else " "
            cells.append("-" if score is None else f"{format_score(score)}{star} {format_interval(score)}".rstrip(" "))
        cells.append("-" if method.seconds is None else f"{method.seconds:.1f}")
        cells.append("-" if method.trained_parameters is None else f"{method.trained_parameters:,}")
        rows.append(cells)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    num_left = 2 + len(columns)
    lines = [
        "  ".join(
            text.ljust(width) if i < num_left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    notes = [f"* best of its column. {evaluation.interval_note}".rstrip()]
    return "\n".join([lines[0], rule, *lines[1:], "", *notes, verdict(evaluation)])
