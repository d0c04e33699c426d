"""Compares a bundle's engines on this device and recommends one.

`contest` opens and measures them, `comparison` puts the numbers side by side, `recommend` decides,
`command` prints and writes; `vit_edge.runtime.tools.report` draws.
"""
