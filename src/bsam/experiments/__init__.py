"""Experiments on real data: data, models, methods, training, evaluation; extra ``experiments``."""
