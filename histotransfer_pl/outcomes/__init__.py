"""What is predicted: classes, labels, a value or survival, from the table to the metrics."""
