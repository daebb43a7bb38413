"""The one engine that plays recipes."""
