"""The deployment report as JSON, CSV, Markdown, HTML and SVG."""
