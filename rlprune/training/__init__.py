"""The one training loop, its settings and penalties."""
