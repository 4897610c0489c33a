"""What can be wrong with an image that somebody sent; each says so in a sentence meant for that person."""


class ImageUnreadable(Exception):
    """Empty, not an image, cut short, corrupt or of a kind that is not read."""


class ImageTooLarge(Exception):
    """More pixels than allowed, found from the header before any was decoded."""
