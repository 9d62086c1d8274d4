"""What can be wrong with a request to change or look at heads."""


class HeadsError(Exception):
    """Something that a model, a text or a number of heads does not allow; the message says what, the limit and a remedy."""
