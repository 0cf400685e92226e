"""Simple competitors that stand beside every model: minutes on one core, no pre-training, nothing hidden."""

from cellwright.baselines.annotation import ANNOTATION_BASELINES, AnnotationBaseline

__all__ = ["ANNOTATION_BASELINES", "AnnotationBaseline"]
