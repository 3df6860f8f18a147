"""Finds the training data of a host and describes it in a proof pack. No file found is changed."""
