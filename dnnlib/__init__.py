"""Small general helpers that know nothing of images or networks."""
