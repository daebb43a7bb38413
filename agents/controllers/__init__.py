"""Controllers: what sets the pruning rates. A module each."""
