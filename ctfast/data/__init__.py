"""Preparing CT data for training and evaluation: resampling, alignment, body label, data sets."""
