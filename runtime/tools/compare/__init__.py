"""Compares a bundle's engines on this device and recommends one.

`contest` opens and measures them, `comparison` puts the numbers side by side, `recommend` decides,
`files` writes `report.json` and `report.html`; `page` and `charts` draw it.
"""
