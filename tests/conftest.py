"""What all tests share: cases of hypothesis have no deadline, which a busy machine would miss."""

from hypothesis import settings

settings.register_profile("headcount", deadline=None)
settings.load_profile("headcount")
