"""Images, labels and annotations: from folders and zips to batches."""
