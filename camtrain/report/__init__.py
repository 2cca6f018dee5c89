"""A run as people read it: one page, and lines on the terminal."""

from camtrain.report.page import REPORT_FILE, ReportPage, write_report

__all__ = ["REPORT_FILE", "ReportPage", "write_report"]
