"""What a network scores: evaluators, cached prefixes, folding, sensitivity scans."""
