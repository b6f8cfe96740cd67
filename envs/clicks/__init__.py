"""Click models: what is clicked on a slate, given how attractive each item is."""
