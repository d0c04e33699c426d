"""Calibration: from images to the table of activation ranges that quantisation needs."""
