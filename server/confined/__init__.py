"""Work whose length a client decides, in processes that can be ended: chat templates and grammars."""
