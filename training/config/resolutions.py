"""Which image sizes the networks can have."""

MIN_RESOLUTION = 8


def is_resolution(number: int) -> bool:
    """Whether images may be so many pixels wide: 8, 16, 32, …"""
    return number >= MIN_RESOLUTION and is_power_of_two(number)


def is_power_of_two(number: int) -> bool:
    """True for 1, 2, 4, 8, …"""
    return number > 0 and number & (number - 1) == 0
