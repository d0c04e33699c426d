"""The report's pictures: each a function from the comparison to SVG, or None without its data."""
