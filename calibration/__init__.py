"""Calibration: computes from images the table of activation ranges that quantisation needs."""
