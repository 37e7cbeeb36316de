"""Image sizes that the networks can have."""

MIN_RESOLUTION = 8


def is_resolution(number: int) -> bool:
    """Whether images may have this width in pixels: 8, 16, 32 and so on."""
    return number >= MIN_RESOLUTION and is_power_of_two(number)


def is_power_of_two(number: int) -> bool:
    """Whether a number is 1, 2, 4, 8 and so on."""
    return number > 0 and number & (number - 1) == 0
