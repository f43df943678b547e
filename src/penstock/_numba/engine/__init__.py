"""Tiles of rows, workspaces, gradient reduction, threads, Adam."""
