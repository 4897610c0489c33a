"""Errors about an image; str(error) is a sentence for whoever sent it."""


class ImageUnreadable(Exception):
    """Empty, not an image, cut short, corrupt or of a kind that is not read."""


class ImageTooLarge(Exception):
    """More pixels than allowed, found from the header before any was decoded."""
