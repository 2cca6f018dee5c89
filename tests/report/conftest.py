from tests.sinks.conftest import make_document, make_panel, make_pass

__all__ = ["make_document", "make_panel", "make_pass"]
