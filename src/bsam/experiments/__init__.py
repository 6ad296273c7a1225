"""Experiments on real data: data, models, methods, training; extra ``experiments``."""
