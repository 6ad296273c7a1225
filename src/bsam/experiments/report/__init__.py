"""A comparison as one web page that needs nothing but itself."""

from bsam.experiments.report.page import write_page

__all__ = ["write_page"]
