"""TODO: owner writes."""
