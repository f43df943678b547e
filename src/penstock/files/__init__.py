"""Files of flows: the container, and what a model's file holds in it. Nothing here knows Flow."""
