"""Rows into tiles and out of them, and the walk through a plan's steps."""
