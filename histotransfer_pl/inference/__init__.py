"""A trained model on new slides."""
