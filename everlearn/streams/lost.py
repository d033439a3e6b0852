"""What a feed raises when it cannot go on exactly where it was."""


class LostError(ValueError):
    """What stood at a position, or what should come after it, is not there any more.

    The source was cut off, replaced, set back or cleared behind its reader's back. To go on as if nothing had happened
    would leave rows out, or learn others twice, without a word; so whoever knows what happened decides: `seek(None)`
    reads all that is there, any other position goes on from there.
    """
