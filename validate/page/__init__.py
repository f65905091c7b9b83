"""report.html, drawn from a report and its predictions."""
