"""Where the report was before `camtrain.report`: scripts and notebooks import it from here."""

from camtrain.report import REPORT_FILE, ReportPage, write_report

__all__ = ["REPORT_FILE", "ReportPage", "write_report"]
