"""Presents a run: a self-contained HTML page, JUnit XML, and the JSON Schema of report.json."""

PAGE = "report.html"  # file name of the page in a run's folder
