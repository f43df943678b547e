"""Structure over a tile."""
