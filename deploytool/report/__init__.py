"""What people open: a run as one self-contained page, and the same for machines as a JSON Schema and JUnit XML."""

PAGE = "report.html"  # beside the rooms of a run
