"""How well a detector detects, and what it costs."""

from greedyprune.evaluation.ap import coco_ap
from greedyprune.evaluation.detections import Detections
from greedyprune.evaluation.draw import draw_detections, draw_pairs
from greedyprune.evaluation.evaluate import evaluate, subset_ids
from greedyprune.evaluation.metrics import METRICS
from greedyprune.evaluation.predict import predict_detections
from greedyprune.evaluation.profile import count_flops, count_parameters, measure_latency
from greedyprune.evaluation.result import Costs, EvalResult
from greedyprune.evaluation.vectorized import CocoEvaluator

__all__ = [
    "METRICS",
    "CocoEvaluator",
    "Costs",
    "Detections",
    "EvalResult",
    "coco_ap",
    "count_flops",
    "count_parameters",
    "draw_detections",
    "draw_pairs",
    "evaluate",
    "measure_latency",
    "predict_detections",
    "subset_ids",
]
