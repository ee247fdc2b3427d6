"""Report: tables in, one HTML file out."""
