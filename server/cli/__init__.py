"""The command line: one file a command. Nothing here loads PyTorch; what is slow to import is imported when it is used."""
