"""Finds the fastest way to run a precision on this device, among those that compute the same."""
