"""What operators do to labels: a module for each kind of operator, and the table of all rules."""
