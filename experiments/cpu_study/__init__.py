"""A declared comparison of trainings with and without GGDR on CPUs."""
