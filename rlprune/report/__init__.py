"""What people see of a run: the live display, the final table, pictures, TensorBoard."""
